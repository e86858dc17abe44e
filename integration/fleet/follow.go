package fleet

import (
	"context"
	"fmt"
	"sync"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/internal/contracts"
)

// follower is one Watch in the background.
type follower struct {
	done chan struct{}

	mu   sync.Mutex
	what check.Follower
}

// Follow watches an invocation to its end; the checker compares what it saw with what is stored.
func (f *Fleet) Follow(c *runnel.Client, tenant, id, name string) {
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	w := &follower{done: make(chan struct{}), what: check.Follower{Key: check.Key{Tenant: tenant, ID: id}, Name: name}}
	f.mu.Lock()
	f.followers = append(f.followers, w)
	f.mu.Unlock()
	go func() {
		defer close(w.done)
		for event, err := range c.Watch(ctx, id) {
			w.mu.Lock()
			if err != nil {
				w.what.Err = err
			} else {
				w.what.Events = append(w.what.Events, event)
			}
			w.mu.Unlock()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.what.Ended = ctx.Err() == nil
	}()
}

func (w *follower) seen() check.Follower {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.what
}

// awaitFollowers waits until every Watch has returned; one that does not is for the checker to name.
func (f *Fleet) awaitFollowers() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for _, w := range f.followers {
		select {
		case <-w.done:
		case <-ctx.Done():
			return
		}
	}
}

// find returns the follower with a name, or nil.
func (f *Fleet) find(name string) *follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.followers {
		if w.what.Name == name {
			return w
		}
	}
	return nil
}

// Ended reports whether a Watch has returned.
func (f *Fleet) Ended(name string) bool {
	w := f.find(name)
	return w != nil && w.seen().Ended
}

// Output returns what a follower has seen so far.
func (f *Fleet) Output(name string) (pieces []contracts.Piece) {
	w := f.find(name)
	if w == nil {
		return nil
	}
	for _, e := range w.seen().Events {
		if e.Type == contracts.EventOutput {
			pieces = append(pieces, *e.Output)
		}
	}
	return pieces
}

// Bytes returns how much output of a stream a follower has seen so far.
func (f *Fleet) Bytes(name string, stream contracts.Stream) (n int64, err error) {
	w := f.find(name)
	if w == nil {
		return 0, fmt.Errorf("no follower %q", name)
	}
	for _, e := range w.seen().Events {
		if e.Type == contracts.EventOutput && e.Output.Stream == stream {
			n += int64(len(e.Output.Data))
		}
	}
	return n, nil
}

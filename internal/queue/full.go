package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// fullAgain is how long nothing more is said of a stream that is full or dead: everything that ends waits for it.
	fullAgain = 30 * time.Second
	// answeredLately is how shortly before a message the server must have answered for its stream to be there.
	answeredLately = 5 * time.Second
)

// full says that what cannot be stored waits for room, if that is why err.
func (t *Taker) full(s *Store, err error) {
	if errors.Is(err, ErrFull) {
		t.sayOnce(s, fmt.Errorf("%s has no room, what is to be stored waits: %w", s.stream, err))
	}
}

// silent says that a stream takes nothing although its server is there, if that is why a message that was sent then came
// to err: one that could not be written to the disk is not answered, and nor is any after it until the server is started again.
func (t *Taker) silent(ctx context.Context, s *Store, sent time.Time, err error) {
	if !errors.Is(err, ErrUnknown) || !t.nc.IsConnected() {
		return
	}
	t.mu.Lock()
	there := t.answered[s.stream]
	ask := time.Since(t.askedFor[s.stream]) > time.Second // everything that ends comes here
	if ask {
		t.askedFor[s.stream] = time.Now()
	}
	t.mu.Unlock()
	if sent.After(there) && sent.Sub(there) < answeredLately {
		t.sayOnce(s, fmt.Errorf("%s stores nothing although its server answers, what is to be stored waits: see the server's log; "+
			"if its disk was full, make room and then restart it: %w", s.stream, err))
	}
	if !ask {
		return
	}
	// A leader that was elected meanwhile answers too, and then takes the next message.
	if _, err := s.info(ctx); err == nil {
		t.mu.Lock()
		t.answered[s.stream] = time.Now()
		t.mu.Unlock()
	}
}

// sayOnce reports what is wrong with a stream, unless that was said lately.
func (t *Taker) sayOnce(s *Store, problem error) {
	t.mu.Lock()
	now := time.Now()
	said := now.Sub(t.saidFull[s.stream]) < fullAgain
	if !said {
		t.saidFull[s.stream] = now
	}
	t.mu.Unlock()
	if !said {
		t.cfg.Problem(problem)
	}
}

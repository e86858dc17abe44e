package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// windowTokens bounds what is unconfirmed of one run: each stands for a message, or for 64 KiB of its output; 2.5 MiB in all.
	windowTokens = 40
	// What a whole chunk of a few pieces takes, encoded, beside its output. Of an output that comes fast each chunk would be new memory.
	aroundChunk = contracts.MaxStateBytes + 2<<10
)

// chunkRoom is memory for encoded chunks of up to so much output, which is used again.
type chunkRoom struct {
	output int
	free   sync.Pool // *[]byte
}

var chunkRooms = [...]*chunkRoom{{output: contracts.MaxChunkBytes}, {output: 2 * contracts.MaxChunkBytes}, {output: contracts.MaxFloodChunkBytes}}

// encodeChunk encodes c as encode does; what is large, in memory that may be given back by spare.
func (d *Delivery) encodeChunk(c contracts.Chunk) ([]byte, error) {
	size := outputOf(c)
	if d.json || size < contracts.MaxChunkBytes/4 {
		return d.encode(c)
	}
	for _, r := range chunkRooms {
		if size <= r.output {
			room, ok := r.free.Get().(*[]byte)
			if !ok {
				room = new(make([]byte, r.output+aroundChunk))
			}
			return contracts.EncodeInto(*room, c)
		}
	}
	return d.encode(c)
}

func outputOf(c contracts.Chunk) (size int) {
	for _, p := range c.Pieces {
		size += len(p.Data)
	}
	return size
}

// spare gives back what encodeChunk returned.
func spare(data []byte) {
	for _, r := range chunkRooms {
		if cap(data) == r.output+aroundChunk {
			data = data[:cap(data)]
			r.free.Put(&data)
		}
	}
}

// enter takes tokens of the window, as soon as there are so many. Only one at a time waits for its tokens: two that had some each
// would wait for each other.
func (d *Delivery) enter(ctx context.Context, tokens int) error {
	select {
	case d.entrance <- struct{}{}:
		defer func() { <-d.entrance }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for n := range tokens {
		select {
		case d.window <- struct{}{}:
		case <-ctx.Done():
			d.leave(n)
			return context.Cause(ctx)
		}
	}
	return nil
}

// leave gives back tokens of the window.
func (d *Delivery) leave(tokens int) {
	for range tokens {
		<-d.window
	}
}

// startSoon sends the start without waiting, ahead of the first chunk or after a second.
func (d *Delivery) startSoon() {
	d.mu.Lock()
	if d.starting || d.over || d.ended != nil {
		d.mu.Unlock()
		return
	}
	d.starting = true
	d.mu.Unlock()
	subject, data, err := d.startMessage()
	if err != nil {
		d.t.cfg.Problem(err)
		return
	}
	if err := d.enter(context.Background(), 1); err != nil { // never: what is sent is answered, or its time ends
		return
	}
	d.emitted.Store(true)
	d.send(subject, data, 1, func(seq uint64, _ bool) {
		d.mu.Lock()
		d.startSeq = seq
		d.mu.Unlock()
		d.t.cfg.Step(StepStarted, d.addr.ID, d.run)
	})
}

// Emit stores a chunk of the run without waiting for it: Settle does. It blocks while
// too much is unconfirmed; that is the back-pressure on the work.
func (d *Delivery) Emit(ctx context.Context, c contracts.Chunk) error {
	if c.N == 1 {
		d.startSoon()
	}
	data, err := d.encodeChunk(c)
	if err != nil {
		return err
	}
	tokens := max(1, (outputOf(c)+contracts.MaxChunkBytes-1)/contracts.MaxChunkBytes)
	if err := d.enter(ctx, tokens); err != nil {
		return err
	}
	d.emitted.Store(true)
	if err := d.trouble(); err != nil {
		d.leave(tokens)
		return err
	}
	d.send(d.t.names.Chunk(d.addr.Tenant, d.addr.ID, d.run, c.N), data, tokens, func(_ uint64, once bool) {
		if once {
			spare(data)
		}
	})
	d.t.cfg.Step(StepChunkPublished, d.addr.ID, d.run)
	return nil
}

// send publishes until the message is stored or the lease is over, then gives back its tokens of the window. stored, if not nil, is
// called with its sequence, and with whether it was published only once: then nobody reads data any more.
func (d *Delivery) send(subject string, data []byte, tokens int, stored func(seq uint64, once bool)) {
	once := true
	wait := 50 * time.Millisecond
	var done func(seq uint64, err error)
	done = func(seq uint64, err error) {
		if err == nil || errors.Is(err, ErrOccupied) { // run names are used once: what is there is ours
			if stored != nil && err == nil {
				stored(seq, once)
			}
			d.leave(tokens)
			return
		}
		if hopeless(err) || d.trouble() != nil {
			d.mu.Lock()
			if d.failed == nil {
				d.failed = fmt.Errorf("store %s: %w", subject, err)
			}
			d.mu.Unlock()
			d.leave(tokens)
			return
		}
		once = false
		d.t.full(d.t.output, err)
		wait = min(2*wait, 2*time.Second)
		time.AfterFunc(wait, func() { d.t.output.PutAsync(subject, headerFor(d.json), data, done) })
	}
	d.t.output.PutAsync(subject, headerFor(d.json), data, done)
}

// trouble says why nothing more of this run should be stored.
func (d *Delivery) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	if errors.Is(d.ended, ErrLeaseLost) {
		return d.ended
	}
	return nil
}

// Settle waits until all that was emitted is stored.
func (d *Delivery) Settle(ctx context.Context) error {
	if err := d.Confirm(ctx); err != nil {
		return err
	}
	d.t.cfg.Step(StepChunksStored, d.addr.ID, d.run)
	return nil
}

// Confirm waits, in the middle of a run, until all that was emitted so far is stored.
func (d *Delivery) Confirm(ctx context.Context) error {
	if d.emitted.Load() {
		if err := d.enter(ctx, windowTokens); err != nil {
			return fmt.Errorf("confirm chunks: %w", err)
		}
		d.leave(windowTokens)
	}
	return d.trouble()
}

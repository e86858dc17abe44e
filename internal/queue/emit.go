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
	// chunksOpen bounds the unconfirmed chunks of one run: 3 MiB.
	chunksOpen = 48
	// chunkRoom holds a whole chunk of a few pieces, encoded. Of an output that comes fast each chunk would be new memory.
	chunkRoom = contracts.MaxChunkBytes + contracts.MaxStateBytes + 2<<10
)

// chunkRooms holds *[]byte of chunkRoom bytes.
var chunkRooms sync.Pool

// encodeChunk encodes c as encode does; what is large, in memory that may be given back by spare.
func (d *Delivery) encodeChunk(c contracts.Chunk) ([]byte, error) {
	size := 0
	for _, p := range c.Pieces {
		size += len(p.Data)
	}
	if d.json || size < contracts.MaxChunkBytes/4 {
		return d.encode(c)
	}
	room, ok := chunkRooms.Get().(*[]byte)
	if !ok {
		room = new(make([]byte, chunkRoom))
	}
	return contracts.EncodeInto(*room, c)
}

// spare gives back what encodeChunk returned.
func spare(data []byte) {
	if cap(data) == chunkRoom {
		data = data[:chunkRoom]
		chunkRooms.Put(&data)
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
	d.window <- struct{}{}
	d.emitted.Store(true)
	d.send(subject, data, func(seq uint64, _ bool) {
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
	select {
	case d.window <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d.emitted.Store(true)
	if err := d.trouble(); err != nil {
		<-d.window
		return err
	}
	d.send(d.t.names.Chunk(d.addr.Tenant, d.addr.ID, d.run, c.N), data, func(_ uint64, once bool) {
		if once {
			spare(data)
		}
	})
	d.t.cfg.Step(StepChunkPublished, d.addr.ID, d.run)
	return nil
}

// send publishes until the message is stored or the lease is over, then gives back a token of the window. stored, if not nil, is
// called with its sequence, and with whether it was published only once: then nobody reads data any more.
func (d *Delivery) send(subject string, data []byte, stored func(seq uint64, once bool)) {
	once := true
	first := time.Now()
	wait := 50 * time.Millisecond
	var done func(seq uint64, err error)
	done = func(seq uint64, err error) {
		if err == nil || errors.Is(err, ErrOccupied) { // run names are used once: what is there is ours
			if stored != nil && err == nil {
				stored(seq, once)
			}
			<-d.window
			return
		}
		if hopeless(err) || time.Since(first) > d.t.cfg.MaxDisconnect || d.trouble() != nil {
			d.mu.Lock()
			if d.failed == nil {
				d.failed = fmt.Errorf("store %s: %w", subject, err)
			}
			d.mu.Unlock()
			<-d.window
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
		for range chunksOpen {
			select {
			case d.window <- struct{}{}:
			case <-ctx.Done():
				return fmt.Errorf("confirm chunks: %w", context.Cause(ctx))
			}
		}
		for range chunksOpen {
			<-d.window
		}
	}
	return d.trouble()
}

package container

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// backlogBytes is how much of its output a setup may be ahead of the slowest that reads it.
const backlogBytes = 1 << 20

// backlog is the output of a setup on its way to everybody who waits for it. Who comes later reads from the beginning, as
// far as it is there. The slowest reader holds the setup back, as a full pipe does.
type backlog struct {
	mu      sync.Mutex
	pieces  []contracts.Piece
	first   int // the number of the first piece that is there
	bytes   int
	readers map[*reader]bool
	closed  bool
	news    chan struct{} // closed and replaced with each change
}

// reader is somebody who waits for a setup.
type reader struct {
	of   *backlog
	next int // the number of the piece to read
}

func newBacklog() *backlog {
	return &backlog{readers: map[*reader]bool{}, news: make(chan struct{})}
}

// Stream returns where one stream is written to. The setup is all one phase.
func (b *backlog) Stream(stream contracts.Stream, _ contracts.Phase) io.Writer {
	return writerFunc(func(data []byte) (int, error) {
		b.write(contracts.Piece{Stream: stream, Phase: contracts.PhaseSetup, Data: bytes.Clone(data)})
		return len(data), nil
	})
}

func (b *backlog) write(p contracts.Piece) {
	b.mu.Lock()
	for b.bytes > 0 && b.bytes+len(p.Data) > backlogBytes {
		if b.slowest() > b.first {
			b.bytes -= len(b.pieces[0].Data)
			b.pieces = b.pieces[1:]
			b.first++
			continue
		}
		news := b.news
		b.mu.Unlock()
		<-news
		b.mu.Lock()
	}
	b.pieces = append(b.pieces, p)
	b.bytes += len(p.Data)
	b.changed()
	b.mu.Unlock()
}

// slowest returns the number of the first piece that somebody has yet to read.
func (b *backlog) slowest() int {
	next := b.first + len(b.pieces)
	for r := range b.readers {
		next = min(next, r.next)
	}
	return next
}

func (b *backlog) changed() {
	close(b.news)
	b.news = make(chan struct{})
}

// close says that nothing more comes.
func (b *backlog) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed()
}

// reader returns a new reader, at the first piece that is there.
func (b *backlog) reader() *reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &reader{of: b, next: b.first}
	b.readers[r] = true
	return r
}

// close has nothing wait for the reader any more. It may be called twice.
func (r *reader) close() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	delete(r.of.readers, r)
	r.of.changed()
}

// copy writes what comes to out, until there is no more. An error is that of ctx, or of a write.
func (r *reader) copy(ctx context.Context, out runner.Sink) error {
	b := r.of
	for {
		b.mu.Lock()
		var p *contracts.Piece
		if at := r.next - b.first; at < len(b.pieces) {
			p = &b.pieces[at]
		}
		closed, news := b.closed, b.news
		b.mu.Unlock()
		if p == nil && closed {
			return nil
		}
		if p == nil {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-news:
			}
			continue
		}
		if _, err := out.Stream(p.Stream, p.Phase).Write(p.Data); err != nil {
			return err
		}
		b.mu.Lock()
		r.next++
		b.changed()
		b.mu.Unlock()
	}
}

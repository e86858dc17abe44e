package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Carry finds the newest run of this attempt that was lost or handed back and had noted where its work stood. It calls
// write with the output that the note stands for, in order, and returns the note; nil if there is none. A piece with Cut
// stands for output that was lost with that run's worker.
//
// Only what is stored without a gap before the note counts: a chunk may have been stored although one before it was not.
func (d *Delivery) Carry(ctx context.Context, write func(contracts.Piece) error) (state []byte, err error) {
	n, err := d.Note(ctx)
	if err != nil || n.Run == "" {
		return nil, err
	}
	if err := d.carry(ctx, n, write); err != nil {
		return nil, fmt.Errorf("carry over the output of run %s: %w", n.Run, err)
	}
	return n.State, nil
}

// Note is where the work of a run stood.
type Note struct {
	Run    string // "" is none
	State  []byte
	Chunks int // that are stored of it without a gap

	size int64 // of the output that State stands for
}

// Note finds what Carry does, and carries nothing.
func (d *Delivery) Note(ctx context.Context) (Note, error) {
	for _, run := range slices.Backward(d.lost) {
		chunks, noted, err := d.noted(ctx, run)
		if err != nil {
			return Note{}, fmt.Errorf("read run %s: %w", run, err)
		}
		if len(noted.State) > 0 {
			return Note{Run: run, State: noted.State, Chunks: chunks, size: noted.StateBytes}, nil
		}
	}
	return Note{}, nil
}

// noted returns how many chunks of a run are stored without a gap, and the last of them that has a note.
func (d *Delivery) noted(ctx context.Context, run string) (chunks int, noted contracts.Chunk, err error) {
	for n := 1; ; n++ {
		c, err := d.chunk(ctx, run, n)
		if errors.Is(err, ErrNotFound) {
			return n - 1, noted, nil
		}
		if err != nil {
			return 0, noted, err
		}
		if len(c.State) > 0 {
			noted = c
		}
	}
}

// carry writes the output that a note stands for.
func (d *Delivery) carry(ctx context.Context, note Note, write func(contracts.Piece) error) error {
	size := note.size
	for n := 1; n <= note.Chunks && size > 0; n++ {
		c, err := d.chunk(ctx, note.Run, n)
		if err != nil {
			return err
		}
		for _, piece := range c.Pieces {
			if piece.Data = piece.Data[:min(int64(len(piece.Data)), size)]; len(piece.Data) == 0 {
				if piece.Cut = min(piece.Cut, size); piece.Cut == 0 {
					continue
				}
			}
			size -= int64(len(piece.Data)) + piece.Cut
			if err := write(piece); err != nil {
				return err
			}
		}
	}
	if size > 0 { // beyond the output limit: it was in the memory of the lost worker
		return write(contracts.Piece{Stream: contracts.Stdout, Cut: size})
	}
	return nil
}

// chunk reads one chunk of another run, from the leader: ErrNotFound proves that it was never stored.
func (d *Delivery) chunk(ctx context.Context, run string, n int) (contracts.Chunk, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ask, cancel := context.WithTimeout(ctx, putTimeout)
		s, err := d.t.reply.Last(ask, d.t.names.Chunk(d.addr.Tenant, d.addr.ID, run, n))
		cancel()
		if err == nil {
			return contracts.Decode[contracts.Chunk](s.Data, metaOf(s.Header))
		}
		if errors.Is(err, ErrNotFound) || hopeless(err) {
			return contracts.Chunk{}, err
		}
		if !sleep(ctx, wait) {
			return contracts.Chunk{}, context.Cause(ctx)
		}
	}
}

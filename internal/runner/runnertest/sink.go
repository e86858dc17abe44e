// Package runnertest holds every runner to what runner.Runner asks of it, and has what tests of runners need.
package runnertest

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Sink records the output of one run. The zero value takes everything.
type Sink struct {
	// OnWrite is called with every write before it is recorded, from the goroutine of the runner that
	// writes. It may block; its error is what the write returns, and nothing is recorded then.
	OnWrite func(stream contracts.Stream, phase contracts.Phase, data []byte) error

	mu     sync.Mutex
	pieces []contracts.Piece
	closed bool
	late   int
}

// Stream returns the writer of one stream in one phase.
func (s *Sink) Stream(stream contracts.Stream, phase contracts.Phase) io.Writer {
	return writer{sink: s, stream: stream, phase: phase}
}

// Bytes returns what was written to a stream in all phases.
func (s *Sink) Bytes(stream contracts.Stream) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all bytes.Buffer
	for _, piece := range s.pieces {
		if piece.Stream == stream {
			all.Write(piece.Data)
		}
	}
	return all.Bytes()
}

// Stdout returns what was written to stdout, as text.
func (s *Sink) Stdout() string { return string(s.Bytes(contracts.Stdout)) }

// Stderr returns what was written to stderr, as text.
func (s *Sink) Stderr() string { return string(s.Bytes(contracts.Stderr)) }

// Pieces returns a copy of the writes, in order.
func (s *Sink) Pieces() []contracts.Piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]contracts.Piece(nil), s.pieces...)
}

// Close makes every further write fail and count as late. It is called when Run has returned.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// Late returns how many writes came after Close.
func (s *Sink) Late() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.late
}

var errClosed = errors.New("runnertest: write after Run has returned")

type writer struct {
	sink   *Sink
	stream contracts.Stream
	phase  contracts.Phase
}

func (w writer) Write(data []byte) (int, error) {
	s := w.sink
	if s.OnWrite != nil {
		if err := s.OnWrite(w.stream, w.phase, data); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.late++
		return 0, errClosed
	}
	s.pieces = append(s.pieces, contracts.Piece{Stream: w.stream, Phase: w.phase, Data: bytes.Clone(data)})
	return len(data), nil
}

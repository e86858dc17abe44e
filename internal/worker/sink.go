package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

const (
	// flushAfter is how long output may wait for more of it, while a token is left.
	flushAfter = 20 * time.Millisecond
	// A run begins with so many early flushes in hand, and gains ten a second: a byte every
	// 19 ms would otherwise be 67 million messages over the life of a stream.
	flushTokens = 50
	tokenEvery  = 100 * time.Millisecond
	// Output that fills 64 KiB within fastFill is worth larger chunks: a message takes the server 20 to 100 µs beside its bytes.
	// What is in many pieces is not: their encoding adds to it.
	fastFill   = 5 * time.Millisecond
	fastPieces = 256
)

var errSinkClosed = errors.New("the run is over: nothing more is stored of it")

// sink makes chunks of what a run writes. What is unsent at the end rides in the result.
// Of an output beyond its limit the head is stored as it comes, and the end when the run is over;
// what lies between is counted.
type sink struct {
	ctx  context.Context
	d    *queue.Delivery
	head int64 // what is stored as it comes
	end  ring  // what comes after that
	// stdout and stderr get all of it too; nil is nobody. They hold back who writes, and nobody else.
	stdout, stderr io.Writer

	mu      sync.Mutex
	buf     []byte // backs the data of pieces while the run goes on
	pieces  []contracts.Piece
	size    int       // of their data
	began   time.Time // when the first of them came
	full    int       // what fills a chunk
	chunks  int
	charged int64 // against head: bytes, and at least MinChunkCharge for each stored chunk
	counts  counts
	tokens  int
	refill  time.Time // when tokens was right
	timer   *time.Timer
	armed   bool
	closed  bool
	failed  error

	state      []byte // where the work stands, for whoever takes it over
	stateBytes int64  // the output that it stands for
	unnoted    bool   // no chunk has it yet
	carriedCut int64  // what is not there of the output of the run that this one goes on from
}

// counts is what a run wrote, and what of it is not stored.
type counts struct{ stdout, stderr, cut int64 }

func newSink(ctx context.Context, d *queue.Delivery, limit int64) *sink {
	end := min(maxRing, limit/2)
	return &sink{ctx: ctx, d: d, head: limit - end, end: ring{limit: int(end)}, full: contracts.MaxChunkBytes, tokens: flushTokens, refill: time.Now()}
}

// Stream returns the writer of one stream in one phase.
func (s *sink) Stream(stream contracts.Stream, phase contracts.Phase) io.Writer {
	return streamWriter{s, stream, phase}
}

type streamWriter struct {
	s      *sink
	stream contracts.Stream
	phase  contracts.Phase
}

func (w streamWriter) Write(p []byte) (int, error) {
	n, err := w.write(p)
	all := w.s.stdout
	if w.stream == contracts.Stderr {
		all = w.s.stderr
	}
	if all != nil {
		_, _ = all.Write(p[:n]) // a log tells of its failure in the end
	}
	return n, err
}

func (w streamWriter) write(p []byte) (int, error) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; n < len(p); {
		if s.failed != nil {
			return n, s.failed
		}
		if s.closed {
			return n, errSinkClosed
		}
		n += s.add(w.stream, w.phase, p[n:])
	}
	return len(p), nil
}

// add takes some of p. s.mu is held.
func (s *sink) add(stream contracts.Stream, phase contracts.Phase, p []byte) int {
	room := min(int64(len(p)), s.head-s.charged-int64(s.size))
	if room <= 0 {
		s.count(stream, len(p))
		s.end.put(stream, phase, p)
		return len(p)
	}
	if s.buf == nil {
		s.buf = make([]byte, 0, min(contracts.MaxChunkBytes, max(512, len(p))))
	}
	if s.size == 0 {
		s.began = time.Now()
	}
	n := min(int(room), s.full-s.size)
	if cap(s.buf)-len(s.buf) < n {
		s.grow(n)
	}
	at := len(s.buf)
	s.buf = append(s.buf, p[:n]...)
	if k := len(s.pieces) - 1; k >= 0 && s.pieces[k].Stream == stream && s.pieces[k].Phase == phase && s.pieces[k].Cut == 0 {
		last := &s.pieces[k]
		last.Data = s.buf[at-len(last.Data) : at+n]
	} else {
		s.pieces = append(s.pieces, contracts.Piece{Stream: stream, Phase: phase, Data: s.buf[at : at+n]})
	}
	s.size += n
	s.count(stream, n)
	if s.size >= s.full || len(s.pieces) >= maxPieces || s.size >= contracts.MaxChunkBytes && len(s.pieces) > fastPieces {
		s.fit()
		s.flush()
	} else if !s.armed {
		s.arm(flushAfter)
	}
	return n
}

// fit has a chunk hold more if the one that is full now was filled fast, and else as little as usual. s.mu is held.
func (s *sink) fit() {
	fast := time.Since(s.began) < time.Duration(s.size/contracts.MaxChunkBytes)*fastFill
	if s.full = min(2*s.full, contracts.MaxFloodChunkBytes); !fast {
		s.full = contracts.MaxChunkBytes
	}
}

// maxPieces keeps a chunk of one-byte pieces below the message cap.
const maxPieces = 4096

// grow moves the buffer, and the pieces with it. s.mu is held.
func (s *sink) grow(n int) {
	bigger := make([]byte, len(s.buf), min(contracts.MaxFloodChunkBytes, max(2*cap(s.buf), len(s.buf)+n)))
	copy(bigger, s.buf)
	at := 0
	for i := range s.pieces {
		n := len(s.pieces[i].Data)
		s.pieces[i].Data = bigger[at : at+n]
		at += n
	}
	s.buf = bigger
}

func (s *sink) count(stream contracts.Stream, n int) {
	if stream == contracts.Stderr {
		s.counts.stderr += int64(n)
	} else {
		s.counts.stdout += int64(n)
	}
}

// arm has what is unsent flushed after d. s.mu is held.
func (s *sink) arm(d time.Duration) {
	s.armed = true
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.due)
		return
	}
	s.timer.Reset(d)
}

func (s *sink) due() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	if s.closed || s.failed != nil || s.size == 0 {
		return
	}
	now := time.Now()
	if early := s.began.Add(flushAfter).Sub(now); early > 0 {
		s.arm(early) // what it was armed for is stored
		return
	}
	gained := int(now.Sub(s.refill) / tokenEvery)
	s.tokens = min(flushTokens, s.tokens+gained)
	s.refill = s.refill.Add(time.Duration(gained) * tokenEvery)
	if s.tokens == 0 {
		s.arm(s.refill.Add(tokenEvery).Sub(now))
		return
	}
	s.tokens--
	s.full = contracts.MaxChunkBytes
	s.flush()
}

// flush stores what is unsent as a chunk. It blocks while too much is unconfirmed, and
// with it every writer: that is how a slow queue holds back a fast process. s.mu is held.
func (s *sink) flush() {
	c := contracts.Chunk{N: s.chunks + 1, At: s.d.Now().UTC(), Pieces: s.pieces, State: s.state, StateBytes: s.stateBytes}
	if err := s.d.Emit(s.ctx, c); err != nil {
		s.failed = fmt.Errorf("store output: %w", err)
		return
	}
	s.chunks++
	s.unnoted = false
	s.charged += max(int64(s.size), contracts.MinChunkCharge)
	s.buf, s.pieces, s.size = s.buf[:0], s.pieces[:0], 0 // Emit has encoded them
}

// Note has state stored with the next chunk.
func (s *sink) Note(state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note(state)
}

// note is Note; s.mu is held.
func (s *sink) note(state []byte) error {
	if len(state) > contracts.MaxStateBytes {
		return fmt.Errorf("a note of %d bytes is more than %d", len(state), contracts.MaxStateBytes)
	}
	s.state, s.stateBytes, s.unnoted = bytes.Clone(state), s.counts.stdout+s.counts.stderr, true
	return nil
}

// Save stores state in a chunk with what is unsent, and waits until that is confirmed.
func (s *sink) Save(ctx context.Context, state []byte) error {
	s.mu.Lock()
	err := s.note(state)
	if err == nil && !s.closed && s.failed == nil {
		s.flush()
	}
	if err == nil {
		err = s.failed
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.d.Confirm(ctx); err != nil {
		return fmt.Errorf("store a note: %w", err)
	}
	return nil
}

// carry takes over output of a lost run.
func (s *sink) carry(p contracts.Piece) error {
	if p.Cut == 0 {
		_, err := s.Stream(p.Stream, p.Phase).Write(p.Data)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pieces = append(s.pieces, contracts.Piece{Stream: p.Stream, Phase: p.Phase, Cut: p.Cut})
	s.count(p.Stream, int(p.Cut))
	s.carriedCut += p.Cut
	return s.failed
}

// close ends the output: what comes later is refused. It returns the number of chunks and what is unsent. handOver
// says that another worker will go on: it is to find the newest note.
func (s *sink) close(handOver bool) (chunks int, tail []contracts.Piece, n counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.counts.cut = s.end.lost() + s.carriedCut; len(s.end.pieces) > 0 {
		s.mark()
	}
	if handOver && s.unnoted && s.failed == nil {
		s.flush()
	}
	if len(s.pieces) > 0 && s.failed == nil && !contracts.TailFits(s.pieces) {
		s.flush() // many small pieces: as a tail they would lose their beginning
	}
	return s.chunks, s.pieces, s.counts
}

// mark puts what was cut, and the end that was kept, behind what is stored already. s.mu is held.
func (s *sink) mark() {
	s.pieces = append(s.pieces, s.end.cut...)
	for _, p := range s.end.pieces {
		if s.size+len(p.Data) > contracts.MaxChunkBytes || len(s.pieces) >= maxPieces {
			s.flush()
		}
		if s.failed != nil {
			return
		}
		s.pieces = append(s.pieces, p)
		s.size += len(p.Data)
	}
}

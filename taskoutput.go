package runnel

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// taskWriter is one stream of a Task.
type taskWriter struct {
	t      *Task
	stream Stream
}

var errTaskOver = errors.New("the handler has returned: nothing more is sent")

// Write takes all of p. It blocks while as much is unacknowledged as may be.
func (w taskWriter) Write(p []byte) (int, error) {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := 0; ; {
		switch {
		case t.closed:
			return n, errTaskOver
		case t.isOver || t.ctx.Err() != nil:
			return n, context.Cause(t.ctx)
		case n == len(p):
			return n, nil
		}
		if t.size == contracts.MaxChunkBytes || len(t.pieces) == maxTaskPieces {
			if err := t.flush(); err != nil {
				return n, err
			}
			continue // it may have waited
		}
		k := min(len(p)-n, contracts.MaxChunkBytes-t.size)
		if last := len(t.pieces) - 1; last >= 0 && t.pieces[last].Stream == w.stream {
			t.pieces[last].Data = append(t.pieces[last].Data, p[n:n+k]...)
		} else {
			t.pieces = append(t.pieces, Piece{Stream: w.stream, Data: bytes.Clone(p[n : n+k])})
		}
		t.size += k
		n += k
		if !t.armed {
			t.armed = true
			if t.flusher == nil {
				t.flusher = time.AfterFunc(taskFlushAfter, t.flushSoon)
			} else {
				t.flusher.Reset(taskFlushAfter)
			}
		}
	}
}

// maxTaskPieces keeps a message of one-byte pieces below the message cap.
const maxTaskPieces = 4096

func (t *Task) flushSoon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = false
	if !t.closed {
		_ = t.flush() // who writes next hears of it
	}
}

// flush sends what is unsent, once the window lets it. t.mu is held, and let go while it waits.
func (t *Task) flush() error {
	for len(t.sent) >= t.window && !t.closed {
		if t.isOver || t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		t.changed.Wait()
	}
	if len(t.pieces) == 0 || t.closed {
		return nil
	}
	data, err := t.encode(contracts.ManualReply{Type: contracts.ManualOutput, N: t.acked + len(t.sent) + 1, Pieces: t.pieces})
	if err != nil {
		return err
	}
	t.pieces, t.size = nil, 0
	t.sent = append(t.sent, data)
	return t.publish(data)
}

// ack takes an acknowledgement. One that comes again says that what follows it was lost.
func (t *Task) ack(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n > t.acked && n <= t.acked+len(t.sent) {
		t.sent = t.sent[n-t.acked:]
		t.acked = n
		t.changed.Broadcast()
		return
	}
	if n == t.acked && time.Since(t.resent) > sendAgainAfter/4 {
		t.resend()
	}
}

func (t *Task) sendAgain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resend()
}

// resend sends all that is unacknowledged again. t.mu is held.
func (t *Task) resend() {
	t.resent = time.Now()
	for _, data := range t.sent {
		if err := t.publish(data); err != nil {
			t.r.settings.problems(err)
			return
		}
	}
}

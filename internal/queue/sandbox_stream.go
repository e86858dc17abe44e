package queue

import (
	"io"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// Output of a command in a sandbox waits this long for more of it.
	execFlushAfter = 10 * time.Millisecond
	// maxExecPieces keeps a message of one-byte pieces small.
	maxExecPieces = 1024
)

// execOutput gathers what a command writes into messages.
type execOutput struct {
	e *servedExec

	mu    sync.Mutex // held while the window is waited for: that holds back the command
	data  []byte     // what is not sent yet; its memory is used again and again
	parts []outputPart
	timer *time.Timer
	armed bool
	over  bool
	cut   bool // what was written is not all sent
}

// outputPart is what came of one stream: up to there, from the end of the part before.
type outputPart struct {
	stream contracts.Stream
	end    int
}

// execWriter is one of its streams.
type execWriter struct {
	o      *execOutput
	stream contracts.Stream
}

// Write takes all of p. It blocks while as much is unacknowledged as may be, and fails once nobody waits.
func (w execWriter) Write(p []byte) (int, error) {
	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := 0; ; {
		switch {
		case o.over:
			return n, errNobodyWaits
		case n == len(p):
			return n, nil
		case len(o.data) == contracts.MaxChunkBytes || len(o.parts) == maxExecPieces:
			if err := o.flush(); err != nil {
				return n, err
			}
		}
		k := min(len(p)-n, contracts.MaxChunkBytes-len(o.data))
		o.data = append(o.data, p[n:n+k]...)
		if last := len(o.parts) - 1; last >= 0 && o.parts[last].stream == w.stream {
			o.parts[last].end = len(o.data)
		} else {
			o.parts = append(o.parts, outputPart{w.stream, len(o.data)})
		}
		n += k
		if !o.armed {
			o.armed = true
			if o.timer == nil {
				o.timer = time.AfterFunc(execFlushAfter, o.flushSoon)
			} else {
				o.timer.Reset(execFlushAfter)
			}
		}
	}
}

func (o *execOutput) flushSoon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = false
	if !o.over {
		_ = o.flush() // who writes next hears of it
	}
}

// flush sends what is there. o.mu is held.
func (o *execOutput) flush() error {
	if len(o.parts) == 0 {
		return nil
	}
	m := contracts.SandboxReply{Type: contracts.SandboxSaysOutput, Exec: o.e.call.Exec, Pieces: o.pieces()}
	err := o.e.out.put(func(n int) ([]byte, error) {
		m.N = n
		return o.e.encode(m)
	})
	o.data, o.parts = o.data[:0], o.parts[:0] // it is encoded
	o.cut = o.cut || err != nil
	return err
}

// pieces returns what is not sent yet, valid until the next write.
func (o *execOutput) pieces() []contracts.Piece {
	var all []contracts.Piece
	from := 0
	for _, part := range o.parts {
		all = append(all, contracts.Piece{Stream: part.stream, Data: o.data[from:part.end]})
		from = part.end
	}
	return all
}

// end returns what is not sent yet, and whether something was lost before that, and takes nothing more.
func (o *execOutput) end() (tail []contracts.Piece, cut bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	if o.timer != nil {
		o.timer.Stop()
	}
	return o.pieces(), o.cut
}

// execInput is standard input as it comes in messages.
type execInput struct {
	acked func(n int)

	mu      sync.Mutex
	changed sync.Cond
	parts   []inputPart
	got     int  // the last stdin message that came without a gap
	read    int  // the last one that was read to its end
	more    bool // others follow
	err     error
}

// inputPart is what one message brought.
type inputPart struct {
	n    int // 0 is the call itself, which is not acknowledged
	data []byte
}

func newExecInput(call contracts.SandboxCall, acked func(int)) *execInput {
	in := &execInput{acked: acked, more: call.More}
	in.changed.L = &in.mu
	if len(call.Data) > 0 {
		in.parts = []inputPart{{0, call.Data}}
	}
	return in
}

// take takes a stdin message. One that follows a lost one is lost, too: it is sent again.
func (in *execInput) take(call contracts.SandboxCall) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.err != nil || !in.more && call.N > in.got:
	case call.N == in.got+1 && call.N <= in.read+contracts.SandboxWindow:
		in.got, in.more = call.N, call.More
		in.parts = append(in.parts, inputPart{call.N, call.Data})
		in.changed.Broadcast()
	default:
		in.acked(in.read)
	}
}

// told hears how many messages there were so far.
func (in *execInput) told(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil && (n > in.got || n > 0 && in.read == in.got) { // something is lost: input, or our word of it
		in.acked(in.read)
	}
}

// Read waits for input. What is read is acknowledged, so that as much is here as a window holds.
func (in *execInput) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for {
		switch {
		case in.err != nil:
			return 0, in.err
		case len(in.parts) > 0:
			part := &in.parts[0]
			n := copy(p, part.data)
			if part.data = part.data[n:]; len(part.data) == 0 {
				if part.n > 0 {
					in.read = part.n
					in.acked(part.n)
				}
				in.parts = in.parts[1:]
			}
			if n > 0 || len(p) == 0 {
				return n, nil
			}
		case !in.more:
			return 0, io.EOF
		default:
			in.changed.Wait()
		}
	}
}

// close ends Read with err, and drops what is left.
func (in *execInput) close(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = err
	}
	in.parts = nil
	in.changed.Broadcast()
}

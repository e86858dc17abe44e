package runnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// A task that ends within acceptAfter says so in one message.
	acceptAfter = 50 * time.Millisecond
	// Output waits this long for more of it.
	taskFlushAfter = 20 * time.Millisecond
	// What a worker has not acknowledged is sent again after this, and given up after lastWordFor.
	sendAgainAfter = 2 * time.Second
	lastWordFor    = time.Minute
)

// Task is one invocation in the hands of a Handler.
type Task struct {
	Invocation
	// Run names this execution; Attempt is 1 plus the attempts that ended before by the work's own doing.
	Run     string
	Attempt int
	// Stdout and Stderr take the output. Writes block while the worker is behind, and fail once nobody waits. A
	// Handler may write from several goroutines, and not after it has returned.
	Stdout, Stderr io.Writer

	r       *Responder
	to      string // where the worker hears us
	reply   string // where we hear it
	beat    time.Duration
	window  int
	ctx     context.Context
	cancel  context.CancelCauseFunc
	release context.CancelFunc

	mu       sync.Mutex
	changed  *sync.Cond // an acknowledgement, or the end
	pieces   []Piece    // unsent
	size     int
	sent     [][]byte // unacknowledged
	acked    int      // the output messages that are
	resent   time.Time
	armed    bool
	flusher  *time.Timer
	metadata map[string]string
	deaf     time.Time // since when nobody has been listening; zero is never
	closed   bool      // the handler has returned
	pulse    *time.Timer
	accepted bool // it was said
	isQuiet  bool // the last word is said, and taken
	over     chan struct{}
	isOver   bool
}

func (r *Responder) newTask(request contracts.ManualRequest, to string) *Task {
	t := &Task{
		Invocation: request.Invocation, Run: request.Run, Attempt: request.Attempt, r: r, to: to, reply: r.inbox + "." + request.Run,
		beat: time.Duration(request.HeartbeatSeconds * float64(time.Second)), window: min(request.Window, contracts.ManualWindow),
		over: make(chan struct{}),
	}
	t.changed = sync.NewCond(&t.mu)
	t.Stdout, t.Stderr = taskWriter{t, Stdout}, taskWriter{t, Stderr}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.release = func() {}
	if left := request.SecondsLeft; left > 0 {
		// The worker says when the time is over; this is for a worker that cannot any more.
		var ctx context.Context
		ctx, t.release = context.WithTimeoutCause(t.ctx, time.Duration(min(left, contracts.MaxSeconds)*float64(time.Second))+t.beat,
			fmt.Errorf("%w: timeout", ErrStopped))
		t.ctx = ctx
	}
	return t
}

// Progress says how far the work is: fraction from 0 to 1, or less than 0 for "nobody knows", and a line for people. It
// shows on standard error, apart from the output by its phase.
func (t *Task) Progress(fraction float64, text string) error {
	p := contracts.ManualReply{Type: contracts.ManualProgress, Text: strings.ToValidUTF8(text, "\uFFFD")}
	if fraction >= 0 {
		p.Fraction = &fraction
	}
	// In order with what was written before.
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.flush(); err != nil {
		return err
	}
	return t.say(p)
}

// SetMetadata has name and value stand in the result's metadata; together they may have 16 KiB.
func (t *Task) SetMetadata(name, value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.metadata == nil {
		t.metadata = map[string]string{}
	}
	t.metadata[name] = value
}

// OpenStdin returns the standard input that came with the invocation, an empty one if none did. Who opens it closes it.
// What is not what was handed in is ErrCorrupt when it is read to its end, what is not kept any more ErrNotFound.
func (t *Task) OpenStdin(ctx context.Context) (io.ReadCloser, error) {
	in := t.Stdin
	if in == nil || in.Blob == "" {
		var data []byte
		if in != nil {
			data = in.Data
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	js, err := jetstream.New(t.r.nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	store, err := artifacts.Open(ctx, js, artifacts.Config{Tenant: t.Tenant, Prefix: t.r.settings.prefix})
	if err != nil {
		return nil, fmt.Errorf("stdin: %w", public(err))
	}
	return publicly(store.OpenInput(ctx, *in))
}

// work runs the handler and says how it ended, also if the handler ends its goroutine.
func (t *Task) work() {
	defer func() {
		t.r.mu.Lock()
		delete(t.r.tasks, t.Run)
		t.r.mu.Unlock()
		t.release()
		t.cancel(nil)
		t.r.all.Done()
	}()
	wake := context.AfterFunc(t.ctx, func() {
		t.mu.Lock()
		t.changed.Broadcast()
		t.mu.Unlock()
	})
	defer wake()
	t.mu.Lock()
	t.pulse = time.AfterFunc(acceptAfter, t.beatOnce)
	t.mu.Unlock()
	err := errors.New("the handler ended its goroutine")
	defer func() {
		if p := recover(); p != nil {
			err = &ExitError{Code: 2, Text: fmt.Sprintf("panic: %v\n%.2000s", p, debug.Stack())}
		}
		t.conclude(err)
	}()
	err = t.r.handler(t.ctx, t)
}

// conclude ends the output and says the last word.
func (t *Task) conclude(err error) {
	outcome := outcomeOf(err)
	last := contracts.ManualReply{Type: contracts.ManualEnded, Outcome: &outcome}
	t.mu.Lock()
	t.closed = true
	t.changed.Broadcast()
	if t.flusher != nil {
		t.flusher.Stop()
	}
	outcome.Tail, outcome.Metadata = t.pieces, t.metadata
	last.N = t.acked + len(t.sent)
	t.mu.Unlock()
	if err != nil && errors.Is(context.Cause(t.ctx), ErrClosing) {
		last = contracts.ManualReply{Type: contracts.ManualDeclined, Text: "the responder is closing"}
	}
	if err := outcome.Validate(); err != nil {
		outcome.Metadata = nil // all else is made to fit
		t.r.settings.problems(fmt.Errorf("handle %s: %s: metadata left out: %w", t.r.name, t.ID, err))
	}
	t.lastWord(last)
	t.mu.Lock()
	t.isQuiet = true
	t.pulse.Stop()
	t.mu.Unlock()
}

// outcomeOf is what the word of a handler means. It fits a message, whatever the error says.
func outcomeOf(err error) (outcome contracts.ManualOutcome) {
	var rejected *RejectedError
	var exit *ExitError
	switch {
	case err == nil:
		return contracts.ManualOutcome{Status: StatusSucceeded}
	case errors.As(err, &rejected):
		outcome.Status = StatusRejected
	case errors.As(err, &exit) && exit.Code != 0 && exit.Code >= -255:
		outcome.Status, outcome.ExitCode = StatusFailed, &exit.Code
	default:
		outcome.Status = StatusFailed
	}
	if outcome.Error = contracts.FitError(err.Error()); outcome.Error == "" {
		outcome.Error = "the handler failed and did not say why"
	}
	return outcome
}

// lastWord has the output acknowledged and then says how it ended, until the worker has heard it.
func (t *Task) lastWord(last contracts.ManualReply) {
	free := sync.OnceFunc(func() { <-t.r.slots })
	defer free()
	give := time.NewTimer(lastWordFor)
	defer give.Stop()
	again := time.NewTicker(sendAgainAfter)
	defer again.Stop()
	acked := t.allAcked()
	for said := false; ; {
		select {
		case <-acked:
			acked = nil
			t.send(last)
			said = true
			free() // the next task need not wait for a word of the worker
			if last.Type == contracts.ManualDeclined {
				return
			}
		case <-t.over:
			return
		case <-again.C:
			if said {
				t.send(last)
			} else {
				t.sendAgain()
			}
		case <-give.C:
			t.r.settings.problems(fmt.Errorf("handle %s: %s: no worker has taken its outcome within %s", t.r.name, t.ID, lastWordFor))
			t.end()
			return
		}
	}
}

// allAcked is closed once all output is acknowledged; never if the worker does not wait any more.
func (t *Task) allAcked() <-chan struct{} {
	done := make(chan struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sent) == 0 {
		close(done)
		return done
	}
	go func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for len(t.sent) > 0 && !t.isOver {
			t.changed.Wait()
		}
		if len(t.sent) == 0 {
			close(done)
		}
	}()
	return done
}

// beatOnce says that the task is taken, and then, again and again, that it lives.
func (t *Task) beatOnce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isOver || t.isQuiet {
		return
	}
	kind := contracts.ManualHeartbeat
	if !t.accepted {
		t.accepted, kind = true, contracts.ManualAccepted
	}
	t.send(contracts.ManualReply{Type: kind})
	t.pulse.Reset(t.beat)
}

func (t *Task) decline(why string) {
	t.reply = "" // there is nothing to hear
	t.send(contracts.ManualReply{Type: contracts.ManualDeclined, Text: why})
	t.release()
	t.cancel(nil)
}

// send says something that may be lost.
func (t *Task) send(m contracts.ManualReply) {
	if err := t.say(m); err != nil {
		t.r.settings.problems(fmt.Errorf("handle %s: %s: %w", t.r.name, t.ID, err))
	}
}

func (t *Task) say(m contracts.ManualReply) error {
	data, err := t.encode(m)
	if err != nil {
		return err
	}
	return t.publish(data)
}

func (t *Task) encode(m contracts.ManualReply) ([]byte, error) {
	m.ID, m.Run, m.Responder = t.ID, t.Run, t.r.id
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return contracts.Encode(m)
}

func (t *Task) publish(data []byte) error {
	return t.r.nc.PublishMsg(&nats.Msg{
		Subject: t.to, Reply: t.reply, Header: nats.Header{contracts.HeaderVersion: {contracts.Version}}, Data: data,
	})
}

// hear takes what the worker says.
func (t *Task) hear(c contracts.ManualControl) {
	switch c.Type {
	case contracts.ManualAck:
		t.ack(c.N)
	case contracts.ManualStop:
		t.cancel(fmt.Errorf("%w: %s", ErrStopped, c.Reason))
	case contracts.ManualEnd:
		t.end()
	}
	t.mu.Lock()
	t.deaf = time.Time{}
	t.mu.Unlock()
}

// unheard is called when the server says that no worker listens: it may be back soon, as after a restart of NATS.
func (t *Task) unheard() {
	t.mu.Lock()
	if t.deaf.IsZero() {
		t.deaf = time.Now()
	}
	gone := time.Since(t.deaf) > contracts.ManualSilence*t.beat/2
	t.mu.Unlock()
	if gone {
		t.end()
	}
}

// end is the end of the conversation.
func (t *Task) end() {
	t.mu.Lock()
	if !t.isOver {
		t.isOver = true
		close(t.over)
	}
	t.changed.Broadcast()
	t.mu.Unlock()
	t.cancel(ErrNobodyWaits)
}

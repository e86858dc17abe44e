package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// ExecRequest is a command for a sandbox. Only Command must be set.
type ExecRequest struct {
	// Command is the argument vector. No shell is added.
	Command []string
	// Environment is set over the sandbox's own.
	Environment map[string]string
	// WorkingDirectory is where it starts: "" is where the sandbox says, relative is inside of the workspace.
	WorkingDirectory string
	// TimeoutSeconds bounds it from its start; 0 is no bound.
	TimeoutSeconds float64
	// Stop says how it is ended when it must be; nil is as the sandbox says.
	Stop *contracts.Stop
	// Stdin is sent as the command reads it; nil is an empty one. A Read that is under way when the command has ended is not
	// waited for.
	Stdin io.Reader
	// Stdout and Stderr receive the output as it comes; nil drops it. One that blocks holds back the command.
	// A failed write stops the command.
	Stdout, Stderr io.Writer
}

// ExecResult is how a command in a sandbox ended.
type ExecResult struct {
	// Status is succeeded, failed, timed_out, cancelled, or rejected: it was not begun.
	Status contracts.Status `json:"status"`
	// Reason is as in a Result, or ReasonBusy.
	Reason contracts.Reason `json:"reason,omitempty"`
	// ExitCode is the command's; negative is a signal; nil where there was none.
	ExitCode *int `json:"exit_code,omitempty"`
	// Error is for people.
	Error string `json:"error_summary,omitempty"`
	// Killed says what had to be ended, for people.
	Killed string `json:"killed,omitempty"`
}

const (
	// A call that nobody has answered is made again. Beyond callFor that could run the command a second time.
	callAgain, callFor = time.Second, 5 * time.Second
	// callUnheard is how long a worker that lives may leave a call without a word.
	callUnheard = 15 * time.Second
	// stopMargin is what a stopped command may take beyond its grace until that is known here.
	stopMargin = 5 * time.Second
)

// Exec runs a command in a sandbox, copies its output as it comes and returns how it ended. However that was, the error is
// nil: look at the Status. A sandbox that waits for its worker is waited for; one that has ended is a
// *SandboxEndedError, one whose worker is gone ErrSandboxLost.
//
// When ctx ends the command is stopped, and Exec returns how it ended together with the cause of ctx. What becomes
// of a command whose caller dies is the same, after six seconds.
func (p *Producer) Exec(ctx context.Context, id string, r ExecRequest) (ExecResult, error) {
	t, err := p.callSandbox(id)
	if err != nil {
		return ExecResult{}, err
	}
	defer t.close()
	ctx, done := t.guarded(ctx)
	defer done()
	c := &execCall{sandboxTalk: t, r: r, name: contracts.NewID(), next: 1, grace: defaultGrace, broken: make(chan error, 2)}
	if r.Stop != nil {
		c.grace = graceOf(contracts.Invocation{Stop: r.Stop})
	}
	if err := c.makeCall(); err != nil {
		return ExecResult{}, fmt.Errorf("exec: %w", err)
	}
	c.in = newSendWindow(contracts.SandboxWindow, t.publish)
	defer c.in.close()
	stopBeats := c.beats(ctx)
	defer stopBeats()
	result, err := c.talk(ctx)
	if err != nil {
		err = fmt.Errorf("exec: %w", err)
	}
	return result, err
}

// execCall is one command, seen by its caller. One goroutine has it, but for the input and the heartbeats.
type execCall struct {
	*sandboxTalk
	r      ExecRequest
	name   string
	call   []byte
	more   bool // stdin messages follow the call
	grace  time.Duration
	in     *sendWindow
	broken chan error // why standard input ends before its end, or the connection is closed

	next    int  // the number of the next output message
	idle    bool // none has come since the last heartbeat
	spoke   bool // the sandbox has said something of this command
	writing error
}

func (c *execCall) makeCall() (err error) {
	call := contracts.SandboxCall{
		Type: contracts.SandboxExec, Exec: c.name, Command: c.r.Command, Environment: c.r.Environment, WorkingDirectory: c.r.WorkingDirectory,
		TimeoutSeconds: c.r.TimeoutSeconds, Stop: c.r.Stop, HeartbeatSeconds: c.p.execBeat.Seconds(), Window: contracts.SandboxWindow,
	}
	// Input that is there already travels with the call.
	if short, ok := c.r.Stdin.(interface{ Len() int }); ok && short.Len() <= contracts.MaxChunkBytes {
		if call.Data, err = io.ReadAll(io.LimitReader(c.r.Stdin, contracts.MaxChunkBytes)); err != nil {
			return fmt.Errorf("read stdin: %w", err)
		}
	} else {
		c.more = c.r.Stdin != nil
	}
	call.More = c.more
	c.call, err = c.encode(call)
	return err
}

// feed sends standard input, as fast as it is read at the other end.
func (c *execCall) feed() {
	buf := make([]byte, contracts.MaxChunkBytes)
	for {
		n, err := c.r.Stdin.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) {
			c.broken <- fmt.Errorf("read stdin: %w", err)
			return
		}
		if n == 0 && err == nil {
			continue
		}
		sent := c.in.put(func(i int) ([]byte, error) {
			return c.encode(contracts.SandboxCall{Type: contracts.SandboxStdin, Exec: c.name, N: i, Data: buf[:n], More: err == nil})
		})
		if sent != nil || err != nil {
			return
		}
	}
}

// beats says again and again that the caller lives, and that it wants the command stopped, also while it writes output to who is slow.
func (c *execCall) beats(ctx context.Context) (stop func()) {
	var all sync.WaitGroup
	over, ended := make(chan struct{}), ctx.Done()
	all.Go(func() {
		beat := time.NewTicker(c.p.execBeat)
		defer beat.Stop()
		for {
			select {
			case <-over:
				return
			case <-ended:
				ended = nil
				_ = c.say(contracts.SandboxCall{Type: contracts.SandboxStop, Exec: c.name})
				continue
			case <-beat.C:
			}
			if err := c.say(contracts.SandboxCall{Type: contracts.SandboxHeartbeat, Exec: c.name, N: c.in.count()}); errors.Is(err, ErrClosed) {
				c.broken <- err
				return
			}
		}
	})
	return func() {
		close(over)
		all.Wait()
	}
}

// talk makes the call and takes what comes of it, to the outcome.
func (c *execCall) talk(ctx context.Context) (ExecResult, error) {
	began := time.Now()
	if err := c.publish(c.call); permanent(err) {
		return ExecResult{}, err
	}
	if c.more {
		go c.feed()
	}
	silence := contracts.SandboxSilence * c.p.execBeat
	again, silent := time.NewTimer(callAgain), time.NewTimer(silence)
	defer again.Stop()
	defer silent.Stop()
	var stopped error // why the command is being stopped
	var late <-chan time.Time
	ended := ctx.Done()
	stop := func(why error) {
		if stopped == nil {
			stopped = why
			patience := c.grace + stopMargin
			if !c.spoke {
				patience = askTimeout // nobody may be there at all
			}
			late = time.After(patience)
		}
		_ = c.say(contracts.SandboxCall{Type: contracts.SandboxStop, Exec: c.name})
	}
	defer func() { _ = c.say(contracts.SandboxCall{Type: contracts.SandboxEnd, Exec: c.name}) }()
	pause := 10 * time.Millisecond
	for {
		select {
		case <-ended:
			ended = nil
			stop(context.Cause(ctx))
			if errors.Is(stopped, ErrDenied) {
				return ExecResult{}, stopped
			}
		case err := <-c.broken:
			if errors.Is(err, ErrClosed) {
				return ExecResult{}, err
			}
			stop(err)
		case <-late:
			return ExecResult{}, stopped
		case <-again.C:
			switch {
			case stopped != nil:
				stop(nil)
			case c.spoke:
				continue
			case time.Since(began) < callFor:
				if err := c.publish(c.call); permanent(err) {
					return ExecResult{}, err
				}
			case time.Since(began) > callUnheard:
				return ExecResult{}, ErrUnknown
			}
			again.Reset(callAgain)
		case <-silent.C:
			silent.Reset(silence)
			if len(c.heard) > 0 || !c.p.follow.IsConnected() {
				continue // it is we who did not listen
			}
			if err := c.p.standing(ctx, c.id); err != nil && ctx.Err() == nil {
				return ExecResult{}, err
			}
		case m := <-c.heard:
			if nobody(m) {
				if stopped != nil && !c.spoke {
					return ExecResult{}, stopped
				}
				if err := c.absent(ctx, &pause); err != nil && len(c.heard) == 0 {
					return ExecResult{}, err
				} // else its last words are here
				if !c.spoke {
					began = time.Now() // it has not come to anybody so far
				}
				again.Reset(0)
				continue
			}
			outcome, err := c.hear(m)
			switch {
			case err != nil:
				return ExecResult{}, err
			case outcome != nil && outcome.Reason == contracts.ReasonClosed:
				return ExecResult{}, c.closed(ctx, outcome.Error)
			case outcome != nil:
				return ExecResult{outcome.Status, outcome.Reason, outcome.ExitCode, outcome.Error, outcome.Killed}, errors.Join(stopped, c.writing)
			}
			if c.writing != nil && stopped == nil {
				stop(c.writing)
			}
			silent.Reset(silence)
			if stopped != nil {
				again.Reset(callAgain)
			}
		}
	}
}

// absent looks why nobody listens, and waits a little if somebody may.
func (c *execCall) absent(ctx context.Context, pause *time.Duration) error {
	if err := c.p.standing(ctx, c.id); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if !sleep(ctx, *pause) && !c.spoke {
		return context.Cause(ctx)
	}
	*pause = min(2**pause, time.Second)
	return nil
}

// closed waits for the result of a sandbox that says it has ended.
func (c *execCall) closed(ctx context.Context, why string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, DefaultPatience, errors.New(why))
	defer cancel()
	for r, err := range c.p.Wait(ctx, c.id) {
		if err != nil {
			return err
		}
		return &SandboxEndedError{r}
	}
	return errors.New(why)
}

// hear takes one message. A message of another command, or one that cannot be read, is not heard.
func (c *execCall) hear(m *nats.Msg) (*contracts.SandboxOutcome, error) {
	r, err := contracts.Decode[contracts.SandboxReply](m.Data, metaOf(m.Header))
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %s said what is not in the protocol: %w", c.id, err)
	}
	if r.ID != c.id || r.Exec != c.name && r.Exec != "" {
		return nil, nil
	}
	c.spoke = true
	switch r.Type {
	case contracts.SandboxSaysAck:
		c.in.ack(r.N)
	case contracts.SandboxSaysHeartbeat:
		if r.N >= c.next || c.idle && r.N > 0 { // something is lost: output, or our word of it
			c.ack()
		}
		c.idle = true
	case contracts.SandboxSaysOutput:
		c.idle = false
		if r.N == c.next {
			c.next++
			c.write(r.Pieces)
		}
		c.ack()
	case contracts.SandboxSaysOutcome:
		if r.N >= c.next {
			c.ack() // what is missing comes again, and then this
			return nil, nil
		}
		c.write(r.Outcome.Tail)
		return r.Outcome, nil
	}
	return nil, nil
}

func (c *execCall) ack() {
	_ = c.say(contracts.SandboxCall{Type: contracts.SandboxAck, Exec: c.name, N: c.next - 1})
}

// write copies output. After a failed write it is dropped, so that the command comes to its end.
func (c *execCall) write(pieces []contracts.Piece) {
	for _, p := range pieces {
		w := c.r.Stdout
		if p.Stream == contracts.Stderr {
			w = c.r.Stderr
		}
		if w == nil || c.writing != nil {
			continue
		}
		if _, err := w.Write(p.Data); err != nil {
			c.writing = fmt.Errorf("write %s: %w", p.Stream, err)
		}
	}
}

package manual

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// conversation is one run, from the request to the outcome. One goroutine has it.
type conversation struct {
	job      runner.Job
	settings settings
	out      runner.Sink
	exchange Exchange
	request  []byte
	heard    chan contracts.ManualHeard
	began    time.Time

	bound  bool   // a responder has the run: who it is may be ""
	spoke  bool   // it said something just now
	who    string // its name
	reply  string // where it hears us; "" is nowhere
	next   int    // the number of the next output message
	pause  time.Duration
	answer string // of a person, once it is taken
}

// errBroken says that a responder broke the protocol: the work fails, and is not tried again by itself.
type errBroken struct{ text string }

func (e *errBroken) Error() string { return e.text }

func broken(format string, a ...any) error { return &errBroken{fmt.Sprintf(format, a...)} }

// talk asks, and takes over what is said until the work has ended.
func (c *conversation) talk(ctx context.Context) (contracts.Outcome, error) {
	if err := c.exchange.Ask(c.job.Name, c.job.Run, c.request); err != nil {
		return contracts.Outcome{}, fmt.Errorf("ask responders of %q: %w", c.job.Name, err)
	}
	silent := time.NewTimer(c.settings.silence())
	defer silent.Stop()
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return c.stop(ctx, reasonOf(context.Cause(ctx)), context.Cause(ctx))
		case <-again.C:
			if err := c.exchange.Ask(c.job.Name, c.job.Run, c.request); err != nil {
				return contracts.Outcome{}, fmt.Errorf("ask responders of %q: %w", c.job.Name, err)
			}
			silent.Reset(c.settings.silence())
		case <-silent.C:
			if len(c.heard) > 0 || !c.exchange.Connected() {
				silent.Reset(c.settings.silence()) // it is we who did not listen
				continue
			}
			if c.bound {
				return contracts.Outcome{}, fmt.Errorf("responder %q has said nothing for %s: it is taken for dead", c.who, c.settings.silence())
			}
			return contracts.Outcome{}, fmt.Errorf("a responder of %q took the request and has said nothing for %s: it is taken for dead", c.job.Name, c.settings.silence())
		case m := <-c.heard:
			step, outcome, err := c.hear(m)
			switch {
			case err != nil:
				return c.failed(ctx, outcome, err)
			case step == ended && c.answer != "":
				return c.answered(ctx, outcome)
			case step == ended:
				return outcome, nil
			case step == nobody:
				if c.job.Patience > 0 && time.Since(c.began)+c.pause > c.job.Patience {
					return contracts.Outcome{}, fmt.Errorf("%w: no responder of %q was there, or had time", runner.ErrQueueTimeout, c.job.Name)
				}
				silent.Stop()
				again.Reset(c.pause)
				c.pause = min(2*c.pause, longestPause)
			case c.spoke:
				c.spoke = false
				silent.Reset(c.settings.silence())
			}
		}
	}
}

// step says what a message came to.
type step int

const (
	onward step = iota
	nobody      // the request is to be made again
	ended       // the outcome is known
)

// hear takes over one message.
func (c *conversation) hear(m contracts.ManualHeard) (step, contracts.Outcome, error) {
	switch {
	case m.Nobody && c.bound:
		return onward, contracts.Outcome{}, nil
	case m.Nobody && c.settings.reject:
		return onward, contracts.Outcome{}, runner.Reject(contracts.ReasonNoRunner, "no responder of %q listens", c.job.Name)
	case m.Nobody:
		return nobody, contracts.Outcome{}, nil
	case m.Person:
		return c.hearPerson(m)
	}
	r, err := contracts.Decode[contracts.ManualReply](m.Body, m.Meta)
	if err == nil {
		err = r.Validate()
	}
	switch {
	case err != nil:
		return onward, contracts.Outcome{}, broken("a responder of %q said what is not in the protocol: %v", c.job.Name, err)
	case r.ID != c.job.ID:
		return onward, contracts.Outcome{}, broken("responder %q spoke of invocation %q, this is %q", r.Responder, r.ID, c.job.ID)
	case r.Run != c.job.Run:
		return onward, contracts.Outcome{}, broken("responder %q spoke of run %q, this is %q", r.Responder, r.Run, c.job.Run)
	case c.bound && r.Responder != c.who:
		c.tell(m.Reply, contracts.ManualControl{Type: contracts.ManualEnd})
		return onward, contracts.Outcome{}, nil
	case !c.bound && r.Type == contracts.ManualDeclined:
		return nobody, contracts.Outcome{}, nil
	}
	c.bound, c.spoke, c.who = true, true, r.Responder
	if m.Reply != "" {
		c.reply = m.Reply
	}
	switch r.Type {
	case contracts.ManualDeclined:
		return onward, contracts.Outcome{}, fmt.Errorf("responder %q gave it back: %s", c.who, r.Text)
	case contracts.ManualOutput:
		return onward, contracts.Outcome{}, c.output(r)
	case contracts.ManualProgress:
		return onward, contracts.Outcome{}, c.progress(r)
	case contracts.ManualEnded:
		return c.ended(r)
	}
	return onward, contracts.Outcome{}, nil
}

// output takes over a numbered message. What comes again is acknowledged again; where one is missing, the last
// acknowledgement says from where on to send again.
func (c *conversation) output(r contracts.ManualReply) (err error) {
	switch {
	case r.N == c.next:
		err = c.write(r.Pieces) // acknowledged even so: the responder must get on to its end
		c.next++
	case r.N > c.next && c.reply == "":
		return fmt.Errorf("output message %d of responder %q is missing", c.next, c.who)
	case r.N > c.next+contracts.ManualWindow:
		return broken("responder %q sent output message %d and %d is not acknowledged: its window is %d", c.who, r.N, c.next, contracts.ManualWindow)
	}
	if c.next > 1 {
		c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualAck, N: c.next - 1})
	}
	return err
}

func (c *conversation) write(pieces []contracts.Piece) error {
	for _, p := range pieces {
		if _, err := c.out.Stream(p.Stream, p.Phase).Write(p.Data); err != nil {
			return fmt.Errorf("take over output: %w", err)
		}
	}
	return nil
}

// progress makes a line of it that followers see, apart from the output by its phase.
func (c *conversation) progress(r contracts.ManualReply) error {
	line := strings.Join(strings.Fields(r.Text), " ")
	if r.Fraction != nil {
		line = strings.TrimSpace(fmt.Sprintf("%.0f%% %s", 100**r.Fraction, line))
	}
	if line == "" {
		return nil
	}
	return c.write([]contracts.Piece{{Stream: contracts.Stderr, Phase: contracts.PhaseProgress, Data: []byte(line + "\n")}})
}

func (c *conversation) ended(r contracts.ManualReply) (step, contracts.Outcome, error) {
	if r.N != c.next-1 {
		if r.N >= c.next && c.reply != "" && r.N <= c.next-1+contracts.ManualWindow && c.next > 1 {
			// It sends again what is missing, and then this.
			c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualAck, N: c.next - 1})
			return onward, contracts.Outcome{}, nil
		}
		return onward, contracts.Outcome{}, fmt.Errorf("responder %q sent %d output messages, %d arrived", c.who, r.N, c.next-1)
	}
	c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualEnd})
	c.reply = "" // there is nothing left to stop
	if err := c.write(r.Outcome.Tail); err != nil {
		return onward, contracts.Outcome{}, err
	}
	outcome, err := outcomeOf(*r.Outcome)
	if c.who != "" {
		outcome.Metadata = with(outcome.Metadata, contracts.MetaManualWho, c.who)
	}
	return ended, outcome, err
}

// hearPerson takes the first answer, and says of every other which one that was.
func (c *conversation) hearPerson(m contracts.ManualHeard) (step, contracts.Outcome, error) {
	a, err := contracts.Decode[contracts.ManualAnswer](m.Body, m.Meta)
	if err != nil || a.Validate() != nil || a.ID != c.job.ID {
		return onward, contracts.Outcome{}, nil // whoever that was, it is not the responder's fault
	}
	first := c.answer == ""
	if first {
		c.answer = a.Answer
	}
	if data, err := contracts.EncodeJSON(contracts.ManualReceipt{Answer: c.answer}); err == nil && m.Reply != "" {
		_ = c.exchange.Tell(m.Reply, data) // who hears nothing asks again, and finds the result
	}
	if !first {
		return onward, contracts.Outcome{}, nil
	}
	if err := c.write(a.Outcome.Tail); err != nil {
		return onward, contracts.Outcome{}, err
	}
	outcome, err := outcomeOf(a.Outcome)
	outcome.Metadata = with(outcome.Metadata, contracts.MetaManualAnswer, a.Answer)
	return ended, outcome, err
}

// answered ends what a responder does, since a person has said how it ended.
func (c *conversation) answered(ctx context.Context, outcome contracts.Outcome) (contracts.Outcome, error) {
	o, err := c.stop(ctx, contracts.ReasonAnswered, nil)
	outcome.Killed = o.Killed
	return outcome, err
}

// failed ends what a responder does, for what it or we did wrong.
func (c *conversation) failed(ctx context.Context, said contracts.Outcome, err error) (contracts.Outcome, error) {
	var b *errBroken
	if !errors.As(err, &b) {
		reason := contracts.ReasonInfra
		if c.answer != "" {
			reason = contracts.ReasonAnswered
		}
		o, err := c.stop(ctx, reason, err)
		o.Metadata = said.Metadata // of a rejection
		return o, err
	}
	c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualEnd})
	return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, Error: b.text}, nil
}

// stop tells the responder to end, and gives it its grace. cause is what comes back. A responder that has said nothing so
// far hears it when it does: nobody listens for the run then.
func (c *conversation) stop(ctx context.Context, reason contracts.Reason, cause error) (contracts.Outcome, error) {
	if !c.bound || c.reply == "" {
		return contracts.Outcome{}, cause
	}
	grace := graceOf(c.job.Invocation)
	c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualStop, Reason: reason, GraceSeconds: grace.Seconds()})
	over := time.NewTimer(grace)
	defer over.Stop()
	killed := contracts.Outcome{Killed: fmt.Sprintf("responder %q (told to stop, has not said that it did)", c.who)}
	for {
		select {
		case <-over.C:
			c.tell(c.reply, contracts.ManualControl{Type: contracts.ManualEnd})
			return killed, cause
		case m := <-c.heard:
			if m.Person && c.answer == "" {
				continue // too late
			}
			step, outcome, err := c.hear(m)
			switch {
			case step == ended:
				outcome.Killed = fmt.Sprintf("responder %q (told to stop)", c.who)
				return outcome, cause
			case err != nil && c.reply == "":
				return killed, cause
			}
		}
	}
}

// tell says something to a responder that hears us. What it does not hear it is told again at its next message.
func (c *conversation) tell(to string, m contracts.ManualControl) {
	if to == "" {
		return
	}
	m.ID, m.Run = c.job.ID, c.job.Run
	if data, err := contracts.EncodeJSON(m); err == nil {
		_ = c.exchange.Tell(to, data)
	}
}

// outcomeOf is what a responder's word means. A rejection is an error, as of every runner.
func outcomeOf(o contracts.ManualOutcome) (contracts.Outcome, error) {
	out := contracts.Outcome{Status: o.Status, ExitCode: o.ExitCode, Error: o.Error, Metadata: o.Metadata}
	switch o.Status {
	case contracts.StatusRejected:
		return contracts.Outcome{}, runner.Reject(contracts.ReasonNotAllowed, "%s", o.Error)
	case contracts.StatusSucceeded:
		out.ExitCode = new(0)
		out.Error = ""
	default:
		if out.Reason = contracts.ReasonExit; out.ExitCode == nil {
			out.ExitCode = new(1)
		} else if *out.ExitCode < 0 {
			out.Reason = contracts.ReasonSignal
		}
	}
	return out, nil
}

func with(m map[string]string, name, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[name] = value
	return m
}

func reasonOf(cause error) contracts.Reason {
	switch {
	case errors.Is(cause, runner.ErrTimeout):
		return contracts.ReasonTimeout
	case errors.Is(cause, runner.ErrStopped):
		return contracts.ReasonInfra
	}
	return contracts.ReasonCancelled
}

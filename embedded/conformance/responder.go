package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Responder checks a program that answers invocations of kind manual for Config.Name. It is to know four commands:
// echo (standard input to standard output), fail N (exit code N), flood N (N output messages of 64 KiB) and hold
// (one output message, and then work until it is told to stop).
func Responder(ctx context.Context, cfg Config, tell func(Check)) (err error) {
	k, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close(ctx)) }()
	p, err := k.start()
	if err != nil {
		return err
	}
	defer p.end()
	r := &responderKit{kit: k, p: p}
	if err := r.ready(ctx); err != nil {
		return err
	}
	return all(ctx, k.cfg, responderRules, r, tell)
}

type responderKit struct {
	*kit
	p *program
}

var responderRules = []rule[*responderKit]{
	{"outcome", "a request is answered with an outcome", func(ctx context.Context, k *responderKit) error {
		return k.ask(ctx, "echo").ended(contracts.StatusSucceeded, 0)
	}},
	{"ids", "every message echoes the id of the invocation and the name of the run", func(ctx context.Context, k *responderKit) error {
		t := k.ask(ctx, "echo")
		t.heard = func(r contracts.ManualReply) error {
			if r.ID != t.request.Invocation.ID || r.Run != t.request.Run {
				return fmt.Errorf("a message of type %s is about %q, run %q: want %q, %q", r.Type, r.ID, r.Run, t.request.Invocation.ID, t.request.Run)
			}
			return nil
		}
		return t.ended(contracts.StatusSucceeded, 0)
	}},
	{"output", "output is what it is, byte for byte, numbered from 1", func(ctx context.Context, k *responderKit) error {
		every := make([]byte, 100_000)
		for i := range every {
			every[i] = byte(i)
		}
		t := k.begin(ctx, func(r *contracts.ManualRequest) { r.Invocation.Stdin = &contracts.Input{Data: every} }, "echo")
		if err := t.ended(contracts.StatusSucceeded, 0); err != nil {
			return err
		}
		if !bytes.Equal(t.out, every) {
			return fmt.Errorf("standard output has %d bytes, want the %d of standard input", len(t.out), len(every))
		}
		return nil
	}},
	{"exit", "a failure has its exit code", func(ctx context.Context, k *responderKit) error {
		return k.ask(ctx, "fail", "7").ended(contracts.StatusFailed, 7)
	}},
	{"window", "no more output messages are unacknowledged than the window says", func(ctx context.Context, k *responderKit) error {
		t := k.begin(ctx, func(r *contracts.ManualRequest) { r.Window = 3 }, "flood", "12")
		t.hold = true
		err := t.until(k.cfg.Patience, func(r contracts.ManualReply) (bool, error) { return t.highest >= 3, nil })
		if err == nil {
			err = t.quiet(time.Second, func(r contracts.ManualReply) error {
				if t.highest > 3 {
					return fmt.Errorf("output message %d came while none was acknowledged, the window is 3", t.highest)
				}
				return nil
			})
		}
		t.hold = false
		t.ack()
		if err != nil {
			return err
		}
		return t.ended(contracts.StatusSucceeded, 0)
	}},
	{"resend", "output messages that are not acknowledged are sent again", func(ctx context.Context, k *responderKit) error {
		t := k.ask(ctx, "flood", "3")
		t.lose = 2
		return t.ended(contracts.StatusSucceeded, 0)
	}},
	{"heartbeat", "something is said at least every heartbeat_seconds", func(ctx context.Context, k *responderKit) error {
		t := k.begin(ctx, func(r *contracts.ManualRequest) { r.HeartbeatSeconds = 2 }, "hold")
		defer t.stop()
		if err := t.until(k.cfg.Patience, func(contracts.ManualReply) (bool, error) { return t.highest > 0, nil }); err != nil {
			return err
		}
		for range 2 { // three times as long is its death
			if err := t.until(contracts.ManualSilence*2*time.Second, func(contracts.ManualReply) (bool, error) { return true, nil }); err != nil {
				return err
			}
		}
		return nil
	}},
	{"stop", "it stops when it is told to, and says how the work ended", func(ctx context.Context, k *responderKit) error {
		t := k.ask(ctx, "hold")
		if err := t.until(k.cfg.Patience, func(contracts.ManualReply) (bool, error) { return t.highest > 0, nil }); err != nil {
			return err
		}
		t.tell(contracts.ManualControl{Type: contracts.ManualStop, Reason: contracts.ReasonCancelled, GraceSeconds: k.cfg.Patience.Seconds()})
		return t.ended("", -1)
	}},
	{"foreign", "what is said of another run is not taken for its own", func(ctx context.Context, k *responderKit) error {
		t := k.ask(ctx, "hold")
		defer t.stop()
		if err := t.until(k.cfg.Patience, func(contracts.ManualReply) (bool, error) { return t.highest > 0, nil }); err != nil {
			return err
		}
		t.tellAs(contracts.ManualControl{Type: contracts.ManualStop, Reason: contracts.ReasonCancelled, ID: t.request.Invocation.ID, Run: "aaaaaaaa"})
		return t.quiet(time.Second, func(r contracts.ManualReply) error {
			if r.Type == contracts.ManualEnded || r.Type == contracts.ManualDeclined {
				return errors.New("it stopped for another run")
			}
			return nil
		})
	}},
	{"repeat", "the outcome is said again until the worker has heard it, and not any more then", func(ctx context.Context, k *responderKit) error {
		t := k.ask(ctx, "echo")
		t.deaf = true
		for range 2 {
			if err := t.until(k.cfg.Patience, func(r contracts.ManualReply) (bool, error) { return r.Type == contracts.ManualEnded, nil }); err != nil {
				return err
			}
		}
		t.tell(contracts.ManualControl{Type: contracts.ManualEnd})
		if err := t.quiet(2*time.Second, func(contracts.ManualReply) error { return nil }); err != nil { // on its way
			return err
		}
		return t.quiet(3*time.Second, func(r contracts.ManualReply) error {
			return fmt.Errorf("a message of type %s came after the end", r.Type)
		})
	}},
	{"newer", "fields that a newer minor version adds are ignored", func(ctx context.Context, k *responderKit) error {
		t := k.begin(ctx, func(*contracts.ManualRequest) {}, "")
		return t.ended(contracts.StatusSucceeded, 0)
	}},
	{"strangers", "what is no request does not end it", func(ctx context.Context, k *responderKit) error {
		for _, body := range []string{"", "{", "[1]", `{"invocation":{}}`, "\xc1"} {
			if err := k.nc.PublishRequest(k.topo.Names().Manual(k.cfg.Name), k.nc.NewInbox(), []byte(body)); err != nil {
				return err
			}
		}
		return k.ask(ctx, "echo").ended(contracts.StatusSucceeded, 0)
	}},
}

// ready waits until somebody listens for the name.
func (k *responderKit) ready(ctx context.Context) error {
	patience := max(k.cfg.Patience, 20*time.Second) // a program's start is no rule
	until := time.Now().Add(patience)
	for time.Now().Before(until) {
		t := k.ask(ctx, "echo")
		t.patient = true
		err := t.ended(contracts.StatusSucceeded, 0)
		if !errors.Is(err, nats.ErrNoResponders) {
			return nil // whatever it says is for the rules
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-k.p.done:
			return errors.New("the program has ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("nobody listens on %s after %s", k.topo.Names().Manual(k.cfg.Name), patience)
}

// talk is a worker's part in one run.
type talk struct {
	k       *responderKit
	ctx     context.Context
	sub     *nats.Subscription
	request contracts.ManualRequest
	problem error

	reply   string
	next    int
	highest int // the highest number that came
	out     []byte
	outcome *contracts.ManualOutcome

	heard   func(contracts.ManualReply) error // what else is wrong with a message
	hold    bool                              // acknowledge nothing
	lose    int                               // take this output message for lost, once
	deaf    bool                              // do not say that the outcome is heard
	patient bool                              // only whether somebody is there
}

func (k *responderKit) ask(ctx context.Context, command ...string) *talk {
	return k.begin(ctx, func(*contracts.ManualRequest) {}, command...)
}

// begin sends a request; command "" is echo, from a newer minor version.
func (k *responderKit) begin(ctx context.Context, change func(*contracts.ManualRequest), command ...string) *talk {
	newer := command[0] == ""
	if newer {
		command = []string{"echo"}
	}
	t := &talk{k: k, ctx: ctx, next: 1, request: contracts.ManualRequest{
		Invocation: contracts.Invocation{ID: contracts.NewID(), Kind: contracts.KindManual, Name: k.cfg.Name, Command: command}.WithDefaults(),
		Run:        contracts.NewRun(), Attempt: 1, HeartbeatSeconds: contracts.ManualHeartbeats, Window: contracts.ManualWindow,
	}}
	change(&t.request)
	data, err := contracts.EncodeJSON(t.request)
	h := nats.Header{contracts.HeaderVersion: {contracts.Version}, contracts.HeaderContentType: {contracts.ContentJSON}}
	if err == nil && newer {
		h.Set(contracts.HeaderVersion, "1.9")
		data, err = withField(data, true)
	}
	inbox := k.nc.NewInbox()
	if err == nil {
		t.sub, err = k.nc.SubscribeSync(inbox)
	}
	if err == nil {
		err = k.nc.PublishMsg(&nats.Msg{Subject: k.topo.Names().Manual(k.cfg.Name), Reply: inbox, Header: h, Data: data})
	}
	t.problem = err
	return t
}

// hear takes the next message.
func (t *talk) hear(within time.Duration) (contracts.ManualReply, error) {
	var r contracts.ManualReply
	if t.problem != nil {
		return r, t.problem
	}
	wait, cancel := context.WithTimeout(t.ctx, within)
	defer cancel()
	m, err := t.sub.NextMsgWithContext(wait)
	if err != nil {
		return r, err
	}
	r, err = contracts.Decode[contracts.ManualReply](m.Data, contracts.Meta{ContentType: m.Header.Get(contracts.HeaderContentType), Version: m.Header.Get(contracts.HeaderVersion)})
	if err == nil {
		err = r.Validate()
	}
	if err == nil && t.heard != nil {
		err = t.heard(r)
	}
	if err != nil {
		return r, fmt.Errorf("a message breaks the protocol: %w", err)
	}
	if m.Reply != "" {
		t.reply = m.Reply
	}
	switch r.Type {
	case contracts.ManualOutput:
		t.highest = max(t.highest, r.N)
		if r.N == t.lose {
			t.lose = 0
			break
		}
		if r.N == t.next {
			t.next++
			for _, p := range r.Pieces {
				if p.Stream == contracts.Stdout {
					t.out = append(t.out, p.Data...)
				}
			}
		}
		t.ack()
	case contracts.ManualEnded:
		t.outcome = r.Outcome
		if t.deaf {
			break
		}
		t.tell(contracts.ManualControl{Type: contracts.ManualEnd})
		if r.N != t.next-1 {
			return r, fmt.Errorf("the outcome says that %d output messages went before it, %d came", r.N, t.next-1)
		}
		for _, p := range r.Outcome.Tail {
			if p.Stream == contracts.Stdout {
				t.out = append(t.out, p.Data...)
			}
		}
	}
	return r, nil
}

func (t *talk) ack() {
	if !t.hold && t.next > 1 {
		t.tell(contracts.ManualControl{Type: contracts.ManualAck, N: t.next - 1})
	}
}

func (t *talk) tell(c contracts.ManualControl) {
	c.ID, c.Run = t.request.Invocation.ID, t.request.Run
	t.tellAs(c)
}

func (t *talk) tellAs(c contracts.ManualControl) {
	if t.reply == "" {
		return
	}
	data, err := contracts.EncodeJSON(c)
	if err == nil {
		h := nats.Header{contracts.HeaderVersion: {contracts.Version}, contracts.HeaderContentType: {contracts.ContentJSON}}
		err = t.k.nc.PublishMsg(&nats.Msg{Subject: t.reply, Header: h, Data: data})
	}
	t.problem = errors.Join(t.problem, err)
}

// until hears messages until one is what ok waits for. Heartbeats may come between.
func (t *talk) until(within time.Duration, ok func(contracts.ManualReply) (bool, error)) error {
	for late := time.Now().Add(within); ; {
		r, err := t.hear(time.Until(late))
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("after %s: it has not come", within)
		}
		if err != nil {
			return err
		}
		if done, err := ok(r); done || err != nil {
			return err
		}
	}
}

// quiet hears messages for so long.
func (t *talk) quiet(d time.Duration, judge func(contracts.ManualReply) error) error {
	for late := time.Now().Add(d); ; {
		r, err := t.hear(time.Until(late))
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		if err == nil {
			err = judge(r)
		}
		if err != nil {
			return err
		}
	}
}

// ended waits for the outcome; status "" is any.
func (t *talk) ended(status contracts.Status, code int) error {
	defer func() {
		if t.sub != nil {
			_ = t.sub.Unsubscribe()
		}
	}()
	within := t.k.cfg.Patience
	err := t.until(within, func(r contracts.ManualReply) (bool, error) {
		if r.Type == contracts.ManualDeclined {
			return true, fmt.Errorf("it declined: %s", r.Text)
		}
		return r.Type == contracts.ManualEnded, nil
	})
	switch {
	case err != nil:
		if !t.patient {
			t.stop()
		}
		return err
	case status == "":
		return nil
	case t.outcome.Status != status:
		return fmt.Errorf("the outcome is %s %s, want %s", t.outcome.Status, strings.TrimSpace(t.outcome.Error), status)
	case t.outcome.ExitCode != nil && *t.outcome.ExitCode != code, t.outcome.ExitCode == nil && code > 1:
		return fmt.Errorf("the outcome's exit code is not %d", code)
	}
	return nil
}

// stop ends what goes on, for the next rule.
func (t *talk) stop() {
	t.tell(contracts.ManualControl{Type: contracts.ManualStop, Reason: contracts.ReasonCancelled, GraceSeconds: 5})
	_ = t.quietUntilEnd()
	t.tell(contracts.ManualControl{Type: contracts.ManualEnd})
}

func (t *talk) quietUntilEnd() error {
	return t.until(min(5*time.Second, t.k.cfg.Patience), func(r contracts.ManualReply) (bool, error) { return r.Type == contracts.ManualEnded, nil })
}

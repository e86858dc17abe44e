package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// SandboxEndedError says that a sandbox is not open any more, and how it ended.
type SandboxEndedError struct{ Result contracts.Result }

// Error says how it ended.
func (e *SandboxEndedError) Error() string {
	text := fmt.Sprintf("sandbox %s has ended: %s", e.Result.ID, e.Result.Status)
	if e.Result.Reason != "" {
		text += "/" + string(e.Result.Reason)
	}
	if e.Result.Error != "" {
		text += ": " + e.Result.Error
	}
	return text
}

var (
	// ErrSandboxLost says that the worker of a sandbox is gone, and the sandbox with it.
	ErrSandboxLost = errors.New("the sandbox is lost: its worker is gone")
	// ErrNotSandbox says that an invocation is none.
	ErrNotSandbox = errors.New("not a sandbox")
)

// standing says of a sandbox that does not answer why it never will: it has ended (*SandboxEndedError), it is lost, there
// is none. nil is that it may answer soon: it waits for a worker, is being opened, or its worker comes back to the server.
func (p *Producer) standing(ctx context.Context, id string) error {
	i, err := p.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case i.Result != nil:
		return &SandboxEndedError{*i.Result}
	case !i.Sandbox:
		return fmt.Errorf("%s: %w", id, ErrNotSandbox)
	case i.Status != contracts.StatusRunning:
		return nil
	}
	there, err := insist(ctx, func(ctx context.Context) (bool, error) { return p.workers.Runs(ctx, i.Worker, i.Run) })
	if err == nil && !there && time.Since(i.Started.At) > presenceGood {
		return fmt.Errorf("%s: %w (%s)", id, ErrSandboxLost, i.Worker)
	}
	return err
}

// OpenSandbox submits inv and returns once the sandbox answers. If it ends before, that is a *SandboxEndedError. When ctx
// ends it is cancelled.
func (p *Producer) OpenSandbox(ctx context.Context, inv contracts.Invocation) (Receipt, error) {
	r, err := p.Submit(ctx, inv)
	if err != nil {
		return r, err
	}
	if err = p.opened(ctx, r.ID); err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultPatience)
		defer cancel()
		if _, err := p.Cancel(late, r.ID); err != nil {
			return r, errors.Join(context.Cause(ctx), err)
		}
		return r, context.Cause(ctx)
	}
	return r, fmt.Errorf("open sandbox: %w", err)
}

// opened waits until a sandbox answers.
func (p *Producer) opened(ctx context.Context, id string) error {
	t, err := p.callSandbox(id)
	if err != nil {
		return err
	}
	defer t.close()
	ctx, done := t.guarded(ctx)
	defer done()
	// It says that it is open nowhere but here; what it stores wakes us, so that it is asked then.
	live := make(chan *nats.Msg, 64)
	news, err := p.follow.ChanSubscribe(p.names.LiveAll(p.tenant, id), live)
	if err != nil {
		return subscribeError(err)
	}
	defer func() { _ = news.Unsubscribe() }()
	looked := time.Now()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		m, err := t.ask(ctx, contracts.SandboxPing)
		if err != nil || m != nil {
			return err
		}
		if time.Since(looked) > time.Second {
			if err := p.standing(ctx, id); err != nil {
				return err
			}
			looked = time.Now()
		}
		again := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			again.Stop()
			return context.Cause(ctx)
		case m := <-live:
			if a, err := p.names.ParseReply(m.Subject); err == nil && a.Kind == ReplyResult {
				looked = time.Time{}
			}
		case <-again.C:
		}
		again.Stop()
	}
}

// CloseSandbox ends a sandbox and returns its result. One that has ended by itself is no error. One that no worker has
// taken, or whose worker is gone, is cancelled.
func (p *Producer) CloseSandbox(ctx context.Context, id string) (contracts.Result, error) {
	r, err := p.closeSandbox(ctx, id)
	var ended *SandboxEndedError
	switch {
	case errors.As(err, &ended):
		return ended.Result, nil
	case err != nil:
		return contracts.Result{ID: id}, fmt.Errorf("close sandbox: %w", err)
	}
	return r, nil
}

func (p *Producer) closeSandbox(ctx context.Context, id string) (contracts.Result, error) {
	t, err := p.callSandbox(id)
	if err != nil {
		return contracts.Result{}, err
	}
	defer t.close()
	ctx, done := t.guarded(ctx)
	defer done()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		m, err := t.ask(ctx, contracts.SandboxClose)
		if err != nil {
			return contracts.Result{}, err
		}
		if m != nil {
			for r, err := range p.Wait(ctx, id) {
				return r, err
			}
		}
		err = p.standing(ctx, id)
		if errors.Is(err, ErrSandboxLost) || err == nil && wait > 10*time.Millisecond && p.waits(ctx, id) {
			c, err := p.Cancel(ctx, id)
			if err == nil && c.Result != nil {
				return *c.Result, nil
			}
			return contracts.Result{}, err
		}
		if err != nil {
			return contracts.Result{}, err
		}
		if !sleep(ctx, wait) {
			return contracts.Result{}, context.Cause(ctx)
		}
	}
}

// waits reports whether no worker has an invocation.
func (p *Producer) waits(ctx context.Context, id string) bool {
	i, err := p.Get(ctx, id)
	return err == nil && i.Status == contracts.StatusPending
}

// sandboxTalk is one caller's end of what is said with a sandbox.
type sandboxTalk struct {
	p       *Producer
	id      string
	subject string
	inbox   string
	heard   chan *nats.Msg
	sub     *nats.Subscription
}

// callSandbox listens for what a sandbox will say. Calls go out, and answers come, on the connection that brings output.
func (p *Producer) callSandbox(id string) (*sandboxTalk, error) {
	if err := p.checkID(id); err != nil {
		return nil, err
	}
	t := &sandboxTalk{p: p, id: id, subject: p.names.Sandbox(p.tenant, id), inbox: p.follow.NewInbox(), heard: make(chan *nats.Msg, 256)}
	var err error
	if t.sub, err = p.follow.ChanSubscribe(t.inbox, t.heard); err != nil {
		return nil, subscribeError(err)
	}
	return t, nil
}

func (t *sandboxTalk) close() { _ = t.sub.Unsubscribe() }

// guarded returns a context that ends when the server says that this user may not call sandboxes.
func (t *sandboxTalk) guarded(ctx context.Context) (context.Context, func()) {
	return linkOf(t.p.follow).guard(ctx, t.subject)
}

func (t *sandboxTalk) encode(c contracts.SandboxCall) ([]byte, error) {
	c.ID = t.id
	if err := c.Validate(); err != nil {
		return nil, err
	}
	data, err := contracts.Encode(c)
	if err == nil && len(data) > contracts.MaxMessageBytes {
		err = fmt.Errorf("%w: a call of %d bytes", ErrTooLarge, len(data))
	}
	return data, err
}

func (t *sandboxTalk) publish(data []byte) error {
	return closedOr(t.p.follow.PublishMsg(&nats.Msg{Subject: t.subject, Reply: t.inbox, Header: headerFor(false), Data: data}))
}

// say says what may be lost.
func (t *sandboxTalk) say(c contracts.SandboxCall) error {
	data, err := t.encode(c)
	if err == nil {
		err = t.publish(data)
	}
	return err
}

// ask sends a ping or a close. nil is that nobody answered.
func (t *sandboxTalk) ask(ctx context.Context, kind contracts.SandboxCallType) (*nats.Msg, error) {
	if err := t.say(contracts.SandboxCall{Type: kind}); err != nil {
		return nil, err
	}
	late := time.NewTimer(askTimeout)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-late.C:
		return nil, nil
	case m := <-t.heard:
		if nobody(m) {
			return nil, nil
		}
		return m, nil
	}
}

// nobody reports whether the server says that nobody listens.
func nobody(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") == "503" }

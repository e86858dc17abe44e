package runnel

import (
	"context"
	"iter"
)

// Sandbox is a container that stays open, for many commands over the same files. It is an invocation of kind container
// whose Container has a Sandbox part: Get, Watch, Cancel and List treat it as one, and what lies in $RUNNEL_ARTIFACTS
// when it ends becomes its artifacts.
//
// It lives in a slot of one worker, and is lost with it. It ends when it is closed or cancelled, when no command has run
// for the idle limit, and after its TimeoutSeconds. A Sandbox holds nothing but its id, and is safe for concurrent use.
type Sandbox struct {
	client *Client
	id     string
}

// OpenSandbox opens a sandbox and returns once it takes commands. inv.Container names the image; what it does not say of
// inv.Container.Sandbox and inv.TimeoutSeconds is 10 minutes idle, and an hour in all. A sandbox that ends while it is being opened
// (an image that cannot be had, what the worker does not allow) is a *SandboxEndedError. When ctx ends, it is cancelled.
func (c *Client) OpenSandbox(ctx context.Context, inv Invocation) (*Sandbox, error) {
	if inv.Kind == "" {
		inv.Kind = KindContainer
	}
	if inv.Container != nil && inv.Container.Sandbox == nil {
		with := *inv.Container
		with.Sandbox = &SandboxLimits{}
		inv.Container = &with
	}
	r, err := c.queue.OpenSandbox(ctx, inv)
	if err != nil {
		return nil, err
	}
	return c.Sandbox(r.ID), nil
}

// Sandbox returns the sandbox of an id, whoever opened it. It asks nothing.
func (c *Client) Sandbox(id string) *Sandbox { return &Sandbox{c, id} }

// Sandboxes yields the tenant's sandboxes that are open, or wait to be opened (StatusPending), the newest first. After an
// error nothing more comes.
func (c *Client) Sandboxes(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for i, err := range c.List(ctx, ListOptions{Kind: KindContainer, Status: []Status{StatusPending, StatusRunning}}) {
			if (err != nil || i.Sandbox) && !yield(i, err) {
				return
			}
		}
	}
}

// ID returns the id of its invocation.
func (s *Sandbox) ID() string { return s.id }

// Exec runs a command, copies its output as it comes and returns how it ended. However that was, the error is nil: look at
// the Status. Commands run one at a time: a second one waits for the first, for ten seconds unless the sandbox says
// otherwise, and is then rejected with ReasonBusy. When a command ends, whatever processes it left are killed; files stay.
//
// A sandbox that has ended is a *SandboxEndedError, one whose worker is gone ErrSandboxLost, an unknown one ErrNotFound. When
// ctx ends the command is stopped in the order of its Stop, and Exec returns how it ended with the cause of ctx.
func (s *Sandbox) Exec(ctx context.Context, r ExecRequest) (ExecResult, error) {
	return s.client.queue.Exec(ctx, s.id, r)
}

// Close ends the sandbox, and the command that it runs, and returns its result. One that has ended by itself is no error.
func (s *Sandbox) Close(ctx context.Context) (Result, error) {
	return s.client.queue.CloseSandbox(ctx, s.id)
}

package runnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// RunOptions says where what a run reads and writes comes from and goes. The zero value gives it no input and drops its output.
type RunOptions struct {
	// Stdin is read to its end before the invocation is handed in; nil leaves what the invocation says.
	Stdin io.Reader
	// Stdout and Stderr receive the output as it comes; nil drops it. A failed write ends Run, not the invocation.
	// Of a second run the output follows that of the first, which OnEvent tells apart.
	Stdout, Stderr io.Writer
	// OnReceipt is called once the invocation is accepted.
	OnReceipt func(Receipt)
	// OnEvent is called with every event, before its output is written.
	OnEvent func(Event)
}

// Run hands in an invocation, copies its output as it comes and returns its result. However the work ended, the error
// is nil: look at the result's Status. When ctx ends after the invocation was accepted, Run cancels it, waits for
// that, and returns what is stored together with the cause of ctx.
func (c *Client) Run(ctx context.Context, inv Invocation, o RunOptions) (Result, error) {
	inv, err := c.withStdin(ctx, inv, o.Stdin)
	if err != nil {
		return Result{}, err
	}
	id := ""
	accepted := func(r Receipt) {
		id = r.ID
		if o.OnReceipt != nil {
			o.OnReceipt(r)
		}
	}
	for e, err := range c.queue.Run(ctx, inv, accepted) {
		if err != nil {
			if id != "" && ctx.Err() != nil {
				return c.cutShort(ctx, id)
			}
			return Result{ID: id}, err
		}
		if o.OnEvent != nil {
			o.OnEvent(e)
		}
		switch e.Type {
		case EventResult:
			return *e.Result, nil
		case EventOutput:
			if err := o.write(e.Output); err != nil {
				return Result{ID: id}, fmt.Errorf("write %s of %s: %w", e.Output.Stream, id, err)
			}
		}
	}
	return Result{ID: id}, errors.New("watch ended without a result")
}

func (o RunOptions) write(p *Piece) error {
	w := o.Stdout
	if p.Stream == Stderr {
		w = o.Stderr
	}
	if w == nil || len(p.Data) == 0 {
		return nil
	}
	_, err := w.Write(p.Data)
	return err
}

// cutShort cancels id after ctx has ended.
func (c *Client) cutShort(ctx context.Context, id string) (Result, error) {
	cause := context.Cause(ctx)
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	r, err := c.Cancel(late, id)
	if err != nil {
		return Result{ID: id}, errors.Join(cause, err)
	}
	if r.Result == nil {
		return Result{ID: id}, cause
	}
	return *r.Result, cause
}

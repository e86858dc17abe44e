package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// CancelReport says what a cancel came to.
type CancelReport struct {
	// Status is that of the stored result.
	Status contracts.Status `json:"status"`
	// Was is what the cancel met: pending, running, or the status with which it had ended.
	Was contracts.Status `json:"was"`
	// Killed says what was ended, for people; "" where nothing ran, or nobody was there to say.
	Killed string `json:"killed,omitempty"`
	// AlreadyEnded says that the invocation ended by itself: the cancel changed nothing.
	AlreadyEnded bool `json:"already_ended,omitempty"`
	// Result is the stored one.
	Result *contracts.Result `json:"result,omitempty"`
}

// Cancel ends an invocation: a queued one never starts, a running one is killed, and what ends it is the stored result
// `cancelled`. Of one that has ended it says so (AlreadyEnded); an unknown id is ErrNotFound. The holder of a run is given
// 500 ms to say that it heard, and then the grace of the work and 5 seconds to end it; where nobody
// answers, Cancel stores the result itself, and whoever holds the run stops when it sees that.
func (p *Producer) Cancel(ctx context.Context, id string) (CancelReport, error) {
	if err := p.checkID(id); err != nil {
		return CancelReport{}, err
	}
	// The bound of what is asked; a holder that is killing has its own time.
	r, err := p.cancel(ctx, id)
	if err != nil {
		return r, fmt.Errorf("cancel %s: %w", id, err)
	}
	return r, nil
}

func (p *Producer) cancel(whole context.Context, id string) (CancelReport, error) {
	ctx, cancel := bounded(whole)
	defer cancel()
	// The queue before the result: an invocation leaves the one only after it stands in the other.
	message, err := p.queued(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return CancelReport{}, err
	}
	waits := err == nil
	res, _, err := p.result(ctx, id)
	if err == nil {
		return CancelReport{Status: res.Status, Was: res.Status, Killed: res.Killed, AlreadyEnded: true, Result: &res}, nil
	}
	if !errors.Is(err, ErrNotFound) || !waits {
		return CancelReport{}, err
	}
	inv, err := p.invocation(message)
	if err != nil {
		return CancelReport{}, err
	}
	reply, err := p.askHolder(whole, id, graceOf(inv)+cancelMargin)
	if err != nil {
		return CancelReport{}, err
	}
	if reply.State == contracts.CancelDone || reply.State == contracts.CancelEnded {
		cancel()
		ctx, cancel = bounded(whole) // the holder had its time
		defer cancel()
	}
	return p.cancelStored(ctx, inv, message, reply)
}

// invocation reads a queued message. The subject speaks for one that cannot be read: it can be cancelled too.
func (p *Producer) invocation(m Stored) (contracts.Invocation, error) {
	a, err := p.names.ParseInvoke(m.Subject)
	if err != nil {
		return contracts.Invocation{}, err
	}
	inv, err := read[contracts.Invocation](m)
	if err != nil {
		inv = contracts.Invocation{}
	}
	inv.ID, inv.Kind, inv.Pool, inv.Lane, inv.Tenant = a.ID, a.Kind, a.Pool, a.Lane, a.Tenant
	return inv, nil
}

// askHolder asks whoever holds id to end it, and waits for its last word if it says that it does. An empty reply
// is that of nobody.
func (p *Producer) askHolder(ctx context.Context, id string, grace time.Duration) (contracts.CancelReply, error) {
	var reply contracts.CancelReply
	subject, inbox := p.names.Cancel(p.tenant, id), p.nc.NewInbox()
	answers, err := p.nc.SubscribeSync(inbox)
	if err != nil {
		return reply, subscribeError(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := p.nc.PublishRequest(subject, inbox, nil); err != nil {
		return reply, closedOr(err)
	}
	for wait := cancelTimeout; ; wait = grace {
		once, cancel := context.WithTimeout(ctx, wait)
		m, err := answers.NextMsgWithContext(once)
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return reply, context.Cause(ctx)
			}
			if errors.Is(err, nats.ErrConnectionClosed) {
				return reply, fmt.Errorf("connection: %w", ErrClosed)
			}
			// Nobody listens, nobody answered, or the holder died over it.
			return reply, nil
		}
		if reply, err = contracts.Decode[contracts.CancelReply](m.Data, metaOf(m.Header)); err != nil {
			return contracts.CancelReply{}, nil // not a holder's
		}
		if reply.State != contracts.CancelKilling {
			return reply, nil
		}
	}
}

// cancelStored makes sure that a result is stored, and reports it.
func (p *Producer) cancelStored(ctx context.Context, inv contracts.Invocation, message Stored, reply contracts.CancelReply) (CancelReport, error) {
	was := contracts.StatusPending
	if reply.State != "" {
		was = contracts.StatusRunning
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		res, _, err := p.result(ctx, inv.ID)
		if err == nil {
			return report(was, res, reply), nil
		}
		if !errors.Is(err, ErrNotFound) {
			return CancelReport{}, err
		}
		last, over, err := p.lastStart(ctx, inv.ID)
		if err != nil {
			return CancelReport{}, err
		}
		if last.Run != "" && !over {
			was = contracts.StatusRunning
		}
		doc := cancelledResult(inv, message)
		asJSON := contracts.SpeaksJSON(message.Data, metaOf(message.Header))
		body, err := contracts.EncodeFor(doc.Fit(), asJSON)
		if err != nil {
			return CancelReport{}, err
		}
		once, cancel := context.WithTimeout(ctx, askTimeout)
		_, err = p.reply.Put(once, p.names.Result(p.tenant, inv.ID), headerFor(asJSON), body)
		cancel()
		switch {
		case err == nil:
			// Whoever took the invocation since we asked sees the result now, and not at its next beat.
			_ = p.nc.Publish(p.names.Cancel(p.tenant, inv.ID), nil)
			if last.Run == "" { // what began may have left something elsewhere that a worker has to end
				p.tidy(ctx, inv, message)
			}
			return report(was, doc, reply), nil
		case errors.Is(err, ErrOccupied):
			continue // somebody's last word came first: that one counts
		case permanent(err):
			return CancelReport{}, err
		}
		if !sleep(ctx, wait) {
			return CancelReport{}, endOf(ctx, err)
		}
	}
}

// cancelledResult is the last word on an invocation for which nobody else said it. It names no run: that is how a holder
// knows that it was cancelled and has its end to store, and a follower that there may be one.
func cancelledResult(inv contracts.Invocation, message Stored) contracts.Result {
	return contracts.Result{
		ID: inv.ID, Name: inv.Name, Kind: inv.Kind, Tenant: inv.Tenant, Pool: inv.Pool, Lane: inv.Lane, Labels: inv.Labels,
		Digest: digestOf(message.Header, message.Data), Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled,
		SubmittedAt: message.Time, FinishedAt: time.Now().UTC(),
	}
}

// lastStart returns the run of id that began last, and whether it has ended; none is a zero Start.
func (p *Producer) lastStart(ctx context.Context, id string) (last contracts.Start, ended bool, err error) {
	starts, ends, err := p.history(ctx, id)
	if err != nil || len(starts) == 0 {
		return contracts.Start{}, false, err
	}
	last = starts[len(starts)-1]
	for _, e := range ends {
		ended = ended || e.Run == last.Run
	}
	return last, ended, nil
}

// history reads the starts and the ends of id in the order in which they were stored.
func (p *Producer) history(ctx context.Context, id string) (starts []contracts.Start, ends []contracts.End, err error) {
	type both struct {
		starts []contracts.Start
		ends   []contracts.End
	}
	all, err := insist(ctx, func(ctx context.Context) (both, error) {
		var b both
		for s, err := range p.reply.Walk(ctx, p.names.Starts(p.tenant, id), 0, WalkOptions{}) {
			if err != nil {
				return b, err
			}
			if start, err := read[contracts.Start](s); err == nil { // what cannot be read is no run of ours
				b.starts = append(b.starts, start)
			}
		}
		for s, err := range p.reply.Walk(ctx, p.names.Ends(p.tenant, id), 0, WalkOptions{}) {
			if err != nil {
				return b, err
			}
			if end, err := read[contracts.End](s); err == nil {
				b.ends = append(b.ends, end)
			}
		}
		return b, nil
	})
	return all.starts, all.ends, err
}

// report says what a stored result makes of the cancel of what was pending or running.
func report(was contracts.Status, res contracts.Result, reply contracts.CancelReply) CancelReport {
	if res.Status != contracts.StatusCancelled {
		return CancelReport{Status: res.Status, Was: res.Status, Killed: res.Killed, AlreadyEnded: true, Result: &res}
	}
	if res.Run != "" {
		was = contracts.StatusRunning
	}
	c := CancelReport{Status: res.Status, Was: was, Killed: res.Killed, Result: &res}
	if c.Killed == "" {
		c.Killed = reply.Killed
	}
	return c
}

// tidy takes a cancelled invocation that never began out of the queue where no worker is there to drop it at its pre-run check, so
// that the queue does not keep it. It is a service: who may not delete, or gets no answer, has cancelled all the same.
func (p *Producer) tidy(ctx context.Context, inv contracts.Invocation, message Stored) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if served, err := p.Served(ctx, inv.Kind, inv.Pool); err == nil && !served {
		_ = p.invoke.Delete(ctx, message.Seq)
	}
}

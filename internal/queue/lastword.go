package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Finish stores the result and, once that is confirmed, acks. A result that cannot be
// stored for its size is replaced by a small failed/infra one. If somebody else stored
// one first, ErrLeaseLost comes back, unless that one says cancelled: then what this run
// came to is stored beside it as its end, and Finish is content.
func (d *Delivery) Finish(ctx context.Context, r contracts.Result) error {
	if err := d.Settle(ctx); err != nil {
		return d.abandon(err)
	}
	r = r.Fit()
	data, err := d.encode(r)
	if err != nil {
		return d.abandon(err)
	}
	subject := d.resultSubject()
	_, err = d.persist(ctx, d.t.reply, subject, data, func() { d.t.cfg.Step(StepResultSent, d.addr.ID, d.run) })
	if errors.Is(err, ErrTooLarge) {
		r = contracts.MinimalFailed(r, err.Error())
		if data, err = d.encode(r); err == nil {
			_, err = d.persist(ctx, d.t.reply, subject, data, nil)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrOccupied):
		return d.settleWith(ctx, r)
	default:
		return d.abandon(fmt.Errorf("store result: %w", err))
	}
	d.t.cfg.Step(StepResultStored, d.addr.ID, d.run)
	d.acked(r)
	return nil
}

// Told ends a delivery that is Cancelled. What was done about the run of n, if there is one, is stored as that run's end, for
// people; where another worker takes the delivery nevertheless, that keeps it from doing the same again.
func (d *Delivery) Told(ctx context.Context, n Note, killed string) error {
	if n.Run != "" {
		data, err := d.encode(contracts.End{
			Run: n.Run, Attempt: d.attempt, Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled, Error: "cancelled on request",
			Killed: killed, Worker: d.t.cfg.Worker, At: d.t.Now().UTC(), Chunks: n.Chunks,
		}.Fit())
		if err == nil {
			_, err = d.persist(ctx, d.t.reply, d.t.names.End(d.addr.Tenant, d.addr.ID, n.Run), data, nil)
		}
		if err != nil && !errors.Is(err, ErrOccupied) { // that of a run that was handed back
			return d.abandon(fmt.Errorf("store end: %w", err))
		}
		d.t.cfg.Step(StepEndStored, d.addr.ID, d.run)
	}
	d.acked(contracts.Result{Status: contracts.StatusCancelled, Killed: killed})
	return nil
}

// acked ends a delivery whose result is stored.
func (d *Delivery) acked(r contracts.Result) {
	d.ack()
	d.t.cfg.Step(StepAcked, d.addr.ID, d.run)
	d.release()
	d.answer(r)
}

// settleWith is what a holder does that finds a result where it wanted to store its own.
func (d *Delivery) settleWith(ctx context.Context, mine contracts.Result) error {
	there, err := d.theirs(ctx)
	if err != nil {
		return d.abandon(fmt.Errorf("read the result that is there: %w", err))
	}
	outside := cancelledByAsker(there)
	if !outside && there.Run == mine.Run && there.Status == mine.Status {
		d.acked(there) // our own, from a publish whose answer was lost
		return nil
	}
	if outside && mine.Run != "" {
		end := contracts.End{
			Run: d.run, Attempt: d.attempt, Status: mine.Status, Reason: mine.Reason, ExitCode: mine.ExitCode, Error: mine.Error,
			Killed: mine.Killed, Worker: mine.Worker, At: mine.FinishedAt, Chunks: mine.Chunks, Tail: mine.Tail,
		}
		if err := d.storeEnd(ctx, end); err != nil {
			return d.abandon(err)
		}
		d.acked(there)
		return nil
	}
	d.acked(there)
	return fmt.Errorf("%w: run %s stored a result first", ErrLeaseLost, there.Run)
}

// cancelledByAsker reports whether r was stored by who asked for a cancel, because nobody answered. It may name
// the run whose start was stored, and never a worker.
func cancelledByAsker(r contracts.Result) bool {
	return r.Status == contracts.StatusCancelled && r.Worker == ""
}

// theirs reads the result that is stored, from the leader.
func (d *Delivery) theirs(ctx context.Context) (contracts.Result, error) {
	var err error
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ask, cancel := context.WithTimeout(ctx, putTimeout)
		var s Stored
		s, err = d.t.reply.Last(ask, d.resultSubject())
		cancel()
		if err == nil {
			return contracts.Decode[contracts.Result](s.Data, metaOf(s.Header))
		}
		if errors.Is(err, ErrNotFound) || hopeless(err) || d.trouble() != nil || !sleep(ctx, wait) {
			return contracts.Result{}, err
		}
	}
}

// abandon gives the delivery up without a word: the server hands it to another when the lease runs out.
func (d *Delivery) abandon(err error) error {
	d.release()
	return err
}

// Drop gives the delivery up without a word, as is owed when the lease is lost; it returns err.
func (d *Delivery) Drop(err error) error { return d.abandon(err) }

// Retry stores how the attempt ended and hands the invocation back with a delay.
func (d *Delivery) Retry(ctx context.Context, e contracts.End, delay time.Duration) error {
	if delay > 0 {
		e.NotBefore = d.t.Now().Add(delay).UTC()
	}
	return d.handBack(ctx, e, delay)
}

// Return hands a delivery back that did not run: uncounted, at once.
func (d *Delivery) Return() {
	d.release()
	d.nak(0)
}

// Leave hands a delivery back that is not for this worker, and bids the server wait with it.
func (d *Delivery) Leave() {
	d.release()
	d.nak(ackWait)
}

// Stopped hands a run back that this worker had to end: uncounted, at once.
func (d *Delivery) Stopped(ctx context.Context, e contracts.End) error {
	return d.handBack(ctx, e, 0)
}

func (d *Delivery) handBack(ctx context.Context, e contracts.End, delay time.Duration) error {
	if err := d.Settle(ctx); err != nil {
		return d.abandon(err)
	}
	if err := d.storeEnd(ctx, e); err != nil {
		return d.abandon(err)
	}
	d.t.cfg.Step(StepEndStored, d.addr.ID, d.run)
	d.release()
	d.nak(delay)
	return nil
}

func (d *Delivery) storeEnd(ctx context.Context, e contracts.End) error {
	if err := d.storeStart(ctx); err != nil { // no end without a start
		return err
	}
	data, err := d.encode(e.Fit())
	if err != nil {
		return err
	}
	_, err = d.persist(ctx, d.t.reply, d.t.names.End(d.addr.Tenant, d.addr.ID, d.run), data, nil)
	if err != nil && !errors.Is(err, ErrOccupied) {
		return fmt.Errorf("store end: %w", err)
	}
	return nil
}

// Bury puts the invocation aside as it came, stores r as its result and has the server forget it.
func (d *Delivery) Bury(ctx context.Context, r contracts.Result) error {
	r = r.Fit()
	data, err := d.encode(contracts.Dead{Reason: r.Reason, Error: r.Error, At: r.FinishedAt, Subject: d.msg.Subject, Body: d.msg.Data})
	if err != nil {
		return d.abandon(err)
	}
	if _, err := d.persist(ctx, d.t.dead, d.deadSubject(), data, nil); err != nil && !errors.Is(err, ErrOccupied) {
		return d.abandon(fmt.Errorf("store dead letter: %w", err))
	}
	d.t.cfg.Step(StepDeadStored, d.addr.ID, d.run)
	if data, err = d.encode(r); err != nil {
		return d.abandon(err)
	}
	if _, err := d.persist(ctx, d.t.reply, d.resultSubject(), data, nil); err != nil && !errors.Is(err, ErrOccupied) {
		return d.abandon(fmt.Errorf("store result: %w", err))
	}
	d.word("+TERM")
	d.release()
	d.answer(r)
	return nil
}

// answer tells those who asked for a cancel how it ended.
func (d *Delivery) answer(r contracts.Result) {
	d.mu.Lock()
	askers := d.askers
	d.askers = nil
	d.mu.Unlock()
	if len(askers) == 0 {
		return
	}
	reply := contracts.CancelReply{State: contracts.CancelEnded, Status: r.Status, Killed: r.Killed}
	if r.Status == contracts.StatusCancelled {
		reply.State = contracts.CancelDone
	}
	for _, to := range askers {
		d.t.tell(to, reply)
	}
}

// asker is who waits to hear how a cancel ended.
type asker struct {
	subject string
	json    bool
}

func (t *Taker) tell(to asker, reply contracts.CancelReply) {
	data, err := contracts.EncodeFor(reply, to.json)
	if err == nil {
		err = t.nc.PublishMsg(&nats.Msg{Subject: to.subject, Header: headerFor(to.json), Data: data})
	}
	if err != nil {
		t.cfg.Problem(fmt.Errorf("answer a cancel: %w", err))
	}
}

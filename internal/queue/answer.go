package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// ErrAnswered says that an invocation ended otherwise than by this answer.
var ErrAnswered = errors.New("it ended otherwise")

const (
	// A run that is asked holds its answer within this, or is not there.
	answerTimeout = time.Second
	// What a worker needs from its receipt to the result, beyond the grace of a responder.
	answerMargin = 10 * time.Second
)

// Answer ends a manual invocation by hand, with o, and returns its result. It asks until the result is stored: the run may
// wait for a worker at the moment, or a worker may die over the answer. A result that is another's is ErrAnswered;
// when ctx ends, what was taken by then may still become the result.
func (p *Producer) Answer(ctx context.Context, id string, o contracts.ManualOutcome) (contracts.Result, error) {
	if err := p.checkID(id); err != nil {
		return contracts.Result{}, err
	}
	answer := contracts.ManualAnswer{ID: id, Answer: contracts.NewID(), Outcome: o}
	if err := answer.Validate(); err != nil {
		return contracts.Result{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := p.answer(ctx, answer)
	if err != nil {
		return r, fmt.Errorf("answer %s: %w", id, err)
	}
	return r, nil
}

func (p *Producer) answer(ctx context.Context, a contracts.ManualAnswer) (contracts.Result, error) {
	body, err := contracts.Encode(a)
	if err != nil {
		return contracts.Result{}, err
	}
	if len(body) > contracts.MaxMessageBytes {
		return contracts.Result{}, fmt.Errorf("%w: %d bytes, a message has %d at most", ErrTooLarge, len(body), contracts.MaxMessageBytes)
	}
	info, err := p.Get(ctx, a.ID)
	if err != nil {
		return contracts.Result{}, err
	}
	if info.Kind != contracts.KindManual {
		return contracts.Result{}, fmt.Errorf("it is of kind %s: only those of kind %s are ended by hand", info.Kind, contracts.KindManual)
	}
	if info.Result != nil {
		return *info.Result, ErrAnswered
	}
	taken := false
	for {
		wait := answerTimeout
		if !taken {
			receipt, err := p.askAnswer(ctx, a.ID, body)
			switch {
			case err == nil && receipt.Answer != "":
				taken = true
				wait = answerMargin
			case err != nil && permanent(err):
				return contracts.Result{}, err
			}
		}
		// Where nobody was there to take it, the next look comes soon.
		r, err := p.resultWithin(ctx, a.ID, wait)
		switch {
		case err == nil && r.Metadata[contracts.MetaManualAnswer] == a.Answer:
			return r, nil
		case err == nil:
			return r, fmt.Errorf("%w: %s", ErrAnswered, r.Status)
		case ctx.Err() != nil && taken:
			return contracts.Result{}, fmt.Errorf("a worker has taken it, and has not stored the result: %w", endOf(ctx, ErrUnknown))
		case ctx.Err() != nil:
			return contracts.Result{}, fmt.Errorf("no worker that holds it has answered: %w", endOf(ctx, ErrUnknown))
		case errors.Is(err, context.DeadlineExceeded):
			taken = false // that worker is gone, or slow: it is asked again
		default:
			return contracts.Result{}, err
		}
	}
}

// askAnswer asks whoever holds the run. No answer is a zero receipt.
func (p *Producer) askAnswer(ctx context.Context, id string, body []byte) (contracts.ManualReceipt, error) {
	once, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m, err := p.nc.RequestMsgWithContext(once, &nats.Msg{Subject: p.names.Answer(p.tenant, id), Header: newHeader(), Data: body})
	switch {
	case err == nil:
		receipt, err := contracts.Decode[contracts.ManualReceipt](m.Data, metaOf(m.Header))
		if err != nil || receipt.Validate() != nil {
			return contracts.ManualReceipt{}, nil // not a worker's
		}
		return receipt, nil
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return contracts.ManualReceipt{}, nil
	}
	return contracts.ManualReceipt{}, closedOr(err)
}

// resultWithin waits for a result; context.DeadlineExceeded is none yet.
func (p *Producer) resultWithin(ctx context.Context, id string, wait time.Duration) (contracts.Result, error) {
	once, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for r, err := range p.Wait(once, id) {
		if err != nil && once.Err() != nil {
			return contracts.Result{}, context.DeadlineExceeded
		}
		return r, err
	}
	return contracts.Result{}, context.DeadlineExceeded
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// ErrTaken says that a worker has taken the invocation, or that it has ended.
var ErrTaken = errors.New("a worker has taken it")

// A worker that runs a job for so long has stored its start, which it does after 1 s, or with its first output.
const startShows = 1500 * time.Millisecond

// Withdraw removes a queued invocation that no worker has taken, and leaves no trace of it: as if it had never been
// submitted. If one has, Withdraw changes nothing and returns ErrTaken: cancel it, or wait for it. An unknown id
// is ErrNotFound. It needs the right to delete messages of the queue.
func (p *Producer) Withdraw(ctx context.Context, id string) error {
	if err := p.checkID(id); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := p.withdraw(ctx, id); err != nil {
		return fmt.Errorf("withdraw %s: %w", id, err)
	}
	return nil
}

func (p *Producer) withdraw(ctx context.Context, id string) error {
	message, err := p.queued(ctx, id)
	if errors.Is(err, ErrNotFound) {
		if _, _, rerr := p.result(ctx, id); rerr == nil {
			return ErrTaken
		}
		return err
	}
	if err != nil {
		return err
	}
	if err := p.untouched(ctx, id); err != nil {
		return err
	}
	a, err := p.names.ParseInvoke(message.Subject)
	if err != nil {
		return err
	}
	_, err = insist(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, p.invoke.Delete(ctx, message.Seq) })
	// Not found: acked since, or the answer to our own delete was lost. What is stored tells.
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	// From here on nobody is handed it. Who was before we deleted it shows within startShows; where no
	// worker is there at all nobody was.
	served, err := p.Served(ctx, a.Kind, a.Pool)
	if err == nil && !served {
		err = p.untouched(ctx, id)
	} else {
		err = p.staysUntouched(ctx, id)
	}
	if err == nil {
		return nil
	}
	// A worker runs it: the queue must hold it again, or it would be lost with that worker. If it has ended
	// meanwhile the next pre-run check drops it.
	restore, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultPatience)
	defer cancel()
	if _, perr := insist(restore, func(ctx context.Context) (uint64, error) {
		return p.invoke.Put(ctx, message.Subject, message.Header, message.Data)
	}); perr != nil && !errors.Is(perr, ErrOccupied) {
		return fmt.Errorf("%w, and it could not be put back: %w", err, perr)
	}
	return err
}

func (p *Producer) staysUntouched(ctx context.Context, id string) error {
	for until := time.Now().Add(startShows); time.Now().Before(until); {
		if err := p.untouched(ctx, id); err != nil {
			return err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return p.untouched(ctx, id)
}

// untouched returns ErrTaken if anything is stored of id.
func (p *Producer) untouched(ctx context.Context, id string) error {
	_, err := insist(ctx, func(ctx context.Context) (Stored, error) {
		return p.reply.Last(ctx, p.names.ReplyAll(p.tenant, id))
	})
	switch {
	case err == nil:
		return ErrTaken
	case errors.Is(err, ErrNotFound):
		return nil
	}
	return err
}

// Served reports whether a worker that lives, and does not drain, takes invocations of kind in pool ("" is "default").
func (p *Producer) Served(ctx context.Context, kind contracts.Kind, pool string) (bool, error) {
	if pool == "" {
		pool = contracts.DefaultPool
	}
	workers, err := p.Workers(ctx)
	for _, w := range workers {
		if w.Pool != pool || w.Draining {
			continue
		}
		for _, k := range w.Kinds {
			if k == kind {
				return true, nil
			}
		}
	}
	return false, err
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// After a worker has come, or a server has come back, orphans are looked for within this, and not before a sixth of
	// it; the spread is for a fleet that comes back together.
	orphansWithin = 30 * time.Second
	orphansEvery  = 10 * time.Minute
)

// seekOrphans removes what a killed server left in the queue although it was acknowledged: a consumer's state and
// the messages of its stream reach the disk apart, and nats-server makes good the difference at its
// start for interest streams, not for work queues. Such a message is delivered to nobody ever
// again, and would keep its id taken and its place in the queue for good.
func (t *Taker) seekOrphans(ctx context.Context, js jetstream.JetStream) {
	within := t.cfg.OrphansWithin
	soon := func() time.Time { return time.Now().Add(within/6 + rand.N(within/6*5)) }
	next, reconnects := soon(), t.nc.Stats().Reconnects
	for sleep(ctx, time.Second) {
		if n := t.nc.Stats().Reconnects; n != reconnects {
			next, reconnects = soon(), n
		}
		if time.Now().Before(next) || !t.nc.IsConnected() {
			continue
		}
		if _, err := t.removeOrphans(ctx, js); err != nil && ctx.Err() == nil {
			t.cfg.Problem(fmt.Errorf("look for acknowledged messages in the queue: %w", err))
		}
		next = time.Now().Add(orphansEvery + rand.N(orphansWithin))
	}
}

// removeOrphans looks through the consumers of this worker once and returns how many messages it removed.
func (t *Taker) removeOrphans(ctx context.Context, js jetstream.JetStream) (removed int, err error) {
	invoke := NewStore(t.nc, t.cfg.Topology.InvokeStream(), t.cfg.Topology.ReplicaCount())
	for _, kind := range t.cfg.Kinds {
		for _, lane := range contracts.Lanes() {
			want := t.cfg.Topology.Consumer(kind, t.cfg.Pool, lane, contracts.DefaultShard)
			ask, cancel := context.WithTimeout(ctx, 10*time.Second)
			c, err := js.Consumer(ask, t.cfg.Topology.InvokeStream(), want.Durable)
			cancel()
			if err != nil {
				return removed, fmt.Errorf("consumer %s: %w", want.Durable, err)
			}
			// All up to the floor is acknowledged. The floor only rises: what is read after it and lies below it is an orphan.
			floor := c.CachedInfo().AckFloor.Stream
			if floor == 0 {
				continue
			}
			for s, err := range invoke.WalkLeader(ctx, want.FilterSubject) {
				if err != nil {
					return removed, err
				}
				if s.Seq > floor {
					break
				}
				if err := t.removeOrphan(ctx, invoke, s); err != nil {
					return removed, err
				}
				removed++
			}
		}
	}
	return removed, nil
}

func (t *Taker) removeOrphan(ctx context.Context, invoke *Store, s Stored) error {
	a, err := t.names.ParseInvoke(s.Subject)
	if err == nil {
		err = t.answerOrphan(ctx, a, s)
	}
	if err != nil {
		return err
	}
	if err := invoke.Delete(ctx, s.Seq); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	t.cfg.Problem(fmt.Errorf("removed %s from the queue: it had been acknowledged, and a server that was killed kept it", s.Subject))
	return nil
}

// answerOrphan makes sure that an acknowledged invocation has its result. Acknowledged is only what has one; where it is
// gone, the machine lost what its disk had not: then the work is not run again, and the result says so.
func (t *Taker) answerOrphan(ctx context.Context, a Address, s Stored) error {
	subject := t.names.Result(a.Tenant, a.ID)
	_, err := t.reply.Last(ctx, subject)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if t.Now().Sub(s.Time) > t.cfg.Topology.Age()/2 {
		return nil // it has aged out, or will be missed by nobody
	}
	r := contracts.Result{
		ID: a.ID, Kind: a.Kind, Tenant: a.Tenant, Pool: a.Pool, Lane: a.Lane, Digest: digestOf(s.Header, s.Data),
		Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, Error: "it had ended, and the server lost its result when it was killed: submit it again under another id",
		Worker: t.cfg.Worker, Host: t.cfg.Host, SubmittedAt: s.Time, FinishedAt: t.Now().UTC(),
	}
	data, err := contracts.Encode(r)
	if err != nil {
		return err
	}
	if _, err := t.reply.Put(ctx, subject, newHeader(), data); err != nil && !errors.Is(err, ErrOccupied) {
		return err
	}
	return nil
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

// renewWait is how long a copy may take to come after the credit was used up that was given before the last one.
const renewWait = 20 * time.Millisecond

// ear is a subscription on the live copies of one invocation. The server sends no more than the credit that was given;
// no more than credit copies are on their way at once.
type ear struct {
	p      *Producer
	sub    *nats.Subscription
	copies chan heard
	first  atomic.Uint64 // the number, in the stream, of the first copy; 0 before it has come
	left   chan struct{} // closed when nobody listens any more
	leave  sync.Once
	credit int
	given  int // in all
	before int // in all, before it was given more: the server may have had its end there
}

// heard is a live copy, and when it came.
type heard struct {
	Stored
	at time.Time
}

// renew gives more credit to a subscription of whose last credit half is used up. Where everything has come by then,
// the subscription is over; where the server had sent it, it is over for that one, and what comes after is missed.
func (e *ear) renew(credit int) error {
	given := e.given - e.credit/2 + credit
	err := e.sub.AutoUnsubscribe(given)
	if errors.Is(err, nats.ErrBadSubscription) {
		return nil
	}
	e.before, e.given, e.credit = e.given, given, credit
	return subscribeError(err)
}

func (f *follower) listen() (*ear, error) {
	e := &ear{p: f.p, copies: make(chan heard, mostCredit), left: make(chan struct{}), credit: f.credit, given: f.credit}
	var err error
	// Not ChanSubscribe: nats.go 1.55 reads the end of such a subscription without its lock, and renew moves it.
	e.sub, err = f.p.follow.Subscribe(f.p.names.LiveAll(f.p.tenant, f.id), func(m *nats.Msg) {
		s, ok := f.p.fromCopy(m)
		if !ok {
			s.Data = m.Data // it counts against the credit, and is nothing else
		}
		e.take(heard{s, time.Now()})
	})
	if err != nil {
		return nil, subscribeError(err)
	}
	f.p.ears.Add(1)
	if err = e.sub.AutoUnsubscribe(e.credit); err != nil {
		e.close()
		return nil, subscribeError(err)
	}
	return e, nil
}

// take is called for each copy, one at a time. There is room for all that was asked for.
func (e *ear) take(h heard) {
	e.first.CompareAndSwap(0, h.Seq)
	select {
	case e.copies <- h:
	case <-e.left:
	}
}

// close may be called again.
func (e *ear) close() {
	e.leave.Do(func() {
		close(e.left)
		e.p.ears.Add(-1)
	})
	_ = e.sub.Unsubscribe()
}

// live shows what is stored as it is stored, until it has used up its credit, something is missing or the
// connection was lost: then it returns nil, and the follower reads on from what is stored.
func (f *follower) live(ctx context.Context) error {
	f.credit = max(f.credit, f.allowed()/contracts.MaxFloodChunkBytes)
	e, err := f.listen()
	if err != nil {
		return err
	}
	defer e.close()
	// What was stored before the server knew of the subscription.
	if err := f.join(ctx, e); err != nil {
		return err
	}
	return f.hearAll(ctx, e)
}

func (f *follower) hearAll(ctx context.Context, e *ear) error {
	nc := f.p.follow
	reconnects := nc.Stats().Reconnects
	tick := time.NewTicker(liveIdle)
	defer tick.Stop()
	idle, last, proven := liveIdle, time.Now(), time.Now()
	renewed := time.NewTimer(renewWait)
	defer renewed.Stop()
	came, weight, began := 0, 0, last // copies since credit was last given
	for n := 0; n < e.given; {
		var missed <-chan time.Time
		if n == e.before && n > 0 {
			renewed.Reset(renewWait)
			missed = renewed.C
		}
		select {
		case <-missed:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case h := <-e.copies:
			n++
			came++
			weight += len(h.Data)
			idle, last = liveIdle, time.Now()
			if err := f.hear(ctx, h.Stored); err != nil {
				return err
			}
			if n != e.given-e.credit/2 {
				continue
			}
			f.carried(weight, h.at.Sub(began))
			if credit := f.fits(weight, came); credit >= e.credit {
				came, weight, began = 0, 0, h.at
				if err := e.renew(credit); err != nil {
					return err
				}
			}
		case <-tick.C:
			switch {
			case nc.IsClosed():
				return fmt.Errorf("connection: %w", ErrClosed)
			case nc.Stats().Reconnects != reconnects:
				return nil
			case time.Since(last) < idle:
				continue
			}
			at := f.pos
			if err := f.catchUp(ctx); err != nil {
				return err
			}
			if f.pos != at {
				return nil // it was stored and no copy came
			}
			idle, last = min(2*idle, liveIdleMost), time.Now()
			if time.Since(proven) > f.p.goneEvery {
				if err := f.gone(ctx); err != nil {
					return err
				}
				proven = time.Now()
			}
		}
	}
	f.credit = f.fits(weight, came)
	return nil
}

// hear takes in a live copy. If it is not the next step of what is shown, something before it may have been
// missed, and everything up to it is read from what is stored.
func (f *follower) hear(ctx context.Context, s Stored) error {
	if s.Seq <= f.pos {
		return nil
	}
	a, err := f.p.names.ParseReply(s.Subject)
	if err != nil {
		return nil
	}
	switch {
	case a.Kind == ReplyResult, // looks for itself at what is missing
		a.Kind == ReplyStart && f.now == nil,
		a.Kind == ReplyChunk && f.now != nil && f.now.name == a.Run && f.now.next == a.N:
		return f.take(ctx, s)
	}
	return f.readTo(ctx, s.Seq)
}

// fromCopy returns what the republished m is a copy of; false if it is none of the reply stream. As in a direct get, only
// the last value of a header is the server's.
func (p *Producer) fromCopy(m *nats.Msg) (Stored, bool) {
	if m.Header == nil || take(m.Header, jetstream.StreamHeader) != p.topo.ReplyStream() {
		return Stored{}, false
	}
	s := Stored{Subject: take(m.Header, jetstream.SubjectHeader), Header: m.Header, Data: m.Data}
	var err error
	if s.Seq, err = strconv.ParseUint(take(m.Header, jetstream.SequenceHeader), 10, 64); err != nil {
		return Stored{}, false
	}
	s.Time, err = time.Parse(time.RFC3339Nano, take(m.Header, jetstream.TimeStampHeaer))
	return s, err == nil
}

func subscribeError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		return fmt.Errorf("connection: %w", ErrClosed)
	}
	return fmt.Errorf("subscribe: %w", err)
}

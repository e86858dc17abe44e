package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ear is a subscription on the live copies of one invocation. The server sends no more than its credit.
type ear struct {
	sub    *nats.Subscription
	copies chan *nats.Msg
	credit int
}

func (f *follower) listen() (*ear, error) {
	e := &ear{copies: make(chan *nats.Msg, f.credit), credit: f.credit}
	var err error
	if e.sub, err = f.p.follow.ChanSubscribe(f.p.names.LiveAll(f.p.tenant, f.id), e.copies); err != nil {
		return nil, subscribeError(err)
	}
	if err = e.sub.AutoUnsubscribe(e.credit); err != nil {
		return nil, subscribeError(err)
	}
	return e, nil
}

func (e *ear) close() { _ = e.sub.Unsubscribe() }

// live shows what is stored as it is stored, until it has used up its credit, something is missing or the
// connection was lost: then it returns nil, and the follower reads on from what is stored.
func (f *follower) live(ctx context.Context) error {
	e, err := f.listen()
	if err != nil {
		return err
	}
	defer e.close()
	// What was stored before the server knew of the subscription.
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	return f.hearAll(ctx, e)
}

func (f *follower) hearAll(ctx context.Context, e *ear) error {
	nc := f.p.follow
	reconnects := nc.Stats().Reconnects
	tick := time.NewTicker(liveIdle)
	defer tick.Stop()
	idle, heard, proven := liveIdle, time.Now(), time.Now()
	weight := 0
	for n := 0; n < e.credit; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-e.copies:
			n++
			weight += len(m.Data)
			idle, heard = liveIdle, time.Now()
			if err := f.hear(ctx, m); err != nil {
				return err
			}
		case <-tick.C:
			switch {
			case nc.IsClosed():
				return fmt.Errorf("connection: %w", ErrClosed)
			case nc.Stats().Reconnects != reconnects:
				return nil
			case time.Since(heard) < idle:
				continue
			}
			at := f.pos
			if err := f.catchUp(ctx); err != nil {
				return err
			}
			if f.pos != at {
				return nil // it was stored and no copy came
			}
			idle, heard = min(2*idle, liveIdleMost), time.Now()
			if time.Since(proven) > f.p.goneEvery {
				if err := f.gone(ctx); err != nil {
					return err
				}
				proven = time.Now()
			}
		}
	}
	f.credit = liveCreditSmall
	if weight > e.credit*smallCopy {
		f.credit = liveCreditLarge
	}
	return nil
}

// hear takes in a live copy. If it is not the next step of what is shown, something before it may have been
// missed, and everything is read from what is stored.
func (f *follower) hear(ctx context.Context, m *nats.Msg) error {
	s, ok := f.p.fromCopy(m)
	if !ok || s.Seq <= f.pos {
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
	return f.catchUp(ctx)
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
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		return fmt.Errorf("connection: %w", ErrClosed)
	}
	return fmt.Errorf("subscribe: %w", err)
}

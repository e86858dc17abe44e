package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// What a follower asks for at once, and what it takes in of live copies before it renews its subscription: the
	// server sends no more than that to one that does not read. It begins with a quarter of a
	// second of a link of 1 MB/s, and goes by what the link shows it can carry in paceTime.
	paceLeast, paceMost = 256 << 10, 16 << 20
	paceTime            = 100 * time.Millisecond
	// The most that is asked for at once of what is stored.
	mostAtOnce = 4 << 20
	// What all followers of a Producer may have on their way. A server gives up a connection on which 64 MiB wait.
	paceOfAll = 32 << 20
	// So many copies may be on their way however small the pace, if they are small.
	liveCreditSmall = 64
	smallCopy       = 4 << 10
	leastCredit     = 2 // what is used up by halves
	mostCredit      = max(paceMost/contracts.MaxChunkBytes, liveCreditSmall)
	// What is asked for at once where live copies bring the rest: what is asked for too much comes twice.
	joinBytes = 1 << 20
	// How long what a slow link still holds may take to come.
	drainTimeout = 10 * time.Second
)

// errEnough ends a walk that has come as far as it is to go.
var errEnough = errors.New("enough")

// timed adapts the pace to a question of as many bytes as that, whose answer was of weight bytes and took so long.
func (f *follower) timed(asked, weight int, took time.Duration) {
	switch {
	case took > 4*paceTime:
		f.pace = max(f.pace/2, paceLeast)
	case took < paceTime && asked >= min(f.pace, mostAtOnce) && weight >= asked/2: // less says nothing of what the link can carry
		f.pace = min(2*f.pace, paceMost)
	}
}

// carried adapts the pace to live copies, half of what was asked for, that weighed so much and came within that time.
func (f *follower) carried(weight int, took time.Duration) {
	switch {
	case took > 2*paceTime:
		f.pace = max(f.pace/2, paceLeast)
	case took < paceTime/2 && weight >= f.pace/4:
		f.pace = min(2*f.pace, paceMost)
	}
}

// fits is the credit for copies like those n that weighed so much.
func (f *follower) fits(weight, n int) int {
	if weight > n*smallCopy {
		return max(leastCredit, f.allowed()/max(contracts.MaxChunkBytes, weight/n))
	}
	return liveCreditSmall
}

// allowed is the pace, or what is left of it where many follow over one connection.
func (f *follower) allowed() int {
	return min(f.pace, max(paceOfAll/int(max(f.p.ears.Load(), 1)), paceLeast))
}

// catchUp takes in everything that is stored and was not taken in yet; the leader says when that is all.
func (f *follower) catchUp(ctx context.Context) error {
	return f.walk(ctx, f.p.names.ReplyAll(f.p.tenant, f.id), reach{}, f.take)
}

// comeNear is catchUp, which may leave as much as comes in a moment: of a run that writes on there is always more.
func (f *follower) comeNear(ctx context.Context) error {
	return f.walk(ctx, f.p.names.ReplyAll(f.p.tenant, f.id), reach{near: true}, f.take)
}

// join takes in what is stored before the first live copy.
func (f *follower) join(ctx context.Context, e *ear) error {
	return f.walk(ctx, f.p.names.ReplyAll(f.p.tenant, f.id), reach{most: joinBytes}, func(ctx context.Context, s Stored) error {
		err := f.take(ctx, s)
		if first := e.first.Load(); err == nil && first > 0 && s.Seq+1 >= first {
			err = errEnough
		}
		return err
	})
}

// readTo takes in what is stored up to the message with a number.
func (f *follower) readTo(ctx context.Context, seq uint64) error {
	return f.walk(ctx, f.p.names.ReplyAll(f.p.tenant, f.id), reach{most: joinBytes}, func(ctx context.Context, s Stored) error {
		err := f.take(ctx, s)
		if err == nil && s.Seq >= seq {
			err = errEnough
		}
		return err
	})
}

// reach is how a walk goes.
type reach struct {
	most int  // bytes asked for at once, whatever the pace; 0 is the pace
	near bool // it may end before the end: where little more is left than the link carries at once
}

// walk hands every message of a filter from f.pos on to take, in stored order, and asks again where no answer came.
func (f *follower) walk(ctx context.Context, filter string, r reach, take func(context.Context, Stored) error) error {
	next := func() int {
		if r.most > 0 {
			return min(f.pace, r.most)
		}
		return min(f.pace, mostAtOnce)
	}
	size := next()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var lost error
		for s, err := range f.p.output.Walk(ctx, filter, f.pos+1, WalkOptions{MaxBytes: size, Next: func(weight int, took time.Duration, left uint64) int {
			f.timed(size, weight, took)
			size = next()
			if r.near && left > 0 && left <= uint64(f.allowed()/contracts.MaxFloodChunkBytes) {
				size = 0
			}
			return size
		}}) {
			if err != nil {
				lost = err
				break
			}
			if err := take(ctx, s); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if lost == nil || permanent(lost) {
			return lost
		}
		// What was asked for may still be on its way over a slow link. It is let through first, and the next question is for less.
		size = max(size/2, 1)
		drain, cancel := context.WithTimeout(ctx, drainTimeout)
		err := f.p.follow.FlushWithContext(drain)
		cancel()
		if errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("connection: %w", ErrClosed)
		}
		if !sleep(ctx, wait) {
			return endOf(ctx, lost)
		}
	}
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/nats-io/nats.go"
)

const (
	// requestTimeout bounds one request: a longer wait means that the server that should answer is gone.
	requestTimeout = 2 * time.Second
	// infoTimeout bounds the question why nobody took a message.
	infoTimeout = 500 * time.Millisecond
	// sweepEvery is how often unanswered messages are looked through, while there are any.
	sweepEvery = 100 * time.Millisecond

	statusHeader = "Status" // under which nats.go keeps the status line of a reply
)

// link is what all Stores of one connection share: one subscription for the
// answers to what they publish and one for what they read, and the hook that
// turns a denied publish into an error at once. Without it a denied publish is
// a timeout, and the reason an async error that nobody connects with it.
type link struct {
	nc             *nats.Conn
	acks, reads    string // subject prefixes of the replies
	mu             sync.Mutex
	subscribeErr   error
	waiting        map[uint64]*call
	next           uint64
	async          []*call // in the order of their deadlines
	sweeping       bool
	subscribedOnce bool
}

// call waits for the answer, or the answers, to one request.
type call struct {
	subject string
	below   bool // of a guard: subject is what the denied one begins with
	// on takes an answer and reports whether it was the last one. It is called by one goroutine
	// at a time and never again after it returned true or the call was dropped.
	on func(*nats.Msg) bool
	// fail ends the call without an answer.
	fail     func(error)
	token    uint64
	deadline time.Time // of async calls only; the others are dropped by who waits
}

var links struct {
	mu sync.Mutex
	of map[weak.Pointer[nats.Conn]]weak.Pointer[link]
}

// linkOf returns the link of a connection. The table holds it weakly: it lives
// as long as a Store of the connection or the connection itself, which holds
// it through its error handler.
func linkOf(nc *nats.Conn) *link {
	links.mu.Lock()
	defer links.mu.Unlock()
	key := weak.Make(nc)
	if l := links.of[key].Value(); l != nil {
		return l
	}
	inbox := nc.NewInbox()
	l := &link{nc: nc, acks: inbox + ".a.", reads: inbox + ".r.", waiting: map[uint64]*call{}}
	previous := nc.ErrorHandler()
	nc.SetErrorHandler(func(c *nats.Conn, sub *nats.Subscription, err error) {
		l.denied(err)
		if previous != nil {
			previous(c, sub, err)
		}
	})
	if links.of == nil {
		links.of = map[weak.Pointer[nats.Conn]]weak.Pointer[link]{}
	}
	links.of[key] = weak.Make(l)
	runtime.AddCleanup(nc, func(key weak.Pointer[nats.Conn]) {
		links.mu.Lock()
		defer links.mu.Unlock()
		delete(links.of, key)
	}, key)
	return l
}

// subscribe makes the two subscriptions, once; l.mu is held.
func (l *link) subscribe() error {
	if l.subscribedOnce {
		return l.subscribeErr
	}
	for _, prefix := range []string{l.acks, l.reads} {
		sub, err := l.nc.Subscribe(prefix+"*", func(m *nats.Msg) { l.dispatch(prefix, m) })
		if err != nil {
			return fmt.Errorf("subscribe to replies: %w", closedOr(err))
		}
		// What is asked for is bounded by windows and max_bytes; nothing of it may be dropped.
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return fmt.Errorf("subscribe to replies: %w", closedOr(err))
		}
	}
	l.subscribedOnce = true
	return nil
}

func (l *link) dispatch(prefix string, m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, prefix), 36, 64)
	if err != nil {
		return
	}
	l.mu.Lock()
	c := l.waiting[token]
	l.mu.Unlock()
	if c != nil && c.on != nil && c.on(m) {
		l.drop(c)
	}
}

// add registers c and returns the subject that its answers go to.
func (l *link) add(c *call, prefix string, timeout time.Duration) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.subscribe(); err != nil {
		return "", err
	}
	l.next++
	c.token = l.next
	l.waiting[c.token] = c
	if timeout > 0 {
		c.deadline = time.Now().Add(timeout)
		l.async = append(l.async, c)
		if !l.sweeping {
			l.sweeping = true
			time.AfterFunc(sweepEvery, l.sweep)
		}
	}
	var buf [96]byte
	return string(strconv.AppendUint(append(buf[:0], prefix...), c.token, 36)), nil
}

// drop ends the waiting for c and reports whether it was still waited for.
func (l *link) drop(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[c.token] != c {
		return false
	}
	delete(l.waiting, c.token)
	return true
}

// sweep fails the async calls whose time is over, all of them if the
// connection is closed, and comes again while there are any left.
func (l *link) sweep() {
	closed, now := l.nc.IsClosed(), time.Now()
	var over []*call
	l.mu.Lock()
	i := 0
	for ; i < len(l.async); i++ {
		c := l.async[i]
		if l.waiting[c.token] == c {
			if !closed && now.Before(c.deadline) {
				break
			}
			delete(l.waiting, c.token)
			over = append(over, c)
		}
		l.async[i] = nil
	}
	l.async = l.async[i:]
	if l.sweeping = len(l.async) > 0; l.sweeping {
		time.AfterFunc(sweepEvery, l.sweep)
	} else {
		l.async = nil
	}
	l.mu.Unlock()
	err := ErrUnknown
	if closed {
		err = ErrClosed
	}
	for _, c := range over {
		c.fail(err)
	}
}

// denied fails every call on the subject that a permissions violation names.
// A permission holds for the connection, so it holds for all of them.
func (l *link) denied(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	text := err.Error()
	from, to := strings.IndexByte(text, '"'), strings.LastIndexByte(text, '"')
	if from < 0 || to <= from {
		return
	}
	subject, uerr := strconv.Unquote(text[from : to+1])
	if uerr != nil {
		return
	}
	replies := strings.HasPrefix(subject, strings.TrimSuffix(l.acks, "a.")) // our own inbox: no answer will ever come
	var over []*call
	l.mu.Lock()
	for token, c := range l.waiting {
		if replies || c.subject == subject || c.below && strings.HasPrefix(subject, c.subject) {
			delete(l.waiting, token)
			over = append(over, c)
		}
	}
	l.mu.Unlock()
	for _, c := range over {
		c.fail(fmt.Errorf("%w: %s", ErrDenied, subject))
	}
}

// guard returns a context that ends with ErrDenied as its cause as soon as a
// publish to a subject with one of the prefixes is denied, for requests that
// are not made through the link and would time out.
func (l *link) guard(ctx context.Context, prefixes ...string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var calls []*call
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, prefix := range prefixes {
		l.next++
		c := &call{subject: prefix, below: true, token: l.next, fail: cancel}
		l.waiting[c.token] = c
		calls = append(calls, c)
	}
	return ctx, func() {
		for _, c := range calls {
			l.drop(c)
		}
		cancel(nil)
	}
}

// request publishes data to an API subject and hands each answer to on, until
// on returns true. It waits on as long as answers come, at most patience
// between two of them.
func (l *link) request(ctx context.Context, subject string, data []byte, patience time.Duration, on func(*nats.Msg) bool) error {
	done := make(chan error, 1)
	var answers atomic.Int64
	var mu sync.Mutex
	over := false
	defer func() { // waits for an answer that is being taken in while the time is over
		mu.Lock()
		defer mu.Unlock()
		over = true
	}()
	c := &call{
		subject: subject,
		fail:    func(err error) { done <- err },
		on: func(m *nats.Msg) bool {
			mu.Lock()
			defer mu.Unlock()
			if over {
				return true
			}
			answers.Add(1)
			last := on(m)
			if last {
				done <- nil
			}
			return last
		},
	}
	reply, err := l.add(c, l.reads, 0)
	if err != nil {
		return err
	}
	defer l.drop(c)
	if err := l.nc.PublishRequest(subject, reply, data); err != nil {
		return closedOr(err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for seen := int64(0); ; {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
		case <-timer.C:
			n := answers.Load()
			if n == seen {
				return fmt.Errorf("%w: nothing within %v", ErrUnknown, patience)
			}
			seen = n
			timer.Reset(patience)
		}
	}
}

// closedOr maps the errors of handing a message to the connection.
func closedOr(err error) error {
	switch {
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// openWindow is how many invocations of one RunAll may be without a result at once.
	openWindow = 1024
	// Results asked for by name at once: 128 KiB each at most.
	resultsAtOnce = 64
	// A result that has not come by itself is asked for after this; the wait doubles up to Producer.pollMost.
	pollFirst = time.Second
	// Up to so many ids each have a subscription of their own; more share one on all results of the tenant.
	ownSubscriptions = 16
)

// Wait yields the result of each invocation in the order in which they end; those that have ended already come first.
// An id that is unknown, or whose result is not kept any more, yields a Result with its ID alone and ErrNotFound.
// A server that does not answer is waited for as long as ctx lasts; when that ends, the last pair is the error.
func (p *Producer) Wait(ctx context.Context, ids ...string) iter.Seq2[contracts.Result, error] {
	return func(yield func(contracts.Result, error) bool) {
		w := newWaiter(p, len(ids))
		defer w.close()
		var todo []string
		for _, id := range ids {
			switch err := p.checkID(id); {
			case err != nil:
				if !yield(contracts.Result{ID: id}, err) {
					return
				}
			case w.open(id, ""):
				todo = append(todo, id)
			}
		}
		if err := w.listen(ctx, todo); err != nil {
			yield(contracts.Result{}, fmt.Errorf("wait: %w", err))
			return
		}
		w.prove(ctx, todo)
		all := make(chan struct{})
		close(all)
		w.yieldAll(ctx, yield, all)
	}
}

// RunAll submits every invocation of a sequence and yields their results in the order in which they end. No more than
// 1,024 are open at once: the sequence is read as results are taken. What cannot be submitted
// yields a Result with its ID alone and the error, and the rest goes on. When ctx ends, the last pair is its
// cause; what was submitted stays submitted.
func (p *Producer) RunAll(ctx context.Context, invs iter.Seq[contracts.Invocation]) iter.Seq2[contracts.Result, error] {
	return func(yield func(contracts.Result, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		w := newWaiter(p, openWindow)
		defer w.close()
		if err := w.listen(ctx, nil); err != nil {
			cancel()
			yield(contracts.Result{}, fmt.Errorf("run all: %w", err))
			return
		}
		var submitting sync.WaitGroup
		defer submitting.Wait()
		defer cancel()
		all := make(chan struct{})
		submitting.Go(func() {
			defer close(all)
			w.submitAll(ctx, invs, &submitting)
		})
		w.yieldAll(ctx, yield, all)
	}
}

// waiter collects results: as their live copies come, and by asking for those that do not.
type waiter struct {
	p      *Producer
	prefix string // of the live subject of a result, up to the id
	subs   []*nats.Subscription
	came   chan ending   // has room for every open id
	places chan struct{} // one for each open id of a RunAll

	mu   sync.Mutex
	ids  map[string]due
	owed int // endings that were not yielded yet
}

// due says when an id is to be asked for next.
type due struct {
	at   time.Time
	wait time.Duration
	// digest is that of the content under a chosen id: a result of other content is not ours, and that the id is
	// in use is what the submission comes to. "" takes any.
	digest string
}

type ending struct {
	result contracts.Result
	err    error
}

func newWaiter(p *Producer, room int) *waiter {
	return &waiter{
		p:      p,
		prefix: strings.TrimSuffix(p.names.LiveResults(p.tenant), "*.result"),
		came:   make(chan ending, room+1),
		places: make(chan struct{}, room),
		ids:    make(map[string]due, min(room, openWindow)),
	}
}

// listen subscribes to the results of ids, or of the whole tenant if there are none or many. It returns when the
// server knows of it: what is sent on the other connection after that may not overtake it.
func (w *waiter) listen(ctx context.Context, ids []string) error {
	subjects := []string{w.p.names.LiveResults(w.p.tenant)}
	if len(ids) > 0 && len(ids) <= ownSubscriptions {
		subjects = nil
		for _, id := range ids {
			subjects = append(subjects, w.prefix+id+".result")
		}
	}
	for _, subject := range subjects {
		sub, err := w.p.follow.Subscribe(subject, w.hear)
		if err != nil {
			return subscribeError(err)
		}
		w.subs = append(w.subs, sub)
	}
	if w.p.follow != w.p.nc {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		_ = w.p.follow.FlushWithContext(ctx) // where it fails, results are asked for
	}
	return nil
}

func (w *waiter) close() {
	for _, sub := range w.subs {
		_ = sub.Unsubscribe()
	}
}

// open notes that the result of id is wanted; false if it is already.
func (w *waiter) open(id, digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.ids[id]; ok {
		return false
	}
	w.ids[id] = due{time.Now().Add(pollFirst), pollFirst, digest}
	w.owed++
	return true
}

// accept notes that id is ours: whatever its result is.
func (w *waiter) accept(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.ids[id]; ok {
		d.digest = ""
		w.ids[id] = d
	}
}

// end takes id off the list and hands its end on; the first one counts.
func (w *waiter) end(id string, e ending) {
	w.mu.Lock()
	_, ok := w.ids[id]
	delete(w.ids, id)
	w.mu.Unlock()
	if ok {
		w.came <- e
	}
}

func (w *waiter) wants(id string) (due, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.ids[id]
	return d, ok
}

// refuse hands on the end of an id that never was open.
func (w *waiter) refuse(id string, err error) {
	w.mu.Lock()
	w.owed++
	w.mu.Unlock()
	w.came <- ending{contracts.Result{ID: id}, err}
}

// owes returns how many endings are still to come, after taking off n that were yielded.
func (w *waiter) owes(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed -= n
	return w.owed
}

// hear takes in the live copy of a result.
func (w *waiter) hear(m *nats.Msg) {
	id, ok := strings.CutPrefix(m.Subject, w.prefix)
	if ok {
		id, ok = strings.CutSuffix(id, ".result")
	}
	if !ok {
		return
	}
	if _, ok = w.wants(id); !ok {
		return
	}
	if s, ok := w.p.fromCopy(m); ok {
		w.take(id, s)
	}
}

func (w *waiter) take(id string, s Stored) {
	r, err := read[contracts.Result](s)
	if err != nil {
		r = contracts.Result{ID: id}
	}
	if d, ok := w.wants(id); ok && (d.digest == "" || err != nil || r.Digest == d.digest) {
		w.end(id, ending{r, err})
	}
}

// yieldAll yields what comes until all is closed, and with it the list of ids, and nothing is owed any more.
func (w *waiter) yieldAll(ctx context.Context, yield func(contracts.Result, error) bool, all <-chan struct{}) {
	tick := time.NewTicker(pollFirst / 4)
	defer tick.Stop()
	reconnects := w.p.follow.Stats().Reconnects
	for owed := w.owes(0); owed > 0 || all != nil; {
		select {
		case <-all:
			all = nil
			owed = w.owes(0)
		case e := <-w.came:
			select {
			case <-w.places:
			default:
			}
			owed = w.owes(1)
			if !yield(e.result, e.err) {
				return
			}
		case <-ctx.Done():
			yield(contracts.Result{}, context.Cause(ctx))
			return
		case <-tick.C:
			if w.p.follow.IsClosed() || w.p.nc.IsClosed() {
				yield(contracts.Result{}, fmt.Errorf("wait: connection: %w", ErrClosed))
				return
			}
			now := w.p.follow.Stats().Reconnects
			w.poll(ctx, now != reconnects)
			reconnects = now
		}
	}
}

// poll asks for the results whose time has come, or for all of them.
func (w *waiter) poll(ctx context.Context, everything bool) {
	var ids, old []string
	now := time.Now()
	w.mu.Lock()
	for id, d := range w.ids {
		if !everything && now.Before(d.at) {
			continue
		}
		if d.wait >= w.p.pollMost {
			old = append(old, id)
		} else {
			ids = append(ids, id)
		}
		d.wait = min(2*d.wait, w.p.pollMost)
		d.at = now.Add(d.wait)
		w.ids[id] = d
	}
	w.mu.Unlock()
	// Presence is enough here: what a server that lags does not have yet comes with the next question.
	w.ask(ctx, ids)
	w.prove(ctx, old)
}

// ask asks any server for the results of ids and returns the ids that it did not find.
func (w *waiter) ask(ctx context.Context, ids []string) (missing []string) {
	for part := range slices.Chunk(ids, resultsAtOnce) {
		subjects := make([]string, len(part))
		for i, id := range part {
			subjects[i] = w.p.names.Result(w.p.tenant, id)
		}
		found, err := w.p.reply.Present(ctx, subjects)
		if err != nil {
			continue // asked again when its time comes
		}
		have := make(map[string]bool, len(found))
		for _, s := range found {
			if a, err := w.p.names.ParseReply(s.Subject); err == nil {
				have[a.ID] = true
				w.take(a.ID, s)
			}
		}
		for _, id := range part {
			if !have[id] {
				missing = append(missing, id)
			}
		}
	}
	return missing
}

// prove asks for the results of ids; those that are neither there nor queued are not found.
func (w *waiter) prove(ctx context.Context, ids []string) {
	for part := range slices.Chunk(w.ask(ctx, ids), resultsAtOnce) {
		queued := map[string]bool{}
		filters := make([]string, len(part))
		for i, id := range part {
			filters[i] = w.p.names.AnyInvoke(w.p.tenant, id)
		}
		// Not to ask the leader about each: what any server has is there.
		if found, err := w.p.invoke.Present(ctx, filters); err == nil {
			for _, s := range found {
				if a, err := w.p.names.ParseInvoke(s.Subject); err == nil {
					queued[a.ID] = true
				}
			}
		}
		for _, id := range part {
			if _, ok := w.wants(id); ok && !queued[id] {
				w.proveOne(ctx, id)
			}
		}
	}
}

func (w *waiter) proveOne(ctx context.Context, id string) {
	if _, err := w.p.invoke.Last(ctx, w.p.names.AnyInvoke(w.p.tenant, id)); !errors.Is(err, ErrNotFound) {
		return
	}
	// After the queue: what left it has a result.
	s, err := w.p.reply.Last(ctx, w.p.names.Result(w.p.tenant, id))
	if err == nil {
		w.take(id, s)
	} else if permanent(err) {
		w.end(id, ending{contracts.Result{ID: id}, err})
	}
}

// submitAll submits every invocation and opens it before it is sent, so that no result comes unawaited.
func (w *waiter) submitAll(ctx context.Context, invs iter.Seq[contracts.Invocation], wg *sync.WaitGroup) {
	p := w.p
	for inv := range invs {
		select {
		case <-ctx.Done():
			return
		case w.places <- struct{}{}:
		}
		s, err := p.prepare(inv)
		if err != nil {
			w.refuse(s.inv.ID, err)
			continue
		}
		id := s.inv.ID
		digest := ""
		if s.chosen {
			digest = s.digest
		}
		if !w.open(id, digest) {
			w.refuse(id, fmt.Errorf("submit %s: %w: it is open already", id, ErrIDInUse))
			continue
		}
		settle := func(submit func(context.Context) (Receipt, error)) {
			wg.Go(func() {
				r, err := submit(ctx)
				if err != nil {
					w.end(id, ending{contracts.Result{ID: id}, err})
					return
				}
				w.accept(id)
				if r.Existed || r.Seq == 0 {
					w.ask(ctx, []string{id}) // it may have ended before we listened
				}
			})
		}
		if s.chosen {
			settle(func(ctx context.Context) (Receipt, error) { return p.submitInTurn(ctx, s) })
			continue
		}
		wg.Add(1)
		p.invoke.PutAsync(s.subject, s.header, s.body, func(_ uint64, err error) {
			defer wg.Done()
			if err != nil {
				settle(func(ctx context.Context) (Receipt, error) { return p.mend(ctx, s, err) })
			}
		})
	}
}

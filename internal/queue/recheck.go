package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// past is what the reply stream says of the earlier runs of one invocation.
type past struct {
	result  bool                       // starts and ends are read beside one only if an asker cancelled it: see Delivery.Cancelled
	starts  map[string]contracts.Start // by run
	ends    map[string]contracts.End
	order   []string        // the runs that began, in that order
	last    contracts.Start // the run that began last
	lastSeq uint64
}

// checkWhole is the pre-run check of a delivery that somebody may have had before.
func (t *Taker) checkWhole(ctx context.Context, d *Delivery) {
	d.beat() // the check may take longer than a fresh one's
	var p past
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		var err error
		p, err = t.read(ask, d.addr)
		cancel()
		if err == nil {
			break
		}
		t.cfg.Problem(fmt.Errorf("pre-run check of %s: %w", d.addr.ID, err))
		if !sleep(ctx, wait) || time.Since(d.received) > freshFor {
			t.drop(d)
			return
		}
	}
	d.count = max(d.count, 2) // it is not new any more
	now, over := t.Now(), p.result && len(p.starts) == 0
	for _, e := range p.ends {
		if e.Counted {
			d.attempt++
		}
		over = over || p.result && e.Status == contracts.StatusCancelled // the holder has ended what there was
		if wait := e.NotBefore.Sub(now); wait > 0 && !p.result {
			d.nak(wait) // a server that was killed forgets the delay of a nak
			t.drop(d)
			return
		}
	}
	for _, run := range p.order {
		if end, ended := p.ends[run]; p.starts[run].Attempt == d.attempt && !(ended && end.Counted) {
			d.lost = append(d.lost, run)
		}
	}
	if over || p.result && len(d.lost) == 0 {
		t.decide(d, true)
		return
	}
	open := 0
	for run := range p.starts {
		if _, ended := p.ends[run]; !ended {
			open++
		}
	}
	d.suspect = open >= suspectStarts
	if open >= poisonStarts && !p.result {
		d.poisoned = open
	}
	if p.last.Run != "" && d.poisoned == 0 {
		if _, ended := p.ends[p.last.Run]; !ended && p.last.Worker != t.cfg.Worker {
			alive, err := t.people.Runs(ctx, p.last.Worker, p.last.Run)
			if err != nil {
				t.cfg.Problem(fmt.Errorf("ask whether %s lives: %w", p.last.Worker, err))
			}
			if alive {
				d.nak(ackWait)
				t.drop(d)
				return
			}
		}
	}
	d.seenSeq = p.lastSeq
	d.spent = p.ends
	d.again, d.cancelled = true, p.result
	t.decide(d, false)
}

// read gathers the result, the starts and the ends of an invocation. What it does not find is not there.
func (t *Taker) read(ctx context.Context, a Address) (past, error) {
	p := past{starts: map[string]contracts.Start{}, ends: map[string]contracts.End{}}
	switch s, err := t.reply.Last(ctx, t.names.Result(a.Tenant, a.ID)); {
	case err == nil:
		p.result = true
		r, err := contracts.Decode[contracts.Result](s.Data, metaOf(s.Header))
		if err != nil || !cancelledByAsker(r) || !t.cfg.Elsewhere(a.Kind) {
			return p, nil
		}
	case !errors.Is(err, ErrNotFound):
		return p, err
	}
	for s, err := range t.reply.WalkLeader(ctx, t.names.Starts(a.Tenant, a.ID)) {
		if err != nil {
			return p, err
		}
		v, err := contracts.Decode[contracts.Start](s.Data, metaOf(s.Header))
		if err != nil {
			continue // a stranger's; it is not one of our runs
		}
		p.starts[v.Run] = v
		p.order = append(p.order, v.Run)
		p.last, p.lastSeq = v, s.Seq
	}
	for s, err := range t.reply.WalkLeader(ctx, t.names.Ends(a.Tenant, a.ID)) {
		if err != nil {
			return p, err
		}
		v, err := contracts.Decode[contracts.End](s.Data, metaOf(s.Header))
		if err != nil {
			continue
		}
		p.ends[v.Run] = v
	}
	return p, nil
}

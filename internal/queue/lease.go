package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	keepEvery = 250 * time.Millisecond
	beatEvery = 3 * time.Second
	// jumpBy is how much the clock may run ahead of us before we read what happened meanwhile: a stop, a suspend.
	jumpBy = 4 * time.Second
)

// keep extends the leases of all that is held, hears of losses, and watches the clock.
func (t *Taker) keep(ctx context.Context) {
	status := t.nc.StatusChanged(nats.CONNECTED)
	defer t.nc.RemoveStatusListener(status)
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	last, wall := time.Now(), t.cfg.Clock().Round(0)
	asks := 0
	for {
		all := false
		select {
		case <-ctx.Done():
			return
		case <-status:
			t.pulls.tick(true)
			all = true
		case <-tick.C:
		}
		// Round drops the monotonic part: only the wall clock goes on while a machine is suspended.
		now, shown := time.Now(), t.cfg.Clock().Round(0)
		if now.Sub(last) > jumpBy || shown.Sub(wall) > jumpBy {
			all = true
		}
		last, wall = now, shown
		if asks++; asks%4 == 0 {
			t.pulls.tick(false)
		}
		t.beat(ctx, now, all)
	}
}

// beat beats for what is due (or all) and asks whether it is still ours.
func (t *Taker) beat(ctx context.Context, now time.Time, all bool) {
	var due []*Delivery
	t.mu.Lock()
	for _, d := range t.held {
		d.mu.Lock()
		if !d.began.IsZero() && !d.starting && now.Sub(d.began) >= startAfter {
			due = append(due, nil, d) // nil: the next wants its start stored
		} else if all || now.Sub(d.lastBeat) >= beatEvery {
			due = append(due, d)
		}
		d.mu.Unlock()
	}
	t.mu.Unlock()
	if len(due) == 0 {
		return
	}
	var beats []*Delivery
	for i := 0; i < len(due); i++ {
		if due[i] == nil {
			i++
			due[i].startSoon()
			continue
		}
		beats = append(beats, due[i])
	}
	cutOff := now.Sub(time.Unix(0, t.alive.Load())) > t.cfg.MaxDisconnect
	for _, d := range beats {
		if cutOff && now.Sub(d.received) > t.cfg.MaxDisconnect {
			d.lose(fmt.Errorf("%w: no answer from the server for %s", ErrLeaseLost, t.cfg.MaxDisconnect))
			continue
		}
		d.beat()
	}
	for len(beats) > 0 {
		n := min(len(beats), checkAtOnce/2)
		t.look(ctx, beats[:n])
		beats = beats[n:]
	}
}

func (t *Taker) beatAnswered(*nats.Msg) { t.alive.Store(time.Now().UnixNano()) }

// look reads whether others have stored a result, or begun a later run, for what we hold.
// It may miss what is there, and then sees it a beat later; the result's fence is what decides.
func (t *Taker) look(ctx context.Context, held []*Delivery) {
	by := make(map[string]*Delivery, len(held))
	subjects := make([]string, 0, 2*len(held))
	for _, d := range held {
		by[d.key] = d
		subjects = append(subjects, d.resultSubject(), t.names.Starts(d.addr.Tenant, d.addr.ID))
	}
	ask, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	found, err := t.reply.Present(ask, subjects)
	if err != nil {
		if ctx.Err() == nil && t.nc.IsConnected() {
			t.cfg.Problem(fmt.Errorf("look at %d leases: %w", len(held), err))
		}
		return
	}
	for _, s := range found {
		a, err := t.names.ParseReply(s.Subject)
		if err != nil {
			continue
		}
		d := by[a.Tenant+"."+a.ID]
		if d == nil {
			continue
		}
		d.seen(a, s)
	}
}

// seen judges one message of the reply stream against what this delivery holds.
func (d *Delivery) seen(a ReplyAddress, s Stored) {
	switch a.Kind {
	case ReplyResult:
		r, err := contracts.Decode[contracts.Result](s.Data, metaOf(s.Header))
		switch {
		case err != nil:
			d.lose(fmt.Errorf("%w: there is a result that cannot be read: %w", ErrLeaseLost, err))
		case cancelledByAsker(r):
			d.lose(ErrCancelled)
		case r.Run == d.run: // ours, about to be acked
		default:
			d.lose(fmt.Errorf("%w: run %s stored a result", ErrLeaseLost, r.Run))
		}
	case ReplyStart:
		d.mu.Lock()
		// Of two runs that know of each other the one whose start was stored last goes on.
		mine := max(d.startSeq, d.seenSeq)
		d.mu.Unlock()
		if a.Run != d.run && s.Seq > mine {
			d.lose(fmt.Errorf("%w: run %s began", ErrLeaseLost, a.Run))
		}
	}
}

// stillOurs is asked before a run begins on a delivery that has lain for long.
func (d *Delivery) stillOurs(ctx context.Context) bool {
	p, err := d.t.read(ctx, d.addr)
	return err == nil && !p.result && p.lastSeq <= d.seenSeq
}

// cancelAsked hears every cancel of the fleet; only a holder answers.
func (t *Taker) cancelAsked(m *nats.Msg) {
	tenant, id, err := t.names.ParseCancel(m.Subject)
	if err != nil {
		return
	}
	d := t.holding(tenant + "." + id)
	if d == nil {
		return
	}
	from := asker{subject: m.Reply, json: contracts.SpeaksJSON(m.Data, metaOf(m.Header))}
	d.mu.Lock()
	over := d.over
	if !over && m.Reply != "" {
		d.askers = append(d.askers, from)
	}
	d.mu.Unlock()
	if over {
		return // its result is stored: the asker finds it
	}
	if m.Reply != "" {
		t.tell(from, contracts.CancelReply{State: contracts.CancelKilling})
	}
	d.lose(ErrCancelled)
}

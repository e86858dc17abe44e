package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// conclude shows what is left of the run that counted, and the result. late says that the result was there before
// the follower.
func (f *follower) conclude(ctx context.Context, s Stored, late bool) error {
	res, err := read[contracts.Result](s)
	if err != nil {
		return err
	}
	name := res.Run
	if storedByClient(res) {
		if name, err = f.underWay(ctx); err != nil {
			return err
		}
	}
	if name != "" {
		r, err := f.show(name)
		if err != nil {
			return err
		}
		if storedByClient(res) {
			err = f.awaitEnd(ctx, r, s, late)
		} else {
			err = f.complete(ctx, r, res)
		}
		if err != nil {
			return err
		}
	}
	if err := f.say(contracts.Event{Type: contracts.EventResult, Run: res.Run, At: res.FinishedAt, Result: &res}); err != nil {
		return err
	}
	return errSaid
}

// storedByClient reports whether r was stored by who cancelled, not by the holder of a run: that one names its run.
// A run may still be on its way to its end.
func storedByClient(r contracts.Result) bool {
	return r.Status == contracts.StatusCancelled && r.Run == ""
}

// show makes name the run that is shown, from its beginning if another one was.
func (f *follower) show(name string) (*shownRun, error) {
	if f.now != nil && f.now.name == name {
		return f.now, nil
	}
	shown := f.now != nil
	f.now = &shownRun{name: name, next: 1}
	f.runs[name] = f.now
	f.pos = 0
	if !shown {
		return f.now, nil
	}
	return f.now, f.say(contracts.Event{Type: contracts.EventRestarted, Run: name})
}

// complete shows all that was not shown of r, which ended with res.
func (f *follower) complete(ctx context.Context, r *shownRun, res contracts.Result) error {
	if r.next <= res.Chunks {
		if err := f.walkRun(ctx, r); err != nil {
			return err
		}
	}
	if err := f.fill(ctx, r, res.Chunks, true); err != nil {
		return err
	}
	if r.ended { // its end had the tail
		return nil
	}
	return f.output(r, 0, res.FinishedAt, res.Tail)
}

// walkRun takes in what is stored of r from where the follower stands. What is missing in it never comes.
func (f *follower) walkRun(ctx context.Context, r *shownRun) error {
	return f.walk(ctx, f.p.names.RunAll(f.p.tenant, f.id, r.name), reach{}, f.takeStored)
}

// takeStored shows a message of a run that has ended, or is shown as far as it is stored.
func (f *follower) takeStored(ctx context.Context, s Stored) error {
	f.pos = max(f.pos, s.Seq)
	a, err := f.p.names.ParseReply(s.Subject)
	if err != nil || a.Kind == ReplyResult {
		return nil
	}
	return f.takeRun(ctx, s, a, true)
}

// underWay names the run that a cancel may have met: the one that is shown, or the one that started last.
func (f *follower) underWay(ctx context.Context) (string, error) {
	if f.now != nil {
		return f.now.name, nil
	}
	starts, _, err := f.p.history(ctx, f.id)
	if err != nil || len(starts) == 0 {
		return "", err
	}
	return starts[len(starts)-1].Run, nil
}

// awaitEnd shows the rest of a run that was cancelled over its holder's head, until the holder has stored its end,
// has let go of the invocation, or has had the time that it may need.
func (f *follower) awaitEnd(ctx context.Context, r *shownRun, s Stored, late bool) error {
	var until time.Time
	for {
		// Whether the holder still has it is asked before the look at what it stored: it stores its end first.
		q, err := f.p.queued(ctx, f.id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		held := err == nil
		if held && until.IsZero() {
			wait := defaultGrace + cancelMargin
			if inv, err := read[contracts.Invocation](q); err == nil {
				wait = graceOf(inv) + cancelMargin
			}
			if late {
				wait -= max(0, time.Since(s.Time))
			}
			until = time.Now().Add(wait)
		}
		if err := f.walkRun(ctx, r); err != nil || r.ended || !held || !time.Now().Before(until) {
			return err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// graceOf is how long the work of inv may take to stop.
func graceOf(inv contracts.Invocation) time.Duration {
	if inv.Stop == nil {
		return defaultGrace
	}
	d := time.Duration(inv.Stop.InterruptSeconds * float64(time.Second))
	if inv.Stop.GraceSeconds == nil {
		return d + defaultGrace
	}
	return d + time.Duration(*inv.Stop.GraceSeconds*float64(time.Second))
}

// replay shows what is stored of one run, or of all.
func (f *follower) replay(ctx context.Context, name string) error {
	f.all = true
	subject := f.p.names.ReplyAll(f.p.tenant, f.id)
	if name != AllRuns {
		if subject = f.p.names.RunAll(f.p.tenant, f.id, name); subject == "" {
			return fmt.Errorf("run %.40q: must be 8 characters, or %q", name, AllRuns)
		}
	}
	s, err := insist(ctx, func(ctx context.Context) (Stored, error) {
		return f.p.output.Direct(ctx, f.p.names.Result(f.p.tenant, f.id))
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	ended := err == nil
	if err := f.walk(ctx, subject, reach{}, f.takeStored); err != nil {
		return err
	}
	if ended {
		res, err := read[contracts.Result](s)
		if err != nil {
			return err
		}
		if name == AllRuns || res.Run == name {
			if res.Run != "" {
				r, err := f.turn(res.Run)
				if err == nil {
					err = f.complete(ctx, r, res)
				}
				if err != nil {
					return err
				}
			}
			if err := f.say(contracts.Event{Type: contracts.EventResult, Run: res.Run, At: res.FinishedAt, Result: &res}); err != nil {
				return err
			}
			return errSaid
		}
	}
	if f.pos > 0 {
		return errSaid
	}
	if name == AllRuns {
		if _, err := f.p.queued(ctx, f.id); !errors.Is(err, ErrNotFound) {
			if err == nil {
				err = errSaid // queued, and no run has stored anything yet
			}
			return err
		}
	}
	return ErrNotFound
}

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

func TestCancelByState(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")

	queued := f.ID("queued")
	f.Submit(c, f.Count("default", queued))
	report, err := c.Cancel(t.Context(), queued)
	if err != nil || report.Status != contracts.StatusCancelled || report.Was != contracts.StatusPending || report.AlreadyEnded {
		t.Errorf("Cancel() of a queued one = %+v, %v, want cancelled, was pending", report, err)
	}

	f.StartWorker(fleet.WorkerConfig{})
	running := f.ID("running")
	f.Submit(c, f.Count("default", running, "-n", "1000", "-every", "100ms", "-daemon"))
	awaitRuns(f, running, 2)
	f.Follow(f.Client("default", ""), "default", running, "early")
	if report, err = c.Cancel(t.Context(), running); err != nil || report.Status != contracts.StatusCancelled || report.Was != contracts.StatusRunning || report.Killed == "" {
		t.Errorf("Cancel() of a running one = %+v, %v, want cancelled, was running, and what was killed", report, err)
	}
	figure(t, "killed", "%s", report.Killed)
	if n := f.Alive("default", running); n != 0 {
		t.Errorf("%d processes live when Cancel has returned", n)
	}

	ended := f.ID("ended")
	f.Submit(c, f.Count("default", ended))
	result(t, c, ended, fleet.Patience)
	if report, err = c.Cancel(t.Context(), ended); err != nil || !report.AlreadyEnded || report.Status != contracts.StatusSucceeded {
		t.Errorf("Cancel() of an ended one = %+v, %v, want succeeded, already ended", report, err)
	}
	if _, err = c.Cancel(t.Context(), "nobody"); !errors.Is(err, runnel.ErrNotFound) {
		t.Errorf("Cancel() of an unknown id = %v, want ErrNotFound", err)
	}
	if n := f.Executions("default", queued); n != 0 {
		t.Errorf("what was cancelled while it waited ran %d times", n)
	}
	f.Verify()
}

// Nobody answers for a frozen holder: the client stores the result, and the holder stops its
// run when it sees that.
func TestCancelOfAFrozenHolder(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	for name, paused := range map[string]time.Duration{"short": 0, "long": 15 * time.Second} {
		holder := f.StartWorker(fleet.WorkerConfig{Pool: name})
		inv := f.Count("default", f.ID(name), "-n", "1000", "-every", "100ms", "-daemon")
		inv.Pool = name
		f.Submit(c, inv)
		awaitRuns(f, inv.ID, 2)
		f.Await("start is stored", fleet.Patience, func(ctx context.Context) (bool, string) {
			info, err := c.Get(ctx, inv.ID)
			return err == nil && info.Started != nil, fmt.Sprint(err)
		})
		holder.Pause()
		began := time.Now()
		report, err := c.Cancel(t.Context(), inv.ID)
		if err != nil || report.Status != contracts.StatusCancelled {
			t.Errorf("Cancel() = %+v, %v, want cancelled", report, err)
		}
		f.Await("the freeze is over", fleet.Patience, func(context.Context) (bool, string) { return time.Since(began) >= paused, "" })
		holder.Resume()
		f.Excuse("default", inv.ID, "its holder was frozen")
		resumed := time.Now()
		f.Await("its tree is gone", fleet.Patience, func(context.Context) (bool, string) {
			n := f.Alive("default", inv.ID)
			return n == 0, fmt.Sprintf("%d live", n)
		})
		figure(t, "tree gone after a "+name+" freeze", "%v", since(resumed))
		f.Follow(f.Client("default", ""), "default", inv.ID, name)
	}
	f.Verify()
}

// timeout_seconds ends the tree; a TERM trap runs before the kill.
func TestTimeout(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	f.StartWorker(fleet.WorkerConfig{})
	inv := f.Count("default", f.ID("trap"), "-n", "1000", "-every", "100ms", "-trap", "-daemon")
	inv.TimeoutSeconds = 1
	f.Submit(c, inv)
	r := result(t, c, inv.ID, fleet.Patience)
	if r.Status != contracts.StatusTimedOut || r.Reason != contracts.ReasonTimeout {
		t.Errorf("result is %s/%s, want timed_out/timeout", r.Status, r.Reason)
	}
	if n := f.Alive("default", inv.ID); n != 0 {
		t.Errorf("%d processes live when the result is stored", n)
	}
	var out []byte
	for event, err := range c.Watch(t.Context(), inv.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Type == contracts.EventOutput {
			out = append(out, event.Output.Data...)
		}
	}
	if want := "trapped\n"; len(out) < len(want) || string(out[len(out)-len(want):]) != want {
		t.Errorf("the output ends with %q, want %q", out[max(0, len(out)-20):], want)
	}
	f.Verify()
}

// A cancel meets a job at its start, at its finish and between its attempts, sooner or later
// than each (must-show 6: 1,000 rounds of each in make soak).
func TestRaceCancel(t *testing.T) {
	races := map[string]struct {
		job  func(f *fleet.Fleet, id string) contracts.Invocation
		late time.Duration // the cancel comes within so long after the submission
	}{
		"start": {func(f *fleet.Fleet, id string) contracts.Invocation {
			return f.Count("default", id, "-n", "100", "-every", "20ms")
		}, 15 * time.Millisecond},
		"finish": {func(f *fleet.Fleet, id string) contracts.Invocation {
			return f.Count("default", id, "-n", "2")
		}, 40 * time.Millisecond},
		"retry": {func(f *fleet.Fleet, id string) contracts.Invocation {
			inv := f.Count("default", id, "-n", "2", "-fail-first", "3")
			inv.Retry = &contracts.Retry{Attempts: 4, DelaySeconds: 0.05}
			return inv
		}, 400 * time.Millisecond},
		"noop": {func(_ *fleet.Fleet, id string) contracts.Invocation {
			return contracts.Invocation{ID: id, Kind: contracts.KindNoop}
		}, 5 * time.Millisecond},
	}
	for name, race := range races {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.Start(t, fleet.Config{})
			for range 2 {
				f.StartWorker(fleet.WorkerConfig{Slots: 8})
			}
			c := f.Client("default", "")
			n := 50 * rounds(t, 2)
			var mu sync.Mutex
			met := map[string]int{}
			turn := make(chan struct{}, 16)
			var all sync.WaitGroup
			for range n {
				turn <- struct{}{}
				all.Go(func() {
					defer func() { <-turn }()
					inv := race.job(f, f.ID(name))
					f.Submit(c, inv)
					// Not a wait for something: the moment of the cancel is what is tried.
					time.Sleep(rand.N(race.late))
					ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
					defer cancel()
					report, err := c.Cancel(ctx, inv.ID)
					if err != nil {
						t.Errorf("Cancel(%s) = %v", inv.ID, err)
						return
					}
					for r, err := range c.Wait(ctx, inv.ID) {
						if err != nil || r.Status != report.Status {
							t.Errorf("%s: Cancel() says %s, the result %s (%v)", inv.ID, report.Status, r.Status, err)
						}
					}
					if report.AlreadyEnded == (report.Status == contracts.StatusCancelled) {
						t.Errorf("%s: Cancel() = %+v contradicts itself", inv.ID, report)
					}
					mu.Lock()
					defer mu.Unlock()
					met[fmt.Sprintf("%s, was %s", report.Status, report.Was)]++
				})
			}
			all.Wait()
			for what, times := range met {
				figure(t, what, "%d of %d", times, n)
			}
			second(t, f.Verify())
		})
	}
}

package integration_test

import (
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// Workers whose clocks are ten minutes ahead and behind, and one whose clock is set while jobs run, do as others do: no
// job waits or is given up for it, retries come when they are due, and what is stored has the server's time.
func TestSoakClock(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	for range rounds(t, 1) {
		began := time.Now()
		workers := []*fleet.Worker{
			f.StartWorker(fleet.WorkerConfig{Slots: 2, Clock: 10 * time.Minute}),
			f.StartWorker(fleet.WorkerConfig{Slots: 2, Clock: -10 * time.Minute}),
			f.StartWorker(fleet.WorkerConfig{Slots: 2, Jump: 10 * time.Minute, JumpAfter: 2 * time.Second}),
			f.StartWorker(fleet.WorkerConfig{Slots: 2, Jump: -10 * time.Minute, JumpAfter: 2 * time.Second}),
		}
		var jobs []contracts.Invocation
		for i := range 24 {
			inv := f.Count("default", f.ID("job"), "-n", "60", "-every", "25ms", "-files", "1")
			inv.QueueTimeoutSeconds = 300
			if i%3 == 0 {
				inv = f.Count("default", inv.ID, "-n", "10", "-every", "25ms", "-fail-first", "1")
				inv.Retry = &contracts.Retry{Attempts: 2, DelaySeconds: 1}
			}
			jobs = append(jobs, inv)
		}
		f.Submit(c, jobs...)
		for _, inv := range jobs[:4] {
			f.Follow(c, "default", inv.ID, inv.ID)
		}
		for _, inv := range jobs {
			r := result(t, c, inv.ID, fleet.Patience)
			if r.Status != contracts.StatusSucceeded {
				t.Errorf("%s by %s: %s/%s: %s", inv.ID, r.Worker, r.Status, r.Reason, r.Error)
			}
			// A clock that was set is noticed within a presence; what is stored until then may be off.
			off := func(at time.Time) bool {
				return at.Before(began.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute))
			}
			if r.Worker == workers[0].Name || r.Worker == workers[1].Name {
				if off(r.StartedAt) || off(r.FinishedAt) {
					t.Errorf("%s by %s began at %v and ended at %v", inv.ID, r.Worker, r.StartedAt, r.FinishedAt)
				}
			}
		}
		figure(t, "24 jobs", "%v", since(began))
		workers[0].Kill() // its jobs go to those whose clocks say otherwise
		for _, w := range workers[1:] {
			w.Terminate()
			w.Ended(fleet.Patience)
		}
	}
	second(t, f.Verify())
}

package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// 3,000 jobs over three workers: each has exactly one stored result (must-show 3).
func TestFleetRunsEveryJobOnce(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	for range 3 {
		f.StartWorker(fleet.WorkerConfig{Slots: 8})
	}
	var jobs []contracts.Invocation
	for i := range 3000 {
		id := f.ID("job")
		if i%10 == 0 {
			jobs = append(jobs, f.Count("default", id))
		} else {
			jobs = append(jobs, contracts.Invocation{ID: id, Kind: contracts.KindNoop})
		}
	}
	began := time.Now()
	f.Submit(f.Client("default", ""), jobs...)
	figure(t, "submitted", "3000 in %v", since(began))
	f.AwaitResults(fleet.Patience)
	figure(t, "results", "3000 in %v", since(began))
	second(t, f.Verify())
}

// A slow job on one worker holds back no job for which another has a free slot. With
// a pull that prefetches, some of the short ones would wait behind the slow one for ever.
func TestFleetSlowJobHoldsNothingBack(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	for range 3 {
		f.StartWorker(fleet.WorkerConfig{Slots: 2})
	}
	c := f.Client("default", "")
	// Five of six slots are taken for as long as the test likes.
	var slow []contracts.Invocation
	for range 5 {
		slow = append(slow, f.Hold("default", f.ID("slow")))
	}
	f.Submit(c, slow...)
	for _, inv := range slow {
		f.Await(inv.ID+" runs", fleet.Patience, func(context.Context) (bool, string) { return f.Alive("default", inv.ID) == 1, "not yet" })
	}
	for wave := range 5 {
		var quick []contracts.Invocation
		var ids []string
		for range 20 {
			inv := f.Count("default", f.ID("quick"))
			quick, ids = append(quick, inv), append(ids, inv.ID)
		}
		began := time.Now()
		f.Submit(c, quick...)
		ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
		ended := 0
		for r, err := range c.Wait(ctx, ids...) {
			if err != nil {
				t.Fatalf("wave %d: %d of 20 ended: %v", wave, ended, err)
			}
			if r.Status != contracts.StatusSucceeded {
				t.Errorf("%s: %s %s %s", r.ID, r.Status, r.Reason, r.Error)
			}
			ended++
		}
		cancel()
		figure(t, "20 jobs past 5 slow ones", "%v", since(began))
	}
	for _, inv := range slow {
		if f.Alive("default", inv.ID) != 1 {
			t.Errorf("%s does not run any more", inv.ID)
		}
		if _, err := c.Cancel(t.Context(), inv.ID); err != nil {
			t.Errorf("cancel %s: %v", inv.ID, err)
		}
	}
	second(t, f.Verify())
}

// Equal ids of two tenants never touch each other (invariant 10).
func TestFleetTenantsShareNothing(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{Slots: 8})
	tenants := []string{"red", "blue"}
	for _, tenant := range tenants {
		var jobs []contracts.Invocation
		for i := range 20 {
			inv := f.Count(tenant, "same"+string(rune('a'+i)), "-n", "5", "-both", "-files", "2")
			jobs = append(jobs, inv)
		}
		f.Submit(f.Client(tenant, ""), jobs...)
	}
	f.AwaitResults(fleet.Patience)
	second(t, f.Verify())
}

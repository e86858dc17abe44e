package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// blocked waits until a worker's presence says why it takes no more work, or that it does.
func (f *fleet) blocked(name string, want bool) string {
	f.t.Helper()
	presences := queue.NewPresences(f.nc, f.topo)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		seen, err := presences.Get(f.t.Context(), name)
		if err == nil && (seen.Blocked != "") == want {
			return seen.Blocked
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("presence = %+v, %v; want blocked: %v", seen, err, want)
		}
	}
}

// A worker whose disk is too full takes no more work, and says so; what runs goes on. It takes work
// again when there is more room than the floor asks for.
func TestDiskFloor(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const floor = 100 << 20
	var free atomic.Int64
	free.Store(floor - 1)
	began, goOn := make(chan string, 4), make(chan struct{})
	w, _ := f.worker(worker.Config{
		Slots: 2, DiskFloor: floor,
		DiskFree: func(string) (int64, error) {
			if n := free.Load(); n >= 0 {
				return n, nil
			}
			return 0, errors.New("the disk does not answer")
		},
		Registry: runner.Registry{contracts.KindNoop: runner.Func(func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
			began <- job.ID
			<-goOn
			return ok()
		})},
	})
	none := func(why string) {
		t.Helper()
		select {
		case id := <-began:
			t.Errorf("%s began: %s", id, why)
		case <-time.After(2 * time.Second): // two looks at the disk
		}
	}
	if text := f.blocked(w.Name(), true); text != "disk: 99 MiB are free for work, and 100 must be" {
		t.Errorf("presence says %q", text)
	}
	first := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	none("the disk was too full from the start")
	free.Store(floor + floor/8)
	none("a little room is not enough, once there was too little")
	free.Store(2 * floor)
	if id := <-began; id != first {
		t.Errorf("%s began, want %s", id, first)
	}
	f.blocked(w.Name(), false)

	free.Store(0)
	if text := f.blocked(w.Name(), true); !strings.Contains(text, "0 MiB are free") {
		t.Errorf("presence says %q", text)
	}
	second := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	none("the disk is too full")
	goOn <- struct{}{}
	if r := f.result(first); r.Status != contracts.StatusSucceeded {
		t.Errorf("result of what ran = %s/%s %q", r.Status, r.Reason, r.Error)
	}
	free.Store(-1) // nobody knows: it stays as it was
	none("the disk does not answer")
	free.Store(2 * floor)
	close(goOn)
	if r := f.result(second); r.Status != contracts.StatusSucceeded {
		t.Errorf("result = %s/%s %q", r.Status, r.Reason, r.Error)
	}
}

func TestDiskFloorOfTheSystem(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	registry := runner.Registry{contracts.KindNoop: runner.Func(func(context.Context, runner.Job, runner.Sink) (contracts.Outcome, error) { return ok() })}
	full, stop := f.worker(worker.Config{DiskFloor: 1 << 60, Registry: registry})
	f.blocked(full.Name(), true)
	stop()
	f.worker(worker.Config{DiskFloor: 1, Registry: registry})
	if r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop})); r.Status != contracts.StatusSucceeded {
		t.Errorf("result = %s/%s %q", r.Status, r.Reason, r.Error)
	}
}

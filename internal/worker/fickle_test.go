package worker_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/noop"
	"github.com/runnel-project/runnel/internal/worker"
)

// fickle is there or not, as it is told.
type fickle struct {
	runner.Runner
	there *atomic.Bool
	runs  *atomic.Int32
}

func (f fickle) Available() bool { return f.there.Load() }

func (f fickle) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	f.runs.Add(1)
	return f.Runner.Run(ctx, job, out)
}

// A kind whose runner cannot work now is not served: its jobs wait for it, or for another worker, and hold up no other kind.
func TestKindIsWithdrawn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var there atomic.Bool
	var runs atomic.Int32
	there.Store(true)
	registry := runner.Registry{"box": fickle{noop.Runner{}, &there, &runs}, contracts.KindNoop: noop.Runner{}}
	f.worker(worker.Config{Name: "w-1", Registry: registry})
	if r := f.result(f.submit(contracts.Invocation{Kind: "box"})); r.Status != contracts.StatusSucceeded {
		t.Fatalf("result = %+v", r)
	}

	there.Store(false)
	waiting := f.submit(contracts.Invocation{Kind: "box"})
	if r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop})); r.Status != contracts.StatusSucceeded {
		t.Errorf("another kind: result = %+v", r)
	}
	people := queue.NewPresences(f.nc, f.topo)
	shown := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			all, err := people.All(t.Context())
			if err == nil && len(all) == 1 && slices.Contains(all[0].Kinds, "box") == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("presence is %+v, %v; want the kind in it: %v", all, err, want)
			}
		}
	}
	shown(false)
	if n := runs.Load(); n != 1 {
		t.Errorf("%d runs, want 1: the kind is withdrawn", n)
	}

	there.Store(true)
	if r := f.result(waiting); r.Status != contracts.StatusSucceeded {
		t.Errorf("once it is back: result = %+v", r)
	}
	shown(true)
}

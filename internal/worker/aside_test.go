package worker_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// gated are files that are stored once the gate is open.
type gated struct {
	*artifacts.Store
	came chan struct{}
	gate chan struct{}
}

func (g gated) Collect(ctx context.Context, root string, also ...artifacts.Also) (artifacts.Collected, error) {
	g.came <- struct{}{}
	select {
	case <-g.gate:
		return g.Store.Collect(ctx, root, also...)
	case <-ctx.Done():
		return artifacts.Collected{}, context.Cause(ctx)
	}
}

// While the files of a run are stored, the next one has its slot: of as many runs as there are slots, which are shown as the
// worker's as long.
func TestNextRunWhileFilesAreStored(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := gated{f.files(artifacts.Config{}), make(chan struct{}), make(chan struct{})}
	dirs := make(chan string, 9)
	work := runner.Func(func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
		if job.Name == "quiet" {
			return ok()
		}
		dirs <- job.Artifacts
		if err := os.WriteFile(filepath.Join(job.Artifacts, "left"), []byte(job.ID), 0o600); err != nil {
			return contracts.Outcome{}, err
		}
		return ok()
	})
	f.worker(worker.Config{
		Slots: 1, Registry: runner.Registry{contracts.KindNoop: work},
		Files: func(context.Context, string) (worker.Files, error) { return s, nil },
	})
	soon := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not come true", what)
			}
		}
	}
	storing := func() {
		t.Helper()
		select {
		case <-s.came:
		case <-time.After(time.Minute):
			t.Fatal("no files are being stored")
		}
	}
	leaves, quiet := contracts.Invocation{Kind: contracts.KindNoop}, contracts.Invocation{Kind: contracts.KindNoop, Name: "quiet"}
	first := f.submit(leaves)
	storing()
	f.result(f.submit(quiet))
	if _, err := f.reply.Last(t.Context(), f.topo.Names().Result("default", first)); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("the first one's result is %v before its files are stored", err)
	}
	// A second one beside it would be more than there are slots: it keeps its own.
	second := f.submit(leaves)
	storing()
	waiting := f.submit(quiet)
	people := queue.NewPresences(f.nc, f.topo)
	soon("one slot busy, two runs", func() bool {
		all, err := people.All(t.Context())
		return err == nil && len(all) == 1 && all[0].Busy == 1 && len(all[0].Runs) == 2
	})
	close(s.gate)
	for _, id := range []string{first, second} {
		if r := f.result(id); f.contents(s.Store, r)["left"] != id {
			t.Errorf("result = %s/%s %q with %d artifacts", r.Status, r.Reason, r.Error, r.ArtifactCount)
		}
		dir := <-dirs
		soon("its workspace is gone", func() bool { _, err := os.Stat(dir); return errors.Is(err, fs.ErrNotExist) })
	}
	f.result(waiting)
}

// A worker that is asked to stop sees through what it stores beside its slots.
func TestDrainWaitsForFiles(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := gated{f.files(artifacts.Config{}), make(chan struct{}), make(chan struct{})}
	work := runner.Func(func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
		if err := os.WriteFile(filepath.Join(job.Artifacts, "left"), []byte(job.ID), 0o600); err != nil {
			return contracts.Outcome{}, err
		}
		return ok()
	})
	_, stop := f.worker(worker.Config{
		Registry: runner.Registry{contracts.KindNoop: work},
		Files:    func(context.Context, string) (worker.Files, error) { return s, nil },
	})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	<-s.came
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	people := queue.NewPresences(f.nc, f.topo)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if all, err := people.All(t.Context()); err == nil && (len(all) == 0 || all[0].Draining) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the worker does not drain")
		}
	}
	close(s.gate)
	<-stopped
	if r := f.result(id); f.contents(s.Store, r)["left"] != id {
		t.Errorf("result = %s/%s %q with %d artifacts", r.Status, r.Reason, r.Error, r.ArtifactCount)
	}
}

package fleet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/standard"
)

// Verify waits until nothing is on its way any more, ends the workers by a drain, dumps
// every stream and holds it against the invariants.
func (f *Fleet) Verify() check.Report {
	f.t.Helper()
	f.AwaitResults(Patience)
	f.AwaitEmpty()
	f.awaitFollowers()
	f.mu.Lock()
	workers := slices.Clone(f.workers)
	f.mu.Unlock()
	for _, w := range workers {
		w.drain()
	}
	f.StartWorker(WorkerConfig{}).drain() // removes what killed ones left behind
	f.Await("processes of jobs are gone", Patience, func(context.Context) (bool, string) {
		f.observer.track()
		f.observer.mu.Lock()
		defer f.observer.mu.Unlock()
		return len(f.observer.live) == 0, fmt.Sprintf("%d live", len(f.observer.live))
	})
	f.observer.stop()

	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	dump, err := Dump(ctx, f.Conn, f.Topology)
	if err != nil {
		f.t.Fatal(err)
	}
	f.files(ctx, &dump)
	for pool := range f.pools {
		// The program that users get has kind container, too, where there is an engine.
		for _, kind := range append(standard.Kinds(), contracts.KindContainer) {
			for _, lane := range contracts.Lanes() {
				dump.Golden = append(dump.Golden, f.Topology.InvokeStream()+" "+f.Topology.Consumer(kind, pool, lane, contracts.DefaultShard).Name)
			}
		}
	}
	report := check.Check(dump, f.facts())
	for i, v := range report.Violations {
		if i == 50 {
			f.t.Errorf("and %d more", len(report.Violations)-i)
			break
		}
		f.t.Error(v)
	}
	return report
}

func (f *Fleet) facts() check.Facts {
	executions := f.observer.executions()
	f.observer.mu.Lock()
	defer f.observer.mu.Unlock()
	facts := check.Facts{
		Submitted: f.observer.submitted, Results: f.observer.results, Samples: f.observer.samples,
		Executions: executions, Excused: f.observer.excused,
		Beat: 3 * time.Second, Grace: 5 * time.Second, Slack: 2 * time.Second, Settle: 30 * time.Second, Poison: 5,
	}
	for _, follower := range f.followers {
		facts.Followers = append(facts.Followers, follower.seen())
	}
	// A worker that ended in order leaves an empty work directory.
	left, err := filepath.Glob(filepath.Join(f.WorkRoot(), "*", "*"))
	if err != nil {
		f.t.Fatal(err)
	}
	facts.Left = left
	return facts
}

// files reads back every artifact that a result names.
func (f *Fleet) files(ctx context.Context, d *check.Dump) {
	js, err := jetstream.New(f.Conn)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range d.Replies {
		if r.Result == nil || r.Result.ArtifactCount == 0 {
			continue
		}
		dir, err := os.MkdirTemp(f.Dir, "files")
		if err != nil {
			f.t.Fatal(err)
		}
		store, err := artifacts.Open(ctx, js, artifacts.Config{Tenant: r.Tenant, Replicas: f.Topology.ReplicaCount()})
		var got []contracts.Artifact
		if err == nil {
			got, err = store.Unpack(ctx, *r.Result, dir) // verifies every digest
		}
		if err == nil && len(got) != r.Result.ArtifactCount {
			err = fmt.Errorf("%d files came back of %d", len(got), r.Result.ArtifactCount)
		}
		d.Files = append(d.Files, check.File{Key: r.Key, Path: "*", Err: err})
	}
}

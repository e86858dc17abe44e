package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// Three nodes with three replicas: a worker and then the leader of everything that a job
// passes is killed under load. Nothing is lost, each job has one result, and the longest
// time without one is printed (must-show 4).
func TestClusterKills(t *testing.T) {
	t.Parallel()
	kills := map[string]func(f *fleet.Fleet, victim *fleet.Worker) (back func()){
		"a worker": func(_ *fleet.Fleet, victim *fleet.Worker) func() {
			victim.Kill()
			return func() {}
		},
		"the leader of INVOKE": func(f *fleet.Fleet, _ *fleet.Worker) func() {
			return killNode(f, f.Servers.Leader(f.Topology.InvokeStream()))
		},
		"the leader of its consumer": func(f *fleet.Fleet, _ *fleet.Worker) func() {
			consumer := f.Topology.Consumer(contracts.KindSubprocess, contracts.DefaultPool, contracts.LaneNormal, contracts.DefaultShard)
			return killNode(f, f.Servers.ConsumerLeader(f.Topology.InvokeStream(), consumer.Name))
		},
		"the leader of REPLY": func(f *fleet.Fleet, _ *fleet.Worker) func() {
			return killNode(f, f.Servers.Leader(f.Topology.ReplyStream()))
		},
	}
	f := fleet.Start(t, fleet.Config{Nodes: 3})
	c := f.Client("default", "")
	victim := f.StartWorker(fleet.WorkerConfig{Slots: 4})
	for range 2 {
		f.StartWorker(fleet.WorkerConfig{Slots: 4})
	}
	for _, what := range []string{"a worker", "the leader of INVOKE", "the leader of its consumer", "the leader of REPLY"} {
		gaps := newGaps()
		load, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { submitAndWait(load, f, c, gaps) })
		f.Await("results before the kill", fleet.Patience, func(context.Context) (bool, string) {
			n := gaps.count()
			return n >= 20, fmt.Sprint(n)
		})
		gaps.reset()
		back := kills[what](f, victim)
		// The load goes on until results have come again for a while.
		f.Await("results after the kill of "+what, fleet.Patience, func(context.Context) (bool, string) {
			n := gaps.count()
			return n >= 40, fmt.Sprint(n)
		})
		stop()
		loop.Wait()
		back()
		figure(t, "longest gap after the kill of "+what, "%v", gaps.longest().Round(time.Millisecond))
	}
	second(t, f.Verify())
}

// killNode kills a server; back starts it again and waits until it has caught up.
func killNode(f *fleet.Fleet, i int) (back func()) {
	f.Servers.Kill(i)
	return func() {
		f.Servers.Restart(i)
		f.Servers.WaitReady()
		for _, s := range f.Topology.Streams() {
			f.Servers.Current(s.Name)
		}
	}
}

// submitAndWait keeps short jobs going, eight at a time, and notes each result.
func submitAndWait(ctx context.Context, f *fleet.Fleet, c *runnel.Client, gaps *gaps) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				inv := f.Count("default", f.ID("job"), "-n", "3")
				// What was begun is ended, whether or not the load goes on.
				whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), fleet.Patience)
				f.Submitted(inv)
				receipt, err := c.Submit(whole, inv)
				if err == nil {
					f.Accepted("default", inv.ID, receipt.Digest)
					for r, err := range c.Wait(whole, inv.ID) {
						if err == nil && r.Status == contracts.StatusSucceeded {
							gaps.note()
						}
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

// gaps measures the longest time between two results.
type gaps struct {
	mu   sync.Mutex
	last time.Time
	most time.Duration
	n    int
}

func newGaps() *gaps { return &gaps{last: time.Now()} }

func (g *gaps) note() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.most = max(g.most, now.Sub(g.last))
	g.last = now
	g.n++
}

func (g *gaps) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.n = 0, 0
}

func (g *gaps) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

func (g *gaps) longest() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.most, time.Since(g.last))
}

// All three servers are killed at once in the middle of runs, and come back.
func TestClusterKillsAll(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{Nodes: 3})
	c := f.Client("default", "")
	for range 2 {
		f.StartWorker(fleet.WorkerConfig{})
	}
	var jobs []contracts.Invocation
	for range 30 {
		jobs = append(jobs, f.Count("default", f.ID("job"), "-n", "30", "-every", "100ms"))
	}
	f.Submit(c, jobs...)
	awaitRuns(f, jobs[0].ID, 1)
	f.ExcuseRunning("every server was killed")
	for i := range 3 {
		f.Servers.Kill(i)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { f.Servers.Restart(i) })
	}
	wg.Wait()
	f.Servers.WaitReady()
	f.AwaitResults(fleet.Patience)
	second(t, f.Verify())
}

// A frozen server does not prove absence: with one of three stopped during the pre-run
// check and the gap fill, nothing runs twice and followers see everything.
func TestClusterFrozenNode(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{Nodes: 3})
	c := f.Client("default", "")
	f.StartWorker(fleet.WorkerConfig{})
	frozen := (f.Servers.Leader(f.Topology.ReplyStream()) + 1) % 3
	var jobs []contracts.Invocation
	for range 12 {
		jobs = append(jobs, f.Count("default", f.ID("job"), "-n", "20", "-every", "50ms"))
	}
	f.Submit(c, jobs[0])
	awaitRuns(f, jobs[0].ID, 1)
	f.Servers.Pause(frozen)
	resumed := sync.OnceFunc(func() { f.Servers.Resume(frozen) })
	defer resumed()
	f.Submit(c, jobs[1:]...)
	for _, inv := range jobs {
		f.Follow(f.Client("default", ""), "default", inv.ID, inv.ID)
	}
	for _, inv := range jobs {
		if r := result(t, c, inv.ID, fleet.Patience); r.Status != contracts.StatusSucceeded {
			t.Errorf("%s: %s/%s: %s", inv.ID, r.Status, r.Reason, r.Error)
		}
	}
	resumed()
	report := f.Verify()
	second(t, report)
	if report.Second > 0 {
		t.Errorf("%d jobs ran a second time while a server was frozen", report.Second)
	}
}

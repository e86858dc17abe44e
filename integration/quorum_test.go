package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// outages are what is done to three servers while a worker stands at a step; back makes it good.
var outages = map[string]func(f *fleet.Fleet) (back func()){
	"quorum killed": func(f *fleet.Fleet) func() { return killNodes(f, withLeader(f, 2)...) },
	"quorum frozen": func(f *fleet.Fleet) func() {
		nodes := withLeader(f, 2)
		for _, i := range nodes {
			f.Servers.Pause(i)
		}
		return func() {
			for _, i := range nodes {
				f.Servers.Resume(i)
			}
		}
	},
	"follower frozen": func(f *fleet.Fleet) func() {
		follower := (f.Servers.Leader(f.Topology.ReplyStream()) + 1) % 3
		f.Servers.Pause(follower)
		return func() { f.Servers.Resume(follower) }
	},
	"all killed": func(f *fleet.Fleet) func() { return killNodes(f, 0, 1, 2) },
	"step-down": func(f *fleet.Fleet) func() {
		f.Servers.StepDown(f.Topology.ReplyStream())
		f.Servers.StepDown(f.Topology.InvokeStream())
		return func() {}
	},
}

// withLeader returns n servers, the leader of REPLY among them.
func withLeader(f *fleet.Fleet, n int) (nodes []int) {
	leader := f.Servers.Leader(f.Topology.ReplyStream())
	for i := range n {
		nodes = append(nodes, (leader+i)%3)
	}
	return nodes
}

func killNodes(f *fleet.Fleet, nodes ...int) (back func()) {
	for _, i := range nodes {
		f.Servers.Kill(i)
	}
	return func() {
		var all sync.WaitGroup
		for _, i := range nodes {
			all.Go(func() { f.Servers.Restart(i) })
		}
		all.Wait()
	}
}

// Three servers lose their quorum, all die, one is frozen or the leaders step down while a worker stands before its run,
// before its result, or with the result on its way: the job ends once, and what ran goes on. make soak takes every
// outage at every step.
func TestClusterSoakOutage(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{Nodes: 3})
	steps := []queue.Step{queue.StepChecked, queue.StepChunksStored, queue.StepResultSent, queue.StepResultStored}
	short := map[string][]queue.Step{"quorum killed": {queue.StepResultSent}, "step-down": {queue.StepResultSent}}
	n := max(1, fleet.Rounds(t, 1)/10) // each round waits for an election, and for three servers to be level again
	for _, what := range []string{"step-down", "quorum killed", "follower frozen", "quorum frozen", "all killed"} {
		for _, step := range steps {
			if fleet.Rounds(t, 0) == 0 && !slices.Contains(short[what], step) {
				continue
			}
			point := slices.IndexFunc(crashPoints, func(p crashPoint) bool { return p.step == step })
			again := 0
			for round := range n {
				v := standAt(t, f, what, point, round)
				if what == "all killed" {
					v.excuse(f, "every server was killed")
				}
				back := outages[what](f)
				v.worker.GoOn()
				// Not a wait for something: how long they are away is what is tried.
				time.Sleep(rand.N(3 * time.Second))
				back()
				f.Servers.WaitReady()
				v.ends(t, f)
				f.AwaitEmpty()
				for _, s := range f.Topology.Streams() {
					f.Servers.Current(s.Name)
				}
				v.worker.Terminate()
				v.worker.Ended(fleet.Patience)
				again += f.Executions("default", v.id) - 1
			}
			figure(t, fmt.Sprintf("%s, %s", what, step), "%d rounds, %d second executions", n, again)
		}
	}
	second(t, f.Verify())
}

// Under load the leaders of everything that a job passes step down, again and again: nothing is lost and nothing runs twice.
func TestClusterStepDown(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{Nodes: 3})
	c := f.Client("default", "")
	for range 2 {
		f.StartWorker(fleet.WorkerConfig{})
	}
	consumer := f.Topology.Consumer(contracts.KindSubprocess, contracts.DefaultPool, contracts.LaneNormal, contracts.DefaultShard).Name
	gaps := newGaps()
	load, stop := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { submitAndWait(load, f, c, gaps) })
	for range fleet.Rounds(t, 1) {
		for _, down := range []func(){
			func() { f.Servers.StepDown(f.Topology.InvokeStream()) },
			func() { f.Servers.StepDown(f.Topology.ReplyStream()) },
			func() { f.Servers.StepDownConsumer(f.Topology.InvokeStream(), consumer) },
		} {
			at := gaps.count()
			down()
			f.Await("results go on", fleet.Patience, func(context.Context) (bool, string) {
				n := gaps.count() - at
				return n >= 10, fmt.Sprint(n)
			})
		}
	}
	stop()
	loop.Wait()
	figure(t, "longest gap over step-downs", "%v", gaps.longest().Round(time.Millisecond))
	second(t, f.Verify())
}

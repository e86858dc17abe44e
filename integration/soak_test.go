package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// crashPoint is a step of a delivery at which something is broken, and what job gets there.
type crashPoint struct {
	step queue.Step
	// retry has the job fail its first attempt, so that it passes an end and a nak.
	retry bool
	// drain has the worker be told to stop while the job runs.
	drain bool
	// bad is a message that no worker can read, which is buried.
	bad bool
	// within lets the worker go on for up to so long before it is killed: in the middle of what follows the step.
	within time.Duration
}

var crashPoints = []crashPoint{
	{step: queue.StepReceived},
	{step: queue.StepChecked},
	{step: queue.StepStarted},
	{step: queue.StepSpawned},
	{step: queue.StepSpawned, within: 300 * time.Millisecond},
	{step: queue.StepChunkPublished},
	{step: queue.StepCollecting, within: 50 * time.Millisecond},
	{step: queue.StepCollected},
	{step: queue.StepChunksStored},
	{step: queue.StepResultSent},
	{step: queue.StepResultStored},
	{step: queue.StepAcked},
	{step: queue.StepEndStored, retry: true},
	{step: queue.StepNaked, retry: true},
	{step: queue.StepNaked, drain: true},
	{step: queue.StepDeadStored, bad: true},
}

func (p crashPoint) String() string {
	text := string(p.step)
	if p.drain {
		text += " in a drain"
	}
	if p.within > 0 {
		text = fmt.Sprintf("up to %v after %s", p.within, text)
	}
	return text
}

// victim is one round: a worker of a pool of its own, its job, and the way to its server.
type victim struct {
	crashPoint
	id     string
	beside []string // what else it does meanwhile
	worker *fleet.Worker
	proxy  *proxy.Proxy
}

// excuse lets the runs of all that the victim has overlap until now.
func (v *victim) excuse(f *fleet.Fleet, why string) {
	for _, id := range append(v.beside, v.id) {
		f.Excuse("default", id, why)
	}
}

// service answers requests in a moment.
func service(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, "done")
	}))
	t.Cleanup(s.Close)
	return s
}

// mix has the victim do a request and a command whose log is kept beside its job.
func (v *victim) mix(t *testing.T, f *fleet.Fleet, c *runnel.Client, pool string) {
	request := contracts.Invocation{ID: "http-" + v.id, Kind: contracts.KindHTTP, Pool: pool, Metadata: map[string]string{"http.url": service(t).URL}}
	logged := f.Count("default", "log-"+v.id, "-n", "15", "-every", "20ms", "-both")
	logged.Pool, logged.KeepLog = pool, true
	v.beside = []string{request.ID, logged.ID}
	f.Submit(c, request, logged)
}

// faults are the ways in which a worker is broken at a crash point (INVARIANTS: K, Z, P).
// begin breaks it, end lets it go on once another has done its job; a killed one does not.
var faults = map[string]struct{ begin, end func(v *victim) }{
	"kill": {
		begin: func(v *victim) {
			if v.within > 0 {
				v.worker.GoOn()
				// Not a wait for something: the moment of the kill is what is tried.
				time.Sleep(rand.N(v.within))
			}
			v.worker.Kill()
		},
		end: func(*victim) {},
	},
	"freeze": {
		begin: func(v *victim) { v.worker.Pause() },
		end:   func(v *victim) { v.worker.Resume(); v.worker.GoOn() },
	},
	"partition": {
		begin: func(v *victim) { v.proxy.Cut(); v.worker.GoOn() },
		end:   func(v *victim) { v.proxy.Mend() },
	},
}

// atOnce is how many rounds are under way at one time: they mostly wait for a lease to end.
const atOnce = 8

func TestSoakKill(t *testing.T)      { soak(t, "kill", 2) }
func TestSoakFreeze(t *testing.T)    { soak(t, "freeze", 1) }
func TestSoakPartition(t *testing.T) { soak(t, "partition", 1) }

// soak breaks a worker at every crash point, many times each, and prints the table (must-show 5).
func soak(t *testing.T, fault string, short int) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	n := rounds(t, short)
	turn := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for round := range n {
		for point := range crashPoints {
			turn <- struct{}{}
			all.Go(func() {
				defer func() { <-turn }()
				soakRound(t, f, fault, point, round)
			})
		}
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	table(t, f, fault, n, crashPoints)
}

// table holds all that was done against the invariants, and prints what it came to by crash point.
func table(t *testing.T, f *fleet.Fleet, fault string, n int, points []crashPoint) {
	t.Helper()
	report := f.Verify()
	for point, p := range crashPoints {
		if !slices.Contains(points, p) {
			continue
		}
		again, violations := 0, 0
		for round := range n {
			again += max(f.Executions("default", soakID(fault, point, round))-1, 0)
			if p.retry {
				again-- // its second attempt is its own
			}
		}
		for _, v := range report.Violations {
			if strings.HasPrefix(v.Key.ID, soakPrefix(fault, point)) {
				violations++
			}
		}
		figure(t, fmt.Sprintf("%s, %s", fault, p), "%d rounds, %d second executions, %d violations", n, again, violations)
	}
	second(t, report)
}

func soakPrefix(fault string, point int) string {
	return fmt.Sprintf("%s-%d-", strings.ReplaceAll(fault, " ", "-"), point)
}

func soakID(fault string, point, round int) string {
	return fmt.Sprintf("%s%d", soakPrefix(fault, point), round)
}

// soakPool is the pool of a round. Rounds of one crash point that are far apart share one: a server has
// only so many consumers.
func soakPool(fault string, point, round int) string {
	return "p-" + soakID(fault, point, round%4)
}

// standAt starts a worker, has it reach a crash point with a job, and returns it standing there.
func standAt(t *testing.T, f *fleet.Fleet, fault string, point, round int) *victim {
	t.Helper()
	v := &victim{crashPoint: crashPoints[point], id: soakID(fault, point, round)}
	cfg := fleet.WorkerConfig{Name: "v-" + v.id, Pool: soakPool(fault, point, round), At: v.step, IDs: v.id, Slots: 4, DrainTimeout: 100 * time.Millisecond}
	if fault == "partition" {
		v.proxy, cfg.URL = f.Proxy()
	}
	v.worker = f.StartWorker(cfg)

	lines := "25"
	if v.drain {
		lines = "150" // it must still run when the drain begins, on a busy machine too
	}
	inv := f.Count("default", v.id, "-n", lines, "-every", "20ms", "-both", "-files", "1")
	inv.Pool = cfg.Pool
	inv.KeepLog = round%2 == 1
	if v.step == queue.StepCollecting {
		inv.Command = append(inv.Command, "-file-bytes", fmt.Sprint(8<<20))
	}
	if v.retry {
		inv.Command = append(inv.Command, "-fail-first", "1")
		inv.Retry = &contracts.Retry{Attempts: 2, DelaySeconds: 0.5}
	}
	c := f.Client("default", "")
	v.mix(t, f, c, cfg.Pool)
	if v.bad {
		inv.Command = nil
		f.Submitted(inv)
		a := address(v.id)
		a.Pool = cfg.Pool
		if err := publish(t, f, f.Topology.Names().Invoke(a), nil, []byte(`{"color":"red"}`)); err != nil {
			t.Errorf("publish %s: %v", v.id, err)
		}
		f.Accepted("default", v.id, "")
	} else {
		f.Submit(c, inv)
	}
	f.Follow(c, "default", v.id, v.id)
	if v.drain {
		awaitRuns(f, v.id, 1)
		v.worker.Terminate()
	}
	if at := v.worker.Reached(fleet.Patience); at.ID != v.id {
		t.Errorf("%s reached %s with %s", cfg.Name, at.Step, at.ID)
	}
	return v
}

// ends waits for the result of a round.
func (v *victim) ends(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	want := contracts.StatusSucceeded
	if v.bad {
		want = contracts.StatusRejected
	}
	ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
	defer cancel()
	for r, err := range f.Client("default", "").Wait(ctx, append(v.beside, v.id)...) {
		if err != nil {
			t.Errorf("%s and what was beside it: %v", v.id, err)
		} else if r.Status != want && (r.ID == v.id || r.Status != contracts.StatusSucceeded) {
			t.Errorf("%s: %s/%s, want %s: %s", r.ID, r.Status, r.Reason, want, r.Error)
		}
	}
}

// soakRound has a worker reach a crash point with a job, breaks it there, and has another do the job.
func soakRound(t *testing.T, f *fleet.Fleet, fault string, point, round int) {
	v := standAt(t, f, fault, point, round)
	if fault != "kill" {
		v.excuse(f, fault)
	}
	faults[fault].begin(v)
	other := f.StartWorker(fleet.WorkerConfig{Name: "r-" + v.id, Pool: soakPool(fault, point, round), Slots: 2})
	v.ends(t, f)
	faults[fault].end(v)
	if fault != "kill" {
		v.excuse(f, fault) // until now
	}
	for _, id := range append(v.beside, v.id) {
		f.AwaitGone("default", id) // an ack that was lost is made good by the other
	}
	// Both end here: a later round of this pool must not find one of them.
	other.Terminate()
	other.Ended(fleet.Patience)
	if fault != "kill" {
		if !v.drain {
			v.worker.Terminate()
		}
		v.worker.Ended(fleet.Patience)
	}
}

// The one server is killed while a worker stands at each crash point, and comes back a moment
// later or more: the run goes on.
func TestSoakServer(t *testing.T) {
	t.Parallel()
	soakServers(t, "server", 1, 1, crashPoints)
}

// The leader of REPLY, and then of INVOKE, is killed while a worker stands at a crash point; make soak takes all of them.
func TestClusterSoak(t *testing.T) {
	t.Parallel()
	points := crashPoints
	if rounds(t, 0) == 0 {
		points = []crashPoint{{step: queue.StepChecked}, {step: queue.StepChunksStored}, {step: queue.StepResultSent}}
	}
	soakServers(t, "leader", 3, 1, points)
}

func soakServers(t *testing.T, fault string, nodes, short int, points []crashPoint) {
	f := fleet.Start(t, fleet.Config{Nodes: nodes})
	n := rounds(t, short)
	if nodes > 1 {
		n = max(1, n/5) // each round waits for an election, and for three servers to be level again
	}
	for round := range n {
		for point, p := range crashPoints {
			if !slices.Contains(points, p) {
				continue
			}
			v := standAt(t, f, fault, point, round)
			if nodes == 1 {
				v.excuse(f, "the only server was killed")
			}
			stream := f.Topology.ReplyStream()
			if round%2 == 1 {
				stream = f.Topology.InvokeStream()
			}
			leader := f.Servers.Leader(stream)
			f.Servers.Kill(leader)
			v.worker.GoOn()
			// Not a wait for something: how long the server is away is what is tried.
			time.Sleep(rand.N(1500 * time.Millisecond))
			f.Servers.Restart(leader)
			f.Servers.WaitReady()
			next := v.worker
			if p.drain {
				next = f.StartWorker(fleet.WorkerConfig{Name: "r-" + v.id, Pool: soakPool(fault, point, round)})
			}
			v.ends(t, f)
			f.AwaitEmpty() // an ack that was lost is made good by the pool's worker
			if nodes > 1 {
				for _, s := range f.Topology.Streams() {
					f.Servers.Current(s.Name)
				}
			}
			next.Terminate()
			next.Ended(fleet.Patience)
		}
	}
	table(t, f, fault, n, points)
}

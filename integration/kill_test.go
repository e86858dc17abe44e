package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/standard"
)

// result waits for the one result of an invocation.
func result(t *testing.T, c *runnel.Client, id string, within time.Duration) contracts.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for r, err := range c.Wait(ctx, id) {
		if err != nil {
			t.Fatalf("wait for %s: %v", id, err)
		}
		return r
	}
	t.Fatalf("wait for %s: no result within %v", id, within)
	return contracts.Result{}
}

// awaitGone waits until no process of a job lives and returns how long that took.
func awaitGone(f *fleet.Fleet, id string) time.Duration {
	began := time.Now()
	f.Await("processes of "+id+" are gone", 10*time.Second, func(context.Context) (bool, string) {
		n := f.Alive("default", id)
		return n == 0, fmt.Sprintf("%d live", n)
	})
	return since(began)
}

// awaitRuns waits until n processes of a job live.
func awaitRuns(f *fleet.Fleet, id string, n int) {
	f.Await(id+" runs", fleet.Patience, func(context.Context) (bool, string) {
		there := f.Alive("default", id)
		return there == n, fmt.Sprintf("%d of %d processes", there, n)
	})
}

// kill -9 of a worker in the middle of a job, with a child that double-forked and called
// setsid: its processes die with it, the job ends on another worker, once (must-show 4).
func TestKillWorker(t *testing.T) {
	for _, ladder := range []string{"cgroup", "subreaper"} {
		t.Run(ladder, func(t *testing.T) {
			t.Parallel()
			if ladder == "cgroup" {
				needCgroup(t)
			}
			f := fleet.Start(t, fleet.Config{})
			c := f.Client("default", "")
			victim := f.StartWorker(fleet.WorkerConfig{Ladder: ladder})
			id := f.ID("job")
			f.Submit(c, f.Count("default", id, "-n", "40", "-every", "50ms", "-both", "-daemon"))
			awaitRuns(f, id, 2)
			f.Follow(f.Client("default", ""), "default", id, "early")
			f.Await("output", fleet.Patience, func(context.Context) (bool, string) {
				n, err := f.Bytes("early", contracts.Stdout)
				return n > 0, fmt.Sprint(n, err)
			})
			f.StartWorker(fleet.WorkerConfig{Ladder: ladder})
			victim.Kill()
			killed := time.Now()
			figure(t, "processes gone after the worker", "%v", awaitGone(f, id))
			r := result(t, c, id, fleet.Patience)
			figure(t, "result after the kill", "%v", since(killed))
			if r.Status != contracts.StatusSucceeded || r.Attempt != 1 {
				t.Errorf("result is %s, attempt %d, want succeeded, attempt 1: %s", r.Status, r.Attempt, r.Error)
			}
			f.Follow(f.Client("default", ""), "default", id, "late")
			second(t, f.Verify())
		})
	}
}

// On the cgroup rung also a job dies with its worker that is never the same process for long.
func TestKillWorkerOfAForkingJob(t *testing.T) {
	t.Parallel()
	needCgroup(t)
	f := fleet.Start(t, fleet.Config{})
	victim := f.StartWorker(fleet.WorkerConfig{Ladder: "cgroup"})
	id := f.ID("hydra")
	alive := filepath.Join(t.TempDir(), "alive")
	f.Submit(f.Client("default", ""), contracts.Invocation{ID: id, Kind: contracts.KindSubprocess, Command: []string{
		"sh", "-c", fleet.Job(t) + " hydra -alive " + alive + "; exec sleep 3600"}, TimeoutSeconds: 60})
	f.Await("it forks", fleet.Patience, func(context.Context) (bool, string) {
		info, err := os.Stat(alive)
		return err == nil && info.Size() > 10 && held(t, alive), "too few heads so far"
	})
	victim.Kill()
	killed := time.Now()
	f.Await("no head is left", 10*time.Second, func(context.Context) (bool, string) { return !held(t, alive), "still there" })
	figure(t, "gone after the worker", "%v", since(killed))
	f.StartWorker(fleet.WorkerConfig{})
	if _, err := f.Client("default", "").Cancel(t.Context(), id); err != nil {
		t.Errorf("cancel: %v", err)
	}
	f.Verify()
}

// held reports whether a process has a lock on a file; no process table is asked, which
// may be full of dead ones and out of date before it is read.
func held(t *testing.T, path string) bool {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return err != nil
}

// A job that takes its worker down every time is put aside after five starts, and no other job suffers.
func TestPoison(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	started := 0
	start := func() *fleet.Worker {
		started++
		return f.StartWorker(fleet.WorkerConfig{At: queue.StepSpawned, IDs: "poison"})
	}
	w := start()
	id := f.ID("poison")
	f.Submit(c, f.Hold("default", id))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-w.Stands():
				w.Kill()
				w = start()
			case <-stop:
				return
			}
		}
	}()
	var others []contracts.Invocation
	for range 20 {
		others = append(others, f.Count("default", f.ID("other"), "-n", "40", "-every", "75ms"))
	}
	f.Submit(c, others...)
	r := result(t, c, id, 5*time.Minute)
	close(stop)
	<-done
	figure(t, "workers taken down", "%d", started-1)
	if r.Status != contracts.StatusFailed || r.Reason != contracts.ReasonPoison {
		t.Errorf("result is %s/%s, want failed/poison: %s", r.Status, r.Reason, r.Error)
	}
	for _, inv := range others {
		if r := result(t, c, inv.ID, fleet.Patience); r.Status != contracts.StatusSucceeded {
			t.Errorf("%s: %s/%s, want succeeded: %s", inv.ID, r.Status, r.Reason, r.Error)
		}
	}
	second(t, f.Verify())
}

// kill -9 of the one NATS server and restart, under 1,000 jobs that run or wait: nothing is
// lost, each has one result, and what runs goes on.
func TestKillNATS(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	for range 3 {
		f.StartWorker(fleet.WorkerConfig{Slots: 8})
	}
	// Under way while the server dies: these must not start a second time.
	var long []contracts.Invocation
	for range 6 {
		long = append(long, f.Count("default", f.ID("long"), "-n", "100", "-every", "100ms", "-both"))
	}
	f.Submit(c, long...)
	for i, inv := range long {
		awaitRuns(f, inv.ID, 1)
		if i < 3 {
			f.Follow(f.Client("default", ""), "default", inv.ID, inv.ID)
		}
	}
	var jobs []contracts.Invocation
	for i := range 1000 {
		if i%5 == 0 {
			jobs = append(jobs, f.Count("default", f.ID("job"), "-n", "5"))
		} else {
			jobs = append(jobs, contracts.Invocation{ID: f.ID("job"), Kind: contracts.KindNoop})
		}
	}
	f.Submit(c, jobs...)
	f.ExcuseRunning("the only server was killed")
	f.Servers.Kill(0)
	down := time.Now()
	f.Servers.Restart(0)
	f.Servers.WaitReady()
	figure(t, "server back after", "%v", since(down))
	f.AwaitResults(fleet.Patience)
	figure(t, "all results after", "%v", since(down))
	again := 0
	for _, inv := range long {
		again += f.Executions("default", inv.ID) - 1
	}
	figure(t, "second runs of what was under way", "%d of %d", again, len(long))
	second(t, f.Verify())
}

// kill -9 of a submitter in the middle of a batch: what it had a receipt for has one result, what it had
// none for is there or not; and who submits the same batch again gets no second run of anything.
func TestKillSubmitter(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{Slots: 8})
	var jobs []contracts.Invocation
	for range 200 {
		jobs = append(jobs, f.Count("default", f.ID("job"), "-n", "2"))
	}
	for round := range rounds(t, 4) {
		s := f.StartSubmitter("", jobs...)
		s.Receipts(1 + round*len(jobs)/(rounds(t, 4)+1))
		s.Kill()
	}
	s := f.StartSubmitter("", jobs...)
	if n := s.Receipts(len(jobs)); n != len(jobs) {
		t.Errorf("the last submitter had %d receipts, want %d", n, len(jobs))
	}
	s.Wait()
	report := f.Verify()
	second(t, report)
	if report.Executions != len(jobs) {
		t.Errorf("%d jobs ran %d times", len(jobs), report.Executions)
	}
}

// kill -9 of a worker with no-ops in its hand and in its look-ahead: each has one result all the same.
func TestKillWorkerWithLookAhead(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	for round := range rounds(t, 2) {
		victim := f.StartWorker(fleet.WorkerConfig{Slots: 16})
		var jobs []contracts.Invocation
		for range 500 {
			jobs = append(jobs, contracts.Invocation{ID: f.ID("noop"), Kind: contracts.KindNoop})
		}
		f.Submit(c, jobs...)
		f.Await("some are done", fleet.Patience, func(ctx context.Context) (bool, string) {
			n := f.Results()
			return n > 500*round+50, fmt.Sprint(n)
		})
		victim.Kill()
		rescuer := f.StartWorker(fleet.WorkerConfig{Slots: 16})
		f.AwaitResults(fleet.Patience)
		f.AwaitEmpty() // an ack that the victim did not send is made good by the rescuer
		rescuer.Terminate()
		rescuer.Ended(fleet.Patience)
	}
	f.Verify()
}

// What is older than the retention of results is never run: it may have been run, and its result have aged out.
func TestTooOldToRun(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{ReplyAge: 20 * time.Second})
	c := f.Client("default", "")
	id := f.ID("old")
	f.Submit(c, f.Count("default", id))
	began := time.Now()
	f.Await("it is three quarters as old as results are kept", fleet.Patience, func(context.Context) (bool, string) {
		return time.Since(began) > 16*time.Second, ""
	})
	f.StartWorker(fleet.WorkerConfig{})
	if r := result(t, c, id, fleet.Patience); r.Status != contracts.StatusTimedOut || r.Reason != contracts.ReasonQueueTimeout {
		t.Errorf("result is %s/%s, want timed_out/queue_timeout: %s", r.Status, r.Reason, r.Error)
	}
	if n := f.Executions("default", id); n != 0 {
		t.Errorf("it ran %d times", n)
	}
}

// A worker that is frozen for longer than its lease comes back to find its job done by
// another: one result, and the loser's process is stopped.
func TestFrozenWorker(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	victim := f.StartWorker(fleet.WorkerConfig{})
	id := f.ID("job")
	f.Submit(c, f.Count("default", id, "-n", "150", "-every", "100ms"))
	awaitRuns(f, id, 1)
	f.Follow(f.Client("default", ""), "default", id, "early")
	f.StartWorker(fleet.WorkerConfig{})
	victim.Pause()
	frozen := time.Now()
	f.Await("30 s have passed and another runs it", fleet.Patience, func(context.Context) (bool, string) {
		return time.Since(frozen) > 30*time.Second && f.Executions("default", id) > 1, ""
	})
	victim.Resume()
	f.Excuse("default", id, "its holder was frozen")
	r := result(t, c, id, fleet.Patience)
	figure(t, "result after the freeze", "%v", since(frozen))
	if r.Status != contracts.StatusSucceeded {
		t.Errorf("result is %s/%s, want succeeded: %s", r.Status, r.Reason, r.Error)
	}
	second(t, f.Verify())
}

// A worker that starts while the server does not answer waits for it, and does not end.
func TestFrozenServerAtStart(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	id := f.ID("job")
	f.Submit(f.Client("default", ""), f.Count("default", id))
	f.Servers.Pause(0)
	back := time.AfterFunc(6*time.Second, func() { f.Servers.Resume(0) })
	defer back.Stop()
	f.StartWorker(fleet.WorkerConfig{})
	result(t, f.Client("default", ""), id, fleet.Patience)
	f.Verify()
}

// A question of a starting worker is lost, as one is that falls into an election: it asks again, and does not end.
func TestLostQuestionAtStart(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	p, address := f.Proxy()
	lost := p.TrapAfter("$JS.API.STREAM.INFO." + f.Topology.ReplyStream())
	var start sync.WaitGroup
	start.Go(func() { f.StartWorker(fleet.WorkerConfig{URL: address, Binary: true}) })
	select {
	case <-lost:
	case <-time.After(fleet.Patience):
		t.Error("the worker did not ask for RUNNEL_REPLY")
	}
	p.Drop() // and with the connection the answer
	p.Mend()
	if start.Wait(); t.Failed() {
		t.FailNow()
	}
	f.Submit(f.Client("default", ""), f.Count("default", f.ID("job")))
	f.Verify()
}

// SIGTERM: what runs may finish for the drain timeout; the rest is stopped, handed back at
// once and runs elsewhere; the worker exits with 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	victim := f.StartWorker(fleet.WorkerConfig{DrainTimeout: 3 * time.Second})
	quick, slow, queued := f.ID("quick"), f.ID("slow"), f.ID("queued")
	f.Submit(c, f.Count("default", quick, "-n", "20", "-every", "100ms"), f.Count("default", slow, "-n", "100", "-every", "100ms"))
	awaitRuns(f, quick, 1)
	awaitRuns(f, slow, 1)
	victim.Terminate()
	began := time.Now()
	f.Submit(c, f.Count("default", queued))
	if code := victim.Ended(fleet.Patience); code != 0 {
		t.Errorf("a drained worker exits with %d, want 0: %s", code, victim.Log())
	}
	figure(t, "drained in", "%v", since(began))
	for id, want := range map[string]int{quick: 0, slow: 0, queued: 0} {
		if n := f.Alive("default", id); n != want {
			t.Errorf("%d processes of %s outlive the drain", n, id)
		}
	}
	if n := f.Executions("default", queued); n != 0 {
		t.Error("a draining worker took a new job")
	}
	f.StartWorker(fleet.WorkerConfig{})
	handed := time.Now()
	for _, id := range []string{quick, slow, queued} {
		if r := result(t, c, id, fleet.Patience); r.Status != contracts.StatusSucceeded || r.Attempt != 1 {
			t.Errorf("%s: %s/%s, attempt %d, want succeeded, attempt 1: %s", id, r.Status, r.Reason, r.Attempt, r.Error)
		}
	}
	figure(t, "handed back and done in", "%v", since(handed))
	if n := f.Executions("default", quick); n != 1 {
		t.Errorf("%s ran %d times, want once: it had the time to finish", quick, n)
	}
	second(t, f.Verify())
}

// needCgroup skips where the subprocess runner has no cgroup to itself.
func needCgroup(t *testing.T) {
	t.Helper()
	registry, err := standard.Runners(standard.Config{WorkRoot: t.TempDir(), Kinds: []contracts.Kind{contracts.KindSubprocess}})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	capable, ok := registry[contracts.KindSubprocess].(runner.Capable)
	if !ok {
		t.Fatal("the subprocess runner does not say what it can do")
	}
	if rung := capable.Capabilities()["subprocess.kill"]; rung != "cgroup" {
		t.Skipf("the subprocess runner has the rung %q here, not cgroup", rung)
	}
}

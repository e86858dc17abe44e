package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// holder answers cancel requests for id as handle says, one after the other.
func (s *stage) holder(id string, handle func(answer func(contracts.CancelReply))) {
	s.t.Helper()
	sub, err := s.nc.Subscribe(s.names.Cancel("default", id), func(m *nats.Msg) {
		if m.Reply == "" {
			return // the hint that a result is stored
		}
		handle(func(r contracts.CancelReply) {
			data, err := contracts.Encode(r)
			if err == nil {
				err = m.Respond(data)
			}
			if err != nil {
				s.t.Error(err)
			}
		})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := s.nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) cancel(id string) queue.CancelReport {
	s.t.Helper()
	r, err := s.p.Cancel(within(s.t), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestCancelQueued(t *testing.T) {
	s := newStage(t, queue.Topology{})
	inv := contracts.Invocation{ID: "j", Kind: contracts.KindNoop, Name: "n", Lane: contracts.LaneLow, Labels: map[string]string{"k": "v"}}
	receipt, err := s.p.Submit(within(t), inv)
	if err != nil {
		t.Fatal(err)
	}
	r := s.cancel("j")
	if r.Status != contracts.StatusCancelled || r.Was != contracts.StatusPending || r.AlreadyEnded || r.Killed != "" {
		t.Errorf("Cancel() = %+v, want a pending one cancelled", r)
	}
	got := r.Result
	if got == nil || got.Name != "n" || got.Lane != contracts.LaneLow || got.Pool != "default" || got.Kind != contracts.KindNoop ||
		got.Labels["k"] != "v" || got.Digest != receipt.Digest || got.Run != "" || got.SubmittedAt.IsZero() {
		t.Errorf("the result is %+v, want it to carry what the invocation said", got)
	}
	// No worker is there to drop it.
	if n := stored(t, s.nc, s.top.InvokeStream()); n != 0 {
		t.Errorf("%d are queued, want none", n)
	}
	expect(t, "Watch()", told(s.p.Watch(within(t), "j")), "result cancelled")
	if again := s.cancel("j"); !again.AlreadyEnded || again.Status != contracts.StatusCancelled {
		t.Errorf("Cancel() again = %+v, want already ended", again)
	}
}

// Where a worker lives it drops the invocation itself, at its pre-run check.
func TestCancelLeavesTheQueueToWorkers(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	s.present("w", contracts.KindNoop)
	s.cancel("j")
	if n := stored(t, s.nc, s.top.InvokeStream()); n != 1 {
		t.Errorf("%d are queued, want the one", n)
	}
}

// What began may have left something elsewhere: it stays in the queue for a worker to look at, whether or not one is there.
func TestCancelLeavesWhatBegan(t *testing.T) {
	for name, ended := range map[string]bool{"lost": false, "handed back": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, queue.Topology{})
			s.submit("j")
			s.start("j", runA)
			if ended {
				s.end("j", runA, 0, "")
			}
			s.cancel("j")
			if n := stored(t, s.nc, s.top.InvokeStream()); n != 1 {
				t.Errorf("%d are queued, want the one", n)
			}
		})
	}
}

func (s *stage) present(name string, kinds ...contracts.Kind) {
	s.t.Helper()
	w := contracts.Presence{Name: name, Pool: "default", Kinds: kinds, Slots: 1, StartedAt: time.Now()}
	if err := queue.NewPresences(s.nc, s.top).Put(within(s.t), w); err != nil {
		s.t.Fatal(err)
	}
}

func TestCancelRunning(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.submit("j")
	early := s.early("j")
	s.start("j", runA)
	s.holder("j", func(answer func(contracts.CancelReply)) {
		answer(contracts.CancelReply{State: contracts.CancelKilling})
		r := contracts.Result{ID: "j", Kind: contracts.KindNoop, Tenant: "default", Pool: "default", Lane: contracts.LaneNormal, Digest: "d",
			Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled, Run: runA, Worker: "w", Killed: "2 processes", Tail: pieces("bye"), FinishedAt: time.Now()}
		s.put(s.names.Result("default", "j"), r)
		answer(contracts.CancelReply{State: contracts.CancelDone, Status: r.Status, Killed: r.Killed})
	})
	r := s.cancel("j")
	if r.Status != contracts.StatusCancelled || r.Was != contracts.StatusRunning || r.Killed != "2 processes" || r.AlreadyEnded {
		t.Errorf("Cancel() = %+v, want a running one killed", r)
	}
	expect(t, "Watch()", rest(early), "a started", "a 0 bye", "result cancelled")
}

// The run ended by itself while it was being killed.
func TestCancelTooLate(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	s.holder("j", func(answer func(contracts.CancelReply)) {
		answer(contracts.CancelReply{State: contracts.CancelKilling})
		s.result("j", runA, 0, "done")
		answer(contracts.CancelReply{State: contracts.CancelEnded, Status: contracts.StatusSucceeded})
	})
	if r := s.cancel("j"); !r.AlreadyEnded || r.Status != contracts.StatusSucceeded || r.Result == nil {
		t.Errorf("Cancel() = %+v, want already succeeded", r)
	}
	if r := s.cancel("j"); !r.AlreadyEnded || r.Was != contracts.StatusSucceeded {
		t.Errorf("Cancel() of what has ended = %+v, want already succeeded", r)
	}
}

// Nobody answers, since the holder is frozen: the client says the last word, and a follower waits for the
// holder's, in vain or not.
func TestCancelOverTheHoldersHead(t *testing.T) {
	t.Parallel()
	t.Run("it stores its end", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.submit("j")
		s.present("w", contracts.KindNoop)
		early := s.early("j")
		s.start("j", runA)
		s.chunk("j", runA, 1, "one")
		got := []string{<-early, <-early}
		s.holder("j", func(func(contracts.CancelReply)) {})
		if r := s.cancel("j"); r.Status != contracts.StatusCancelled || r.Was != contracts.StatusRunning || r.Result.Run != "" {
			t.Errorf("Cancel() = %+v, want a running one cancelled", r)
		}
		late := alongside(t, s.p.Watch(within(t), "j"))
		s.chunk("j", runA, 2, "two")
		s.end("j", runA, 2, "bye")
		want := []string{"a started", "a 1 one", "a 2 two", "a 0 bye", "a ended", "result cancelled"}
		expect(t, "the early one", append(got, rest(early)...), want...)
		expect(t, "the one in between", rest(late), want...)
		expect(t, "the late one", told(s.p.Watch(within(t), "j")), want...)
	})
	t.Run("it never does", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		grace := 0.0
		if _, err := s.p.Submit(within(t), contracts.Invocation{ID: "j", Kind: contracts.KindNoop, Stop: &contracts.Stop{GraceSeconds: &grace}}); err != nil {
			t.Fatal(err)
		}
		s.present("w", contracts.KindNoop)
		s.start("j", runA)
		s.cancel("j")
		s.chunk("j", runA, 1, "one")
		begun := time.Now()
		expect(t, "Watch()", told(s.p.Watch(within(t), "j")), "a started", "a 1 one", "result cancelled")
		if d := time.Since(begun); d > 30*time.Second {
			t.Errorf("Watch() took %v, want the grace and 5 s at most", d)
		}
	})
	t.Run("it has let go", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.submit("j")
		s.start("j", runA)
		s.cancel("j")
		emptied(t, s.nc, s.top.InvokeStream()) // its ack
		expect(t, "Watch()", told(s.p.Watch(within(t), "j")), "a started", "result cancelled")
	})
}

func TestCancelErrors(t *testing.T) {
	s := newStage(t, queue.Topology{})
	if _, err := s.p.Cancel(within(t), "unknown"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Cancel() of nothing = %v, want ErrNotFound", err)
	}
	if _, err := s.p.Cancel(within(t), "a.b"); err == nil || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Cancel() of no id = %v, want an error of its own", err)
	}
	s.submit("j")
	s.node.Shutdown()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.p.Cancel(ctx, "j"); err == nil || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Cancel() without a server = %v, want no claim that it is absent", err)
	}
}

// Two cancel at once, and a worker stores its result at the same time: all tell of the one result that is stored.
func TestCancelRacesTheResult(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	won := map[contracts.Status]int{}
	for i := range rounds {
		id := fmt.Sprintf("j%d", i)
		s.submit(id)
		var reports [2]queue.CancelReport
		var racers sync.WaitGroup
		for k := range reports {
			racers.Go(func() {
				var err error
				if reports[k], err = s.p.Cancel(within(t), id); err != nil {
					t.Error(err)
				}
			})
		}
		racers.Go(func() {
			data, err := contracts.Encode(contracts.Result{ID: id, Kind: contracts.KindNoop, Tenant: "default", Pool: "default", Lane: contracts.LaneNormal,
				Digest: "d", Status: contracts.StatusSucceeded, Run: runA, Worker: "w", FinishedAt: time.Now()})
			if err == nil {
				_, err = s.reply.Put(within(t), s.names.Result("default", id), nil, data)
			}
			if err != nil && !errors.Is(err, queue.ErrOccupied) {
				t.Error(err)
			}
		})
		racers.Wait()
		info, err := s.p.Get(within(t), id)
		if err != nil || info.Result == nil {
			t.Fatalf("Get() = %+v, %v, want a result", info, err)
		}
		won[info.Status]++
		for _, r := range reports {
			if r.Status != info.Status || r.AlreadyEnded != (r.Was == info.Status) {
				t.Fatalf("round %d: Cancel() = %+v, the result is %s", i, r, info.Status)
			}
		}
	}
	t.Logf("who won: %v", won)
}

func TestWithdraw(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	s.submit("j")
	if err := s.p.Withdraw(ctx, "j"); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{s.top.InvokeStream(), s.top.ReplyStream(), s.top.DeadStream()} {
		if n := stored(t, s.nc, stream); n != 0 {
			t.Errorf("%d messages are left in %s", n, stream)
		}
	}
	if err := s.p.Withdraw(ctx, "j"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Withdraw() of nothing = %v, want ErrNotFound", err)
	}
	if r := s.submit("j"); r.Existed {
		t.Errorf("Submit() after a withdrawal = %+v, want a new one", r)
	}
	s.start("j", runA)
	if err := s.p.Withdraw(ctx, "j"); !errors.Is(err, queue.ErrTaken) {
		t.Errorf("Withdraw() of what runs = %v, want ErrTaken", err)
	}
	s.result("j", runA, 0, "")
	emptied(t, s.nc, s.top.InvokeStream())
	if err := s.p.Withdraw(ctx, "j"); !errors.Is(err, queue.ErrTaken) {
		t.Errorf("Withdraw() of what has ended = %v, want ErrTaken", err)
	}
}

// A worker had it in hand when it was deleted: it is put back, or it would be lost with that worker.
func TestWithdrawLosesTheRace(t *testing.T) {
	s := newStage(t, queue.Topology{})
	receipt := s.submit("j")
	s.present("w", contracts.KindNoop)
	failed := make(chan error, 1)
	go func() { failed <- s.p.Withdraw(within(t), "j") }()
	eventually(t, "deleted", func() bool { return stored(t, s.nc, s.top.InvokeStream()) == 0 })
	s.start("j", runA)
	if err := <-failed; !errors.Is(err, queue.ErrTaken) {
		t.Errorf("Withdraw() = %v, want ErrTaken", err)
	}
	m, err := queue.NewStore(s.nc, s.top.InvokeStream(), 1).Last(within(t), s.names.AnyInvoke("default", "j"))
	if err != nil || m.Header.Get(contracts.HeaderDigest) != receipt.Digest || m.Header.Get(contracts.HeaderVersion) != contracts.Version {
		t.Errorf("the queue holds %+v, %v, want the invocation as it was", m, err)
	}
}

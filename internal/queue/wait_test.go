package queue_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

func ended(results iter.Seq2[contracts.Result, error]) (all []string) {
	for r, err := range results {
		switch {
		case errors.Is(err, queue.ErrNotFound):
			all = append(all, r.ID+" not found")
		case err != nil:
			all = append(all, r.ID+" "+err.Error())
		default:
			all = append(all, r.ID)
		}
	}
	return all
}

func TestWait(t *testing.T) {
	s := newStage(t, queue.Topology{})
	for _, id := range []string{"a", "b", "c"} {
		s.submit(id)
	}
	s.result("b", runA, 0, "")
	next, stop := iter.Pull2(s.p.Wait(within(t), "a", "unknown", "b", "c", "a", "b"))
	defer stop()
	var got []string
	for _, store := range []string{"", "", "c", "a"} {
		if store != "" {
			s.result(store, runA, 0, "")
		}
		r, err, ok := next()
		if !ok {
			t.Fatal("Wait() ended early")
		}
		if errors.Is(err, queue.ErrNotFound) {
			r.ID += " not found"
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.ID)
	}
	if r, err, ok := next(); ok {
		t.Errorf("Wait() yields %v, %v beyond its end", r, err)
	}
	slices.Sort(got[:2])
	expect(t, "Wait()", got, "b", "unknown not found", "c", "a")
	expect(t, "Wait() of nothing", ended(s.p.Wait(within(t))))
}

func TestWaitMany(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	var ids []string
	for i := range 300 {
		id := fmt.Sprintf("j%03d", i)
		s.submit(id)
		ids = append(ids, id)
	}
	before := s.pnc.NumSubscriptions()
	storing := make(chan struct{})
	go func() {
		defer close(storing)
		for _, id := range ids[:100] {
			s.result(id, runA, 0, "")
		}
		eventually(t, "subscribed", func() bool { return s.pnc.NumSubscriptions() > before })
		for _, id := range ids[100:] {
			s.result(id, runA, 0, "")
		}
	}()
	got := ended(s.p.Wait(within(t), ids...))
	<-storing
	slices.Sort(got)
	expect(t, "Wait()", got, ids...)
}

// Results of which no live copy comes are asked for.
func TestWaitOverARestart(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("a")
	s.submit("b")
	waiting := make(chan []string)
	go func() { waiting <- ended(s.p.Wait(within(t), "a", "b")) }()
	s.result("a", runA, 0, "")
	s.node.Restart(t)
	s.result("b", runA, 0, "")
	got := <-waiting
	slices.Sort(got)
	expect(t, "Wait()", got, "a", "b")
}

// What is withdrawn or purged while somebody waits is found to be gone.
func TestWaitOfWhatIsGone(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("a")
	s.p.SetPollMost(time.Second)
	before := s.pnc.NumSubscriptions()
	waiting := make(chan []string)
	go func() { waiting <- ended(s.p.Wait(within(t), "a")) }()
	eventually(t, "subscribed", func() bool { return s.pnc.NumSubscriptions() > before })
	emptied(t, s.nc, s.top.InvokeStream())
	expect(t, "Wait()", <-waiting, "a not found")
}

func TestWaitEndsWithItsContext(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("a")
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	expect(t, "Wait()", ended(s.p.Wait(ctx, "a")), " enough")
	nc := s.node.Connect(t)
	p := s.producer(nc)
	nc.Close()
	if got := ended(p.Wait(within(t), "a")); len(got) != 1 || !strings.Contains(got[0], "closed") {
		t.Errorf("Wait() on a closed connection = %v, want ErrClosed", got)
	}
}

// fakeWorker takes what is queued and stores a result for it, until the test ends.
func (s *stage) fakeWorker(answer func(inv contracts.Invocation, m jetstream.Msg)) {
	s.t.Helper()
	ctx := context.Background()
	js := jetStream(s.t, s.nc)
	c, err := js.CreateOrUpdateConsumer(ctx, s.top.InvokeStream(), s.top.Consumer(contracts.KindNoop, "default", contracts.LaneNormal, "0"))
	if err != nil {
		s.t.Fatal(err)
	}
	var handling sync.WaitGroup
	slots := make(chan struct{}, 16)
	work, err := c.Consume(func(m jetstream.Msg) {
		inv, err := contracts.Decode[contracts.Invocation](m.Data(), contracts.Meta{})
		if err != nil {
			s.t.Error(err)
			return
		}
		slots <- struct{}{}
		handling.Go(func() {
			answer(inv, m)
			<-slots
		})
	}, jetstream.PullMaxMessages(64))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		work.Stop()
		<-work.Closed()
		handling.Wait()
	})
}

// succeed stores a result for inv and takes it off the queue.
func (s *stage) succeed(inv contracts.Invocation, m jetstream.Msg) {
	digest := m.Headers().Get(contracts.HeaderDigest)
	data, err := contracts.Encode(contracts.Result{ID: inv.ID, Name: inv.Name, Kind: inv.Kind, Tenant: inv.Tenant, Pool: inv.Pool, Lane: inv.Lane, Digest: digest,
		Status: contracts.StatusSucceeded, Run: contracts.NewRun(), Worker: "w", FinishedAt: time.Now()})
	if err == nil {
		for again := true; again; { // as a worker does, until it is stored
			_, err = s.reply.Put(within(s.t), s.names.Result(inv.Tenant, inv.ID), nats.Header{contracts.HeaderVersion: {contracts.Version}}, data)
			again = errors.Is(err, queue.ErrUnknown)
		}
	}
	if err != nil && !errors.Is(err, queue.ErrOccupied) {
		s.t.Error(err)
	}
	if err := m.Ack(); err != nil {
		s.t.Error(err)
	}
}

func TestRunAll(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.fakeWorker(s.succeed)
	const n = 3000 // more than are open at once
	invs := func(yield func(contracts.Invocation) bool) {
		for i := range n {
			inv := contracts.Invocation{Kind: contracts.KindNoop, Name: fmt.Sprint(i)}
			if i%500 == 0 {
				inv.ID = fmt.Sprintf("chosen-%d", i)
			}
			if !yield(inv) {
				return
			}
		}
	}
	names := map[string]bool{}
	for r, err := range s.p.RunAll(within(t), invs) {
		if err != nil {
			t.Fatal(err)
		}
		names[r.Name] = true
	}
	if len(names) != n {
		t.Errorf("%d results, want %d", len(names), n)
	}
	// A second time: what has ended under its id is not run again.
	expect(t, "RunAll() again", ended(s.p.RunAll(within(t), slices.Values([]contracts.Invocation{
		{ID: "chosen-500", Kind: contracts.KindNoop, Name: "500"}}))), "chosen-500")
}

func TestRunAllOverARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.fakeWorker(s.succeed)
	const n = 500
	count := 0
	for _, err := range s.p.RunAll(within(t), func(yield func(contracts.Invocation) bool) {
		for i := range n {
			if i == n/2 {
				s.node.Restart(t)
			}
			if !yield(noop("")) {
				return
			}
		}
	}) {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != n {
		t.Errorf("%d results, want %d", count, n)
	}
}

func TestRunAllErrorsAreOfTheirOwn(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("used")
	s.fakeWorker(s.succeed)
	got := ended(s.p.RunAll(within(t), slices.Values([]contracts.Invocation{
		{ID: "bad", Kind: contracts.KindSubprocess}, {ID: "used", Kind: contracts.KindNoop, Name: "other"}, noop("a")})))
	slices.Sort(got)
	if len(got) != 3 || got[0] != "a" || !strings.HasPrefix(got[1], "bad command") || strings.Count(got[2], "id is in use") != 1 {
		t.Errorf("RunAll() = %q", got)
	}
	// Leaving in the middle leaves nothing behind (goleak looks).
	for range s.p.RunAll(within(t), func(yield func(contracts.Invocation) bool) {
		for yield(noop("")) {
		}
	}) {
		break
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	expect(t, "RunAll() without time", ended(s.p.RunAll(ctx, slices.Values([]contracts.Invocation{noop("late")}))), " context canceled")
}

// A result that comes at once is heard, not asked for a second later: nothing is submitted before the server knows who listens.
func TestRunAllListensFirst(t *testing.T) {
	s := newStage(t, queue.Topology{})
	link, err := proxy.New(strings.TrimPrefix(s.nc.ConnectedUrl(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	follow, err := nats.Connect("nats://" + link.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(follow.Close)
	p, err := queue.NewProducer(s.pnc, queue.ProducerConfig{Topology: s.top, Follow: follow})
	if err != nil {
		t.Fatal(err)
	}
	s.fakeWorker(s.succeed)
	sent := link.Trap("SUB ", 1)
	go func() {
		<-sent
		link.Mend()
	}()
	before := s.node.Server().NumSubscriptions()
	count := 0
	for r, err := range p.RunAll(within(t), func(yield func(contracts.Invocation) bool) {
		if s.node.Server().NumSubscriptions() <= before {
			t.Error("the first invocation is asked for before the server has the subscription on results")
		}
		yield(noop("a"))
	}) {
		if err != nil || r.ID != "a" {
			t.Fatalf("RunAll() = %v, %v", r.ID, err)
		}
		count++
	}
	if count != 1 {
		t.Errorf("%d results, want 1", count)
	}
}

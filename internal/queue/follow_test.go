package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Whoever follows sees the same, whenever he comes.
func TestWatchEarlyAndLate(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	s.submit("j")
	early := s.early("j")
	s.start("j", runA)
	s.chunk("j", runA, 1, "one")
	var begin []string
	for range 2 {
		begin = append(begin, <-early) // the early one is live by now
	}
	middle := alongside(t, s.p.Watch(ctx, "j"))
	start := []string{<-middle}
	s.chunk("j", runA, 2, "two")
	s.chunk("j", runA, 3, "three")
	s.result("j", runA, 3, "tail")
	want := []string{"a started", "a 1 one", "a 2 two", "a 3 three", "a 0 tail", "result succeeded"}
	expect(t, "the early one", append(begin, rest(early)...), want...)
	expect(t, "the one in between", append(start, rest(middle)...), want...)
	expect(t, "the late one", told(s.p.Watch(ctx, "j")), want...)
	expect(t, "one run", told(s.p.WatchRun(ctx, "j", runA)), want...)
	expect(t, "all runs", told(s.p.WatchRun(ctx, "j", queue.AllRuns)), want...)
}

func TestWatchAShortJob(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	s.submit("j")
	early := s.early("j")
	s.result("j", runA, 0, "all")
	want := []string{"a started", "a 0 all", "result succeeded"}
	expect(t, "the early one", rest(early), want...)
	expect(t, "the late one", told(s.p.Watch(ctx, "j")), want...)
}

func TestWatchRetries(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	s.submit("j")
	early := s.early("j")
	s.start("j", runA)
	s.chunk("j", runA, 1, "one")
	s.end("j", runA, 1, "last")
	s.start("j", runB)
	s.chunk("j", runB, 1, "uno")
	// The first worker was only frozen: what it still says does not count.
	s.chunk("j", runA, 2, "late")
	s.chunk("j", runB, 2, "dos")
	var got []string
	for range 8 {
		got = append(got, <-early)
	}
	late := alongside(t, s.p.Watch(ctx, "j"))
	between := []string{<-late} // it was there before the result
	s.result("j", runB, 2, "")
	want := []string{"a started", "a 1 one", "a 0 last", "a ended", "b restarted", "b started", "b 1 uno", "b 2 dos", "result succeeded"}
	expect(t, "the early one", append(got, rest(early)...), want...)
	expect(t, "one between runs", append(between, rest(late)...), want...)
	expect(t, "the late one", told(s.p.Watch(ctx, "j")), "b started", "b 1 uno", "b 2 dos", "result succeeded")
	expect(t, "the first run", told(s.p.WatchRun(ctx, "j", runA)), "a started", "a 1 one", "a 0 last", "a ended", "a 2 late")
	expect(t, "all runs", told(s.p.WatchRun(ctx, "j", queue.AllRuns)),
		"a started", "a 1 one", "a 0 last", "a ended", "b started", "b 1 uno", "a 2 late", "b 2 dos", "result succeeded")
}

// The frozen run thaws and stores the result first: its output counts after all.
func TestWatchRestartsTheRunThatCounted(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	early := s.early("j")
	s.start("j", runA)
	s.chunk("j", runA, 1, "one")
	s.start("j", runB)
	s.chunk("j", runB, 1, "uno")
	s.chunk("j", runA, 2, "two")
	s.result("j", runA, 2, "tail")
	expect(t, "Watch()", rest(early), "a started", "a 1 one", "b restarted", "b started", "b 1 uno",
		"a restarted", "a started", "a 1 one", "a 2 two", "a 0 tail", "result succeeded")
}

// An end whose tail became the result is told once.
func TestWatchResultFromEnds(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	early := s.early("j")
	s.start("j", runA)
	s.end("j", runA, 0, "tail")
	s.result("j", runA, 0, "tail")
	expect(t, "Watch()", rest(early), "a started", "a 0 tail", "a ended", "result succeeded")
}

func TestWatchHoles(t *testing.T) {
	t.Parallel()
	t.Run("filled later", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.submit("j")
		early := s.early("j")
		s.start("j", runA)
		s.chunk("j", runA, 1, "one")
		s.chunk("j", runA, 3, "three")
		s.chunk("j", runA, 4, "four")
		if got := []string{<-early, <-early}; got[1] != "a 1 one" {
			t.Fatal(got)
		}
		s.chunk("j", runA, 2, "two") // published again after a lost answer
		s.result("j", runA, 4, "")
		want := []string{"a 2 two", "a 3 three", "a 4 four", "result succeeded"}
		expect(t, "the early one", rest(early), want...)
		expect(t, "the late one", told(s.p.Watch(within(t), "j"))[2:], want...)
	})
	t.Run("never filled", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.submit("j")
		s.p.SetHoleWait(50 * time.Millisecond)
		early := s.early("j")
		s.start("j", runA)
		s.chunk("j", runA, 3, "three")
		expect(t, "before the end", []string{<-early, <-early, <-early}, "a started", "a gap 1-2", "a 3 three")
		s.result("j", runA, 5, "tail")
		expect(t, "after it", rest(early), "a gap 4-5", "a 0 tail", "result succeeded")
		expect(t, "the late one", told(s.p.Watch(within(t), "j")),
			"a started", "a gap 1-2", "a 3 three", "a gap 4-5", "a 0 tail", "result succeeded")
	})
	t.Run("aged out", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.submit("j")
		s.start("j", runA)
		s.chunk("j", runA, 5000, "x")
		s.result("j", runA, 5001, "")
		expect(t, "Watch()", told(s.p.Watch(within(t), "j")), "a started", "a gap 1-4999",
			"a 5000 x", "a gap 5001-5001", "result succeeded")
	})
}

func TestWatchErrors(t *testing.T) {
	s := newStage(t, queue.Topology{})
	first := func(ctx context.Context, p *queue.Producer, id string) error {
		for _, err := range p.Watch(ctx, id) {
			return err
		}
		return nil
	}
	if err := first(within(t), s.p, "unknown"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Watch() of nothing = %v, want ErrNotFound", err)
	}
	if err := first(within(t), s.p, "../x"); err == nil || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Watch() of no id = %v, want an error of its own", err)
	}
	for _, run := range []string{runA, queue.AllRuns} {
		if got := told(s.p.WatchRun(within(t), "unknown", run)); len(got) != 1 || !strings.Contains(got[0], "not found") {
			t.Errorf("WatchRun(%s) of nothing = %v, want ErrNotFound", run, got)
		}
	}
	s.submit("j")
	if got := told(s.p.WatchRun(within(t), "j", queue.AllRuns)); len(got) != 0 {
		t.Errorf("WatchRun() of what waits = %v, want nothing", got)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	waiting := make(chan error, 1)
	go func() { waiting <- first(ctx, s.p, "j") }()
	cancel(cause)
	if err := <-waiting; !errors.Is(err, cause) {
		t.Errorf("Watch() until its context ended = %v, want the cause", err)
	}
	nc := s.node.Connect(t)
	p := s.producer(nc)
	go func() { waiting <- first(within(t), p, "j") }()
	nc.Close()
	if err := <-waiting; !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Watch() on a closed connection = %v, want ErrClosed", err)
	}
}

// A follower leaves in the middle and nothing of it stays behind (goleak looks).
func TestWatchLeft(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	s.chunk("j", runA, 1, "one")
	s.chunk("j", runA, 2, "two")
	var got []string
	for e, err := range s.p.Watch(within(t), "j") {
		got = append(got, line(e, err))
		if len(got) == 2 {
			break
		}
	}
	expect(t, "Watch()", got, "a started", "a 1 one")
	if n := s.nc.NumSubscriptions(); n > 3 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// The server restarts under a follower, and everything is shown once.
func TestWatchOverARestart(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("j")
	early := s.early("j")
	s.chunk("j", runA, 1, "one")
	got := []string{<-early, <-early}
	s.node.Restart(t)
	s.chunk("j", runA, 2, "two")
	got = append(got, <-early)
	s.node.Restart(t)
	s.result("j", runA, 2, "tail")
	expect(t, "Watch()", append(got, rest(early)...), "a started", "a 1 one", "a 2 two", "a 0 tail", "result succeeded")
}

// A reader that is slower than the run gets every byte, and the server is never more than a few messages ahead of it.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.submit("j")
	nc := s.node.Connect(t)
	slow := make(chan error, 1)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case slow <- err:
		default:
		}
	})
	p := s.producer(nc)
	const n = 400
	text := strings.Repeat("x", 32<<10)
	turn := make(chan struct{})
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		for i := range n {
			s.chunk("j", runA, i+1, fmt.Sprint(i, " ", text))
			if i%8 == 0 {
				select {
				case turn <- struct{}{}: // the reader goes one step for eight chunks
				case <-time.After(time.Second):
				}
			}
		}
		close(turn)
		s.result("j", runA, n, "")
	}()
	next := 0
	for e, err := range p.Watch(within(t), "j") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != contracts.EventOutput {
			if e.Type == contracts.EventGap {
				t.Fatalf("a gap %v", e.Gap)
			}
			continue
		}
		if want := fmt.Sprint(next, " ", text); string(e.Output.Data) != want {
			t.Fatalf("chunk %d begins with %.20q", next+1, e.Output.Data)
		}
		next++
		<-turn
	}
	<-stored
	if next != n {
		t.Errorf("%d chunks were shown, want %d", next, n)
	}
	select {
	case err := <-slow:
		t.Errorf("async error %v, want none: the server sent more than was asked for", err)
	default:
	}
}

// A follower of what was queued and then withdrawn, purged or lost ends.
func TestWatchOfWhatIsGone(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.submit("j")
	s.p.SetGoneEvery(0)
	early := s.early("j")
	emptied(t, s.nc, s.top.InvokeStream())
	if got := rest(early); len(got) != 1 || !strings.Contains(got[0], "not found") {
		t.Errorf("Watch() = %v, want ErrNotFound", got)
	}
}

// A follower whose live copies all get lost still sees everything, by asking.
func TestWatchWithoutLiveCopies(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	deaf := s.node.Connect(t)
	p, err := queue.NewProducer(s.nc, queue.ProducerConfig{Topology: queue.Topology{}, Follow: deaf})
	if err != nil {
		t.Fatal(err)
	}
	str, err := jetStream(t, s.nc).Stream(within(t), s.top.ReplyStream())
	if err != nil {
		t.Fatal(err)
	}
	cfg := str.CachedInfo().Config
	cfg.RePublish = nil
	if _, err := jetStream(t, s.nc).UpdateStream(within(t), cfg); err != nil {
		t.Fatal(err)
	}
	s.submit("j")
	lines := alongside(t, p.Watch(within(t), "j"))
	eventually(t, "live", func() bool { return deaf.NumSubscriptions() > 2 })
	s.chunk("j", runA, 1, "one")
	got := []string{<-lines, <-lines}
	s.result("j", runA, 1, "tail")
	expect(t, "Watch()", append(got, rest(lines)...), "a started", "a 1 one", "a 0 tail", "result succeeded")
}

func TestRun(t *testing.T) {
	s := newStage(t, queue.Topology{})
	for _, id := range []string{"", "chosen"} {
		var receipt queue.Receipt
		done := make(chan []string)
		accepted := make(chan struct{})
		go func() {
			done <- told(s.p.Run(within(t), noop(id), func(r queue.Receipt) { receipt = r; close(accepted) }))
		}()
		<-accepted
		s.start(receipt.ID, runA)
		for n := range 100 { // more than one subscription's credit
			s.chunk(receipt.ID, runA, n+1, "x")
		}
		s.result(receipt.ID, runA, 100, "tail")
		got := <-done
		if len(got) != 103 || got[0] != "a started" || !slices.Equal(got[100:], []string{"a 100 x", "a 0 tail", "result succeeded"}) {
			t.Errorf("Run(%q) = %v", id, got)
		}
	}
	// A second Run under the id sees the same from the beginning; other content is refused.
	if got := told(s.p.Run(within(t), noop("chosen"), nil)); len(got) != 103 {
		t.Errorf("Run() of what has ended shows %d events, want 103", len(got))
	}
	other := contracts.Invocation{ID: "chosen", Kind: contracts.KindNoop, Name: "other"}
	if got := told(s.p.Run(within(t), other, nil)); len(got) != 1 || !strings.Contains(got[0], "id is in use") {
		t.Errorf("Run() of other content = %v, want ErrIDInUse", got)
	}
	if got := told(s.p.Run(within(t), noop("../x"), nil)); len(got) != 1 || !strings.Contains(got[0], "invocation_id") {
		t.Errorf("Run() of what is not valid = %v", got)
	}
}

// On a link of 1 MB/s a follower of a run that writes much faster gets every byte once, and hardly a byte twice: the server is
// never asked for more than the link takes.
func TestWatchOnASlowLink(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 6 s")
	}
	s := newStage(t, queue.Topology{})
	link, err := proxy.New(strings.TrimPrefix(s.nc.ConnectedUrl(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	closed := make(chan struct{})
	nc, err := nats.Connect("nats://"+link.Addr(), nats.MaxReconnects(-1), nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Errorf("async error %v, want none", err) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); <-closed })
	s.submit("j")
	p := s.producer(nc)
	lines := make(chan contracts.Event)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		for e, err := range p.Watch(within(t), "j") {
			if err != nil {
				t.Error(err)
				return
			}
			lines <- e
		}
	}()
	eventually(t, "live", func() bool { return nc.NumSubscriptions() > 2 })
	link.Throttle(1_000_000)
	const n = 80
	text := strings.Repeat("x", 63<<10)
	storing := make(chan struct{})
	go func() {
		defer close(storing)
		s.start("j", runA)
		for i := range n {
			s.chunk("j", runA, i+1, fmt.Sprint(i, " ", text))
		}
		s.result("j", runA, n, "tail")
	}()
	next := 0
	for e := range lines {
		if e.Type == contracts.EventGap || e.Type == contracts.EventRestarted {
			t.Errorf("%s, want all of it", line(e, nil))
		}
		if e.Type == contracts.EventOutput && e.N > 0 {
			if want := fmt.Sprint(next, " ", text); string(e.Output.Data) != want {
				t.Fatalf("chunk %d begins with %.20q", next+1, e.Output.Data)
			}
			next++
		}
	}
	<-done
	<-storing
	if next != n {
		t.Errorf("%d chunks were shown, want %d", next, n)
	}
	payload := uint64(n * len(text))
	t.Logf("%.2f bytes came for each that was shown", float64(nc.Stats().InBytes)/float64(payload))
	if got := nc.Stats().InBytes; got > 2*payload {
		t.Errorf("%d bytes came for %d that were shown", got, payload)
	}
	if got := nc.Stats().Reconnects; got > 0 {
		t.Errorf("%d reconnects, want none", got)
	}
}

// Who follows a flood from its beginning or comes in the middle of it gets each byte once: what is heard is not read as well.
func TestWatchAFlood(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.submit("j")
	s.start("j", runA)
	const n = 400
	text := strings.Repeat("x", 63<<10)
	watch := func() (nc *nats.Conn, shown <-chan int, wait func()) {
		nc = s.node.Connect(t)
		p, numbers, done := s.producer(nc), make(chan int, n), make(chan struct{})
		go func() {
			defer close(done)
			next := 0
			for e, err := range p.Watch(within(t), "j") {
				if err != nil || e.Type == contracts.EventGap || e.Type == contracts.EventRestarted {
					t.Errorf("%s, want all of it", line(e, err))
				}
				if e.Type == contracts.EventOutput && e.N > 0 {
					if want := fmt.Sprint(next, " ", text); string(e.Output.Data) != want {
						t.Errorf("chunk %d begins with %.20q", next+1, e.Output.Data)
					}
					next++
					numbers <- next
				}
			}
			if next != n {
				t.Errorf("%d chunks were shown, want %d", next, n)
			}
		}()
		return nc, numbers, func() { <-done }
	}
	early, shown, earlyDone := watch()
	var stored sync.WaitGroup
	half := make(chan struct{})
	stored.Go(func() {
		var all sync.WaitGroup
		for i := range n {
			data, err := contracts.Encode(contracts.Chunk{N: i + 1, At: time.Now(), Pieces: pieces(fmt.Sprint(i, " ", text))})
			if err != nil {
				t.Error(err)
			}
			subject := s.names.Chunk("default", "j", runA, i+1)
			all.Add(1)
			s.reply.PutAsync(subject, nil, data, func(_ uint64, err error) {
				all.Go(func() {
					defer all.Done()
					for errors.Is(err, queue.ErrUnknown) { // as a worker does, until it is stored
						_, err = s.reply.Put(within(t), subject, nil, data)
					}
					if err != nil && !errors.Is(err, queue.ErrOccupied) {
						t.Error(err)
					}
				})
			})
			if i == n/2 {
				close(half)
			}
		}
		all.Wait()
		s.result("j", runA, n, "tail")
	})
	<-shown
	<-half
	late, _, lateDone := watch()
	earlyDone()
	lateDone()
	stored.Wait()
	for name, nc := range map[string]*nats.Conn{"early": early, "late": late} {
		got, payload := nc.Stats().InBytes, uint64(n*len(text))
		t.Logf("%s: %.2f bytes came for each that was shown", name, float64(got)/float64(payload))
		if got > 2*payload {
			t.Errorf("%s: %d bytes came for %d that were shown", name, got, payload)
		}
	}
}

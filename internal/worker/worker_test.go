package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/noop"
	"github.com/runnel-project/runnel/internal/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is a server with its streams, and what a test needs to look at them.
type fleet struct {
	t     testing.TB
	node  *queuetest.Node
	topo  queue.Topology
	reply *queue.Store
	in    *queue.Store
	dead  *queue.Store
	nc    *nats.Conn
	log   io.Writer // of its workers, beside the test's; nil is none
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	node := queuetest.Server(t)
	nc := node.Connect(t)
	f := &fleet{t: t, node: node, nc: nc}
	f.reply = queue.NewStore(nc, f.topo.ReplyStream(), 1)
	f.in = queue.NewStore(nc, f.topo.InvokeStream(), 1)
	f.dead = queue.NewStore(nc, f.topo.DeadStream(), 1)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), js, f.topo); err != nil {
		t.Fatal(err)
	}
	return f
}

// worker starts a worker and stops it when the test ends, or stop is called.
func (f *fleet) worker(cfg worker.Config) (w *worker.Worker, stop func()) {
	f.t.Helper()
	ready := make(chan struct{})
	cfg.WorkRoot, cfg.Topology = f.t.TempDir(), f.topo
	log := io.Writer(zerolog.NewTestWriter(f.t))
	if f.log != nil {
		log = io.MultiWriter(log, f.log)
	}
	cfg.Log = zerolog.New(log).Level(zerolog.InfoLevel)
	cfg.Ready = func() { close(ready) }
	w, err := worker.New(worker.Conns{Control: f.node.Connect(f.t), Data: f.node.Connect(f.t)}, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		f.t.Fatalf("Run() = %v before it was ready", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				f.t.Errorf("Run() = %v", err)
			}
		case <-time.After(time.Minute):
			f.t.Error("Run() has not returned a minute after its context ended")
		}
	}
	f.t.Cleanup(stop)
	return w, stop
}

func (f *fleet) submit(inv contracts.Invocation) string {
	f.t.Helper()
	if inv.ID == "" {
		inv.ID = contracts.NewID()
	}
	inv = inv.WithDefaults()
	data, err := contracts.Encode(inv)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.in.Put(f.t.Context(), f.topo.Names().Invoke(queue.AddressOf(inv)), nats.Header{contracts.HeaderVersion: {contracts.Version}}, data); err != nil {
		f.t.Fatal(err)
	}
	return inv.ID
}

// result waits for the result of an invocation.
func (f *fleet) result(id string) contracts.Result {
	f.t.Helper()
	sub, err := f.nc.SubscribeSync(f.topo.Names().LiveAll("default", id))
	if err != nil {
		f.t.Fatal(err)
	}
	defer sub.Unsubscribe()
	deadline, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for {
		s, err := f.reply.Last(deadline, f.topo.Names().Result("default", id))
		if err == nil {
			r, err := contracts.Decode[contracts.Result](s.Data, contracts.Meta{Version: s.Header.Get(contracts.HeaderVersion)})
			if err != nil {
				f.t.Fatal(err)
			}
			return r
		}
		if !errors.Is(err, queue.ErrNotFound) {
			f.t.Fatalf("result of %s: %v", id, err)
		}
		if _, err := sub.NextMsgWithContext(deadline); err != nil {
			f.t.Fatalf("result of %s: %v", id, err)
		}
	}
}

// output is what is stored of a run, in the order of its chunks.
func (f *fleet) output(id, run string) (pieces []contracts.Piece) {
	f.t.Helper()
	chunks := map[int][]contracts.Piece{}
	for s, err := range f.reply.Walk(f.t.Context(), f.topo.Names().RunAll("default", id, run), 0, queue.WalkOptions{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		if a, err := f.topo.Names().ParseReply(s.Subject); err != nil || a.Kind != queue.ReplyChunk {
			continue
		}
		c, err := contracts.Decode[contracts.Chunk](s.Data, contracts.Meta{})
		if err != nil {
			f.t.Fatal(err)
		}
		chunks[c.N] = c.Pieces
	}
	for n := range len(chunks) {
		if _, there := chunks[n+1]; !there {
			f.t.Fatalf("chunk %d of %d is missing", n+1, len(chunks))
		}
		pieces = append(pieces, chunks[n+1]...)
	}
	return pieces
}

func (f *fleet) count(s *queue.Store, filter string) (n int) {
	f.t.Helper()
	for _, err := range s.Walk(f.t.Context(), filter, 0, queue.WalkOptions{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		n++
	}
	return n
}

func ok() (contracts.Outcome, error) {
	zero := 0
	return contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: &zero}, nil
}

func TestNoop(t *testing.T) {
	f := newFleet(t)
	_, stop := f.worker(worker.Config{Slots: 4, Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
	var ids []string
	for range 500 {
		ids = append(ids, f.submit(contracts.Invocation{Kind: contracts.KindNoop}))
	}
	for _, id := range ids {
		if r := f.result(id); r.Status != contracts.StatusSucceeded || r.ID != id {
			t.Fatalf("result = %+v", r)
		}
	}
	stop()
	if n := f.count(f.in, "runnel.invoke.>"); n != 0 {
		t.Errorf("%d invocations are left in the queue", n)
	}
	// A short job costs one reply message; one that was handed back for want of a slot has a start, too.
	if n := f.count(f.reply, "runnel.reply.*.*.result"); n != 500 {
		t.Errorf("%d results are stored, want 500", n)
	}
	if n := f.count(f.reply, "runnel.reply.*.*.*.*") - f.count(f.reply, "runnel.reply.*.*.*.start"); n != 0 {
		t.Errorf("%d messages beside results and starts are stored for short jobs, want none", n)
	}
}

func TestOutputBeyondTail(t *testing.T) {
	f := newFleet(t)
	const size = 300 << 10
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: runner.Func(
		func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
			for i := range size / 100 {
				fmt.Fprintf(out.Stream(contracts.Stdout, ""), "%099d\n", i)
			}
			fmt.Fprint(out.Stream(contracts.Stderr, ""), "bye")
			return ok()
		})}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	r := f.result(id)
	var all strings.Builder
	for _, p := range append(f.output(id, r.Run), r.Tail...) {
		all.Write(p.Data)
	}
	if n := f.count(f.reply, f.topo.Names().RunAll("default", id, r.Run)) - 1; n != r.Chunks { // and the start
		t.Errorf("%d chunks are stored, the result says %d", n, r.Chunks)
	}
	if want := size/100*100 + 3; all.Len() != want {
		t.Errorf("%d bytes came back, want %d", all.Len(), want)
	}
	if !strings.HasSuffix(all.String(), "\nbye") {
		t.Errorf("the end is %q", all.String()[all.Len()-10:])
	}
}

func TestTimeoutAndRetry(t *testing.T) {
	f := newFleet(t)
	var runs atomic.Int32
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: runner.Func(
		func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
			io.WriteString(out.Stream(contracts.Stdout, ""), fmt.Sprint("attempt ", job.Attempt))
			if runs.Add(1) < 3 {
				<-ctx.Done()
				return contracts.Outcome{}, fmt.Errorf("work: %w", context.Cause(ctx))
			}
			return ok()
		})}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop, TimeoutSeconds: 0.05,
		Retry: &contracts.Retry{Attempts: 3, DelaySeconds: 0.01, On: []contracts.Status{contracts.StatusTimedOut}}})
	r := f.result(id)
	if r.Status != contracts.StatusSucceeded || r.Attempt != 3 || string(r.Tail[0].Data) != "attempt 3" {
		t.Errorf("result = %+v", r)
	}
	if n := f.count(f.reply, f.topo.Names().Ends("default", id)); n != 2 {
		t.Errorf("%d ends are stored, want 2", n)
	}
}

func TestInfraIsNotCounted(t *testing.T) {
	f := newFleet(t)
	var runs atomic.Int32
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: runner.Func(
		func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
			if runs.Add(1) == 1 {
				return contracts.Outcome{}, errors.New("the disk is gone")
			}
			return ok()
		})}})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop}))
	if r.Status != contracts.StatusSucceeded || r.Attempt != 1 || runs.Load() != 2 {
		t.Errorf("result = %+v after %d runs", r, runs.Load())
	}
}

func TestBadMessages(t *testing.T) {
	f := newFleet(t)
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
	for name, tc := range map[string]struct{ id, body, want string }{
		"malformed json":  {"bad1", `{"invocation_id":`, "EOF"},
		"unknown field":   {"bad2", `{"invocation_id":"bad2","runtime_kind":"noop","colour":"red"}`, "colour"},
		"duplicate field": {"bad3", `{"invocation_id":"bad3","invocation_id":"bad3","runtime_kind":"noop"}`, "invocation_id"},
		"wrong case":      {"bad4", `{"Invocation_ID":"bad4","runtime_kind":"noop"}`, "Invocation_ID"},
		"malformed":       {"bad5", "\x85\xa1", "decode invocation"},
		"another id":      {"bad6", `{"invocation_id":"other","runtime_kind":"noop"}`, "invocation_id"},
		"another kind":    {"bad7", `{"invocation_id":"bad7","runtime_kind":"http"}`, "runtime_kind"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := f.in.Put(t.Context(), "runnel.invoke.noop.default.normal.0.default."+tc.id, nil, []byte(tc.body)); err != nil {
				t.Fatal(err)
			}
			r := f.result(tc.id)
			if r.Status != contracts.StatusRejected || r.Reason != contracts.ReasonBadInvocation || !strings.Contains(r.Error, tc.want) {
				t.Errorf("result = %s/%s %q, want rejected with %q", r.Status, r.Reason, r.Error, tc.want)
			}
			if n := f.count(f.dead, f.topo.Names().Dead("default", tc.id)); n != 1 {
				t.Errorf("%d dead letters, want 1", n)
			}
		})
	}
}

// While there is no room for dead letters, only so much of what is to be put aside waits in memory: the rest waits in the
// queue, and good work goes on beside it.
func TestWhatCannotBePutAsideIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ size, many, wait int }{
		"large": {500_000, 20, 16},
		"small": {100, 140, 128},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			js, err := jetstream.New(f.nc)
			if err != nil {
				t.Fatal(err)
			}
			room := func(bytes int64) {
				t.Helper()
				s, err := js.Stream(t.Context(), f.topo.DeadStream())
				if err != nil {
					t.Fatal(err)
				}
				cfg := s.CachedInfo().Config
				cfg.MaxBytes = bytes
				if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			room(1)
			word := f.words()
			for i := range test.many {
				subject := fmt.Sprintf("runnel.invoke.noop.default.normal.0.default.bad%d", i)
				if _, err := f.in.Put(t.Context(), subject, nil, make([]byte, test.size)); err != nil {
					t.Fatal(err)
				}
			}
			f.worker(worker.Config{Slots: 2, Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
			for later := 0; later < test.many-test.wait; {
				switch got := word(); {
				case strings.HasPrefix(got, `-NAK {"delay":`): // what is too much comes again later
					later++
				case got != "-NAK": // what came when there was no place
					t.Fatalf("a word is %q", got)
				}
			}
			f.submit(contracts.Invocation{ID: "good", Kind: contracts.KindNoop})
			if r := f.result("good"); r.Status != contracts.StatusSucceeded {
				t.Errorf("result = %+v", r)
			}
			room(64 << 20)
			for put := 0; put < test.wait; {
				switch got := word(); {
				case got == "+TERM":
					put++
				case got != "+ACK" && !strings.HasPrefix(got, "-NAK"): // of the good one, and of what came again
					t.Fatalf("a word is %q", got)
				}
			}
			if n := f.count(f.dead, ">"); n < test.wait {
				t.Errorf("%d dead letters, want those of the %d that waited", n, test.wait)
			}
		})
	}
}

func TestDrain(t *testing.T) {
	f := newFleet(t)
	began := make(chan struct{}, 1)
	hang := runner.Func(func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		began <- struct{}{}
		<-ctx.Done()
		return contracts.Outcome{Killed: "1 process"}, fmt.Errorf("work: %w", context.Cause(ctx))
	})
	_, stop := f.worker(worker.Config{DrainTimeout: 50 * time.Millisecond, Registry: runner.Registry{contracts.KindNoop: hang}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	<-began
	stop()
	if n := f.count(f.reply, f.topo.Names().Ends("default", id)); n != 1 {
		t.Fatalf("%d ends are stored after the drain, want 1", n)
	}
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
	if r := f.result(id); r.Status != contracts.StatusSucceeded || r.Attempt != 1 {
		t.Errorf("result = %+v", r)
	}
}

func TestCancelOfARun(t *testing.T) {
	f := newFleet(t)
	began := make(chan struct{}, 1)
	hang := runner.Func(func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		io.WriteString(out.Stream(contracts.Stdout, ""), "so far")
		began <- struct{}{}
		<-ctx.Done()
		return contracts.Outcome{Killed: "1 process"}, fmt.Errorf("work: %w", context.Cause(ctx))
	})
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: hang}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	<-began
	if err := f.nc.PublishRequest(f.topo.Names().Cancel("default", id), f.nc.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	r := f.result(id)
	if r.Status != contracts.StatusCancelled || r.Killed != "1 process" || string(r.Tail[0].Data) != "so far" {
		t.Errorf("result = %+v", r)
	}
}

// A slow job on one worker never holds back a job for which another has a free slot.
func TestNothingIsPrefetched(t *testing.T) {
	f := newFleet(t)
	release := make(chan struct{})
	slow := runner.Func(func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		if job.Name == "slow" {
			<-release
		}
		return ok()
	})
	for range 2 {
		f.worker(worker.Config{Slots: 1, Registry: runner.Registry{contracts.KindNoop: slow}})
	}
	held := f.submit(contracts.Invocation{Kind: contracts.KindNoop, Name: "slow"})
	for range 50 {
		if r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop})); r.Status != contracts.StatusSucceeded {
			t.Fatalf("result = %+v", r)
		}
	}
	close(release)
	f.result(held)
}

// Of an output beyond its limit head and end are kept, and what lies between is counted.
func TestOutputIsCutInTheMiddle(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const lines, limit = 1 << 20, 4 << 20 // of 16 bytes
	f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: runner.Func(
		func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
			w := bufio.NewWriterSize(out.Stream(contracts.Stdout, ""), 32<<10)
			for i := range lines {
				fmt.Fprintf(w, "%015d\n", i)
			}
			if err := w.Flush(); err != nil {
				return contracts.Outcome{}, err
			}
			return ok()
		})}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop, OutputLimitBytes: limit})
	r := f.result(id)
	pieces := append(f.output(id, r.Run), r.Tail...)
	var cut int64
	next, kept := int64(0), int64(0)
	for i := 0; i < len(pieces); i++ {
		p := pieces[i]
		if p.Cut > 0 {
			cut += p.Cut
			next += p.Cut
			continue
		}
		for at, b := range p.Data {
			pos := next + int64(at)
			want := fmt.Sprintf("%015d\n", pos/16)[pos%16]
			if b != want {
				t.Fatalf("byte %d is %q, want %q", pos, b, want)
			}
		}
		next += int64(len(p.Data))
		kept += int64(len(p.Data))
	}
	if next != lines*16 || r.StdoutBytes != lines*16 {
		t.Errorf("%d bytes shown or counted, %d in the result, want %d", next, r.StdoutBytes, lines*16)
	}
	if cut != r.CutBytes || cut != lines*16-kept || kept > limit || kept < limit*9/10 {
		t.Errorf("%d bytes cut by the marks, %d by the result, %d kept of a limit of %d", cut, r.CutBytes, kept, limit)
	}
}

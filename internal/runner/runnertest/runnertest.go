package runnertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// Options make the jobs that the suite runs. What a kind cannot do is left nil, and not tested.
// A job comes with everything that a worker would have laid out for it.
type Options struct {
	// Quick makes a job that succeeds at once. It is needed.
	Quick func(t testing.TB) runner.Job
	// Fails makes a job that ends failed by its own doing, with exit code FailCode; 0 is 3.
	Fails    func(t testing.TB) runner.Job
	FailCode int
	// Writes makes a job that writes Pattern(n) to stdout and to stderr (StdoutOnly: not to stderr), and ends at once.
	Writes     func(t testing.TB, n int) runner.Job
	StdoutOnly bool
	// Echo makes a job that writes its input to stdout.
	Echo func(t testing.TB) runner.Job
	// Hangs makes a job that writes "ready\n" to stdout and goes on until it is stopped, and a
	// function that reports whether anything of it is running.
	Hangs func(t testing.TB) (job runner.Job, alive func() bool)
	// Rejected make jobs that must be rejected, by what is wrong with them.
	Rejected map[string]func(t testing.TB) runner.Job
}

// Pattern returns n bytes, at most 4 MiB, of which no two stretches are alike and which are not text.
// A shorter one is the beginning of a longer one. It must not be changed.
func Pattern(n int) []byte { return pattern()[:n:n] }

var pattern = sync.OnceValue(func() []byte {
	out := make([]byte, 0, 4<<20)
	x := uint64(88172645463325252)
	for len(out) < cap(out) {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out = binary.LittleEndian.AppendUint64(out, x)
	}
	return out
})

// Limit bounds what must happen at some time: ten times and more what it takes.
const Limit = 60 * time.Second

// Run holds runners to runner.Runner. open makes one for each test, and closes it by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) runner.Runner, o Options) {
	t.Helper()
	s := suite{open: open, Options: o}
	t.Run("Ends", s.ends)
	t.Run("ContextEndedBefore", s.endedBefore)
	t.Run("Concurrent", s.concurrent)
	t.Run("Capabilities", s.capabilities)
	t.Run("CloseTwice", s.closeTwice)
	if o.Fails != nil {
		t.Run("Fails", s.fails)
	}
	if o.Writes != nil {
		t.Run("OutputIsComplete", s.output)
		t.Run("SlowSinkHoldsBack", s.slowSink)
		t.Run("FailingSinkEndsOutput", s.failingSinkEndsOutput)
	}
	if o.Echo != nil {
		t.Run("Input", s.input)
		t.Run("BrokenInput", s.brokenInput)
	}
	if o.Hangs != nil {
		t.Run("Stopped", s.stopped)
		t.Run("FailingSinkStops", s.failingSinkStops)
	}
	for name, job := range o.Rejected {
		t.Run("Rejected/"+name, func(t *testing.T) { s.rejected(t, job(t)) })
	}
}

type suite struct {
	Options
	open func(t *testing.T) runner.Runner
}

// ended is what a run came to.
type ended struct {
	outcome contracts.Outcome
	err     error
}

// do runs a job, fails the test if it does not come back, and sees to it that nothing is written afterwards.
func do(ctx context.Context, t testing.TB, r runner.Runner, job runner.Job, sink *Sink) ended {
	t.Helper()
	return wait(t, begin(ctx, r, job, sink))
}

func begin(ctx context.Context, r runner.Runner, job runner.Job, sink *Sink) <-chan ended {
	done := make(chan ended, 1)
	go func() {
		outcome, err := r.Run(ctx, job, sink)
		sink.Close()
		done <- ended{outcome, err}
	}()
	return done
}

func wait(t testing.TB, done <-chan ended) ended {
	t.Helper()
	select {
	case e := <-done:
		return e
	case <-time.After(Limit):
		t.Fatalf("Run() has not returned after %v", Limit)
		return ended{}
	}
}

func (e ended) succeeded(t testing.TB) {
	t.Helper()
	if e.err != nil || e.outcome.Status != contracts.StatusSucceeded {
		t.Fatalf("Run() = %+v, %v, want succeeded", e.outcome, e.err)
	}
	if e.outcome.Reason != "" || e.outcome.Error != "" {
		t.Errorf("outcome of a success has reason %q and error %q", e.outcome.Reason, e.outcome.Error)
	}
}

func notLate(t testing.TB, sink *Sink) {
	t.Helper()
	if n := sink.Late(); n > 0 {
		t.Errorf("%d writes after Run() had returned", n)
	}
}

func (s suite) ends(t *testing.T) {
	r := s.open(t)
	for range 3 {
		do(t.Context(), t, r, s.Quick(t), &Sink{}).succeeded(t)
	}
}

func (s suite) fails(t *testing.T) {
	e := do(t.Context(), t, s.open(t), s.Fails(t), &Sink{})
	if e.err != nil {
		t.Fatalf("Run() = %v: what the work did wrong is an outcome", e.err)
	}
	if e.outcome.Status != contracts.StatusFailed || e.outcome.Reason != contracts.ReasonExit {
		t.Errorf("outcome = %s/%s, want failed/exit", e.outcome.Status, e.outcome.Reason)
	}
	want := cmp.Or(s.FailCode, 3)
	if e.outcome.ExitCode == nil || *e.outcome.ExitCode != want {
		t.Errorf("exit code = %v, want %d", e.outcome.ExitCode, want)
	}
}

func (s suite) endedBefore(t *testing.T) {
	job := s.Quick(t)
	if s.Writes != nil {
		job = s.Writes(t, 1000)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrCancelled)
	sink := &Sink{}
	e := do(ctx, t, s.open(t), job, sink)
	if !errors.Is(e.err, runner.ErrCancelled) {
		t.Errorf("Run() = %v, want it to wrap the cause %v", e.err, runner.ErrCancelled)
	}
	if n := len(sink.Pieces()); n > 0 {
		t.Errorf("%d writes of work that must not begin", n)
	}
}

func (s suite) concurrent(t *testing.T) {
	r := s.open(t)
	var all sync.WaitGroup
	for i := range 16 {
		job := s.Quick(t)
		want := ""
		if s.Echo != nil {
			job = s.Echo(t)
			want = strings.Repeat(fmt.Sprintf("run %d ", i), 1000)
			job.Stdin = strings.NewReader(want)
		}
		all.Go(func() {
			sink := &Sink{}
			outcome, err := r.Run(t.Context(), job, sink)
			sink.Close()
			if err != nil || outcome.Status != contracts.StatusSucceeded {
				t.Errorf("Run() = %+v, %v, want succeeded", outcome, err)
			}
			if want != "" && sink.Stdout() != want {
				t.Errorf("run %d got the output of another: %.80q", i, sink.Stdout())
			}
		})
	}
	all.Wait()
}

func (s suite) capabilities(t *testing.T) {
	r, ok := s.open(t).(runner.Capable)
	if !ok {
		return
	}
	kind := string(s.Quick(t).Kind)
	for name, value := range r.Capabilities() {
		if !strings.HasPrefix(name, kind+".") || value == "" {
			t.Errorf("capability %q = %q, want a value under a name that starts with %q", name, value, kind+".")
		}
	}
}

func (s suite) closeTwice(t *testing.T) {
	r := s.open(t)
	do(t.Context(), t, r, s.Quick(t), &Sink{}).succeeded(t)
	c, ok := r.(runner.Closer)
	if !ok {
		return
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
}

func (s suite) output(t *testing.T) {
	r := s.open(t)
	for _, n := range []int{0, 1, 4095, 65537, 3 << 20} {
		for range 5 {
			sink := &Sink{}
			do(t.Context(), t, r, s.Writes(t, n), sink).succeeded(t)
			for _, stream := range []contracts.Stream{contracts.Stdout, contracts.Stderr} {
				if stream == contracts.Stderr && s.StdoutOnly {
					continue
				}
				if got := sink.Bytes(stream); !bytes.Equal(got, Pattern(n)) {
					t.Fatalf("%s has %d bytes, want the %d that were written (S29)", stream, len(got), n)
				}
			}
			notLate(t, sink)
		}
	}
}

// A sink that blocks holds back the work: Run does not take all of the output into memory and return.
func (s suite) slowSink(t *testing.T) {
	const n = 3 << 20
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	sink := &Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
		once.Do(func() { close(entered) })
		<-release
		return nil
	}}
	done := begin(t.Context(), s.open(t), s.Writes(t, n), sink)
	select {
	case <-entered:
	case <-time.After(Limit):
		t.Fatal("nothing was written")
	}
	select {
	case e := <-done:
		t.Fatalf("Run() = %+v, %v while a write was blocked", e.outcome, e.err)
	default:
	}
	close(release)
	wait(t, done).succeeded(t)
	if got := sink.Bytes(contracts.Stdout); !bytes.Equal(got, Pattern(n)) {
		t.Errorf("stdout has %d bytes, want %d", len(got), n)
	}
}

var errSink = errors.New("nobody hears")

func (s suite) failingSinkEndsOutput(t *testing.T) {
	sink := &Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error { return errSink }}
	e := do(t.Context(), t, s.open(t), s.Writes(t, 3<<20), sink)
	if !errors.Is(e.err, errSink) {
		t.Errorf("Run() = %+v, %v, want the error of the write wrapped", e.outcome, e.err)
	}
}

func (s suite) failingSinkStops(t *testing.T) {
	job, alive := s.Hangs(t)
	sink := &Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error { return errSink }}
	e := do(t.Context(), t, s.open(t), job, sink)
	if !errors.Is(e.err, errSink) || errors.Is(e.err, runner.ErrRejected) {
		t.Errorf("Run() = %v, want the error of the write wrapped", e.err)
	}
	if alive() {
		t.Error("the work runs on for nobody")
	}
}

func (s suite) input(t *testing.T) {
	r := s.open(t)
	content := Pattern(3 << 20) // binary, and more than a pipe holds
	check := func(name string, input io.Reader, want []byte) {
		t.Helper()
		job := s.Echo(t)
		job.Stdin = input
		sink := &Sink{}
		do(t.Context(), t, r, job, sink).succeeded(t)
		if got := sink.Bytes(contracts.Stdout); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, want the %d that went in", name, len(got), len(want))
		}
	}
	check("none", nil, nil)
	check("empty", strings.NewReader(""), nil)
	check("reader", io.MultiReader(bytes.NewReader(content)), content)

	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	check("file", file, content)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Errorf("Run() has closed its input: %v", err)
	}
}

// Half of an input must not pass for all of it.
func (s suite) brokenInput(t *testing.T) {
	broken := errors.New("broken input")
	job := s.Echo(t)
	job.Stdin = io.MultiReader(strings.NewReader("half"), failing{broken})
	e := do(t.Context(), t, s.open(t), job, &Sink{})
	if !errors.Is(e.err, broken) {
		t.Errorf("Run() = %+v, %v, want the error of the input wrapped", e.outcome, e.err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (s suite) stopped(t *testing.T) {
	r := s.open(t)
	for _, cause := range []error{runner.ErrTimeout, runner.ErrCancelled, runner.ErrStopped} {
		t.Run(cause.Error(), func(t *testing.T) {
			job, alive := s.Hangs(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			sink := &Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
				if !alive() {
					t.Error("the work writes and is said not to run: the test would see nothing")
				}
				cancel(cause)
				return nil
			}}
			e := do(ctx, t, r, job, sink)
			if !errors.Is(e.err, cause) {
				t.Errorf("Run() = %v, want it to wrap the cause %v", e.err, cause)
			}
			if alive() {
				t.Error("something of the work runs on")
			}
			if e.outcome.Killed == "" {
				t.Errorf("outcome = %+v: does not say what was killed", e.outcome)
			}
			if got := sink.Stdout(); !strings.HasPrefix(got, "ready\n") {
				t.Errorf("stdout = %q: what was written before is lost", got)
			}
			notLate(t, sink)
		})
	}
}

func (s suite) rejected(t *testing.T, job runner.Job) {
	sink := &Sink{}
	e := do(t.Context(), t, s.open(t), job, sink)
	var rejection *runner.Rejection
	if !errors.Is(e.err, runner.ErrRejected) || !errors.As(e.err, &rejection) {
		t.Fatalf("Run() = %+v, %v, want a rejection", e.outcome, e.err)
	}
	if rejection.Reason == "" || rejection.Text == "" {
		t.Errorf("rejection = %+v, want a reason and a text", rejection)
	}
	if n := len(sink.Pieces()); n > 0 {
		t.Errorf("%d writes of work that was rejected", n)
	}
}

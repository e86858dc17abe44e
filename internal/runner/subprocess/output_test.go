//go:build unix

package subprocess_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

// Output written right before the end is never lost (S29: theirs lost it in 11 of 40).
func TestTrailingOutput(t *testing.T) {
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		want, err := exec.Command("sh", "-c", "seq 1 60000; echo END").Output()
		if err != nil {
			t.Skipf("no seq here: %v", err)
		}
		for range 40 {
			_, sink := run(t, r, shell(t, "seq 1 60000; echo END"))
			if got := sink.Stdout(); got != string(want) {
				t.Fatalf("stdout has %d bytes and ends in %q, want %d", len(got), got[max(0, len(got)-10):], len(want))
			}
		}
	})
}

// One byte on one stream and much on the other does not lock up, and comes as it is written (S30).
func TestOutputIsLive(t *testing.T) {
	r := open(t, subprocess.Config{})
	job := shell(t, "printf 1; head -c 300000 /dev/zero >&2; until test -e go; do :; done; printf 2")
	seen := 0
	sink := &runnertest.Sink{OnWrite: func(stream contracts.Stream, _ contracts.Phase, data []byte) error {
		if stream == contracts.Stderr {
			if seen += len(data); seen == 300_000 {
				return os.WriteFile(job.Dir+"/go", nil, 0o600)
			}
		}
		return nil
	}}
	outcome, err := r.Run(t.Context(), job, sink)
	if err != nil || code(outcome) != 0 || sink.Stdout() != "12" {
		t.Errorf("Run() = %+v, %v, %q", outcome, err, sink.Stdout())
	}
	for _, piece := range sink.Pieces() {
		if len(piece.Data) > 32<<10 {
			t.Errorf("a write of %d bytes, want 32 KiB at most", len(piece.Data))
		}
	}
}

// Something outside of the run that holds its output open does not hold it up, and costs none of it.
func TestOutsiderHoldsTheOutput(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc here to open another's output by")
	}
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			r := open(t, subprocess.Config{Ladder: rung, WaitDelay: 50 * time.Millisecond})
			job := shell(t, "echo $$; until test -e go; do :; done; head -c 50000 /dev/zero")
			late := make(chan struct{})
			var outsider *os.File
			var once sync.Once
			sink := &runnertest.Sink{}
			sink.OnWrite = func(_ contracts.Stream, _ contracts.Phase, data []byte) (err error) {
				once.Do(func() {
					outsider, err = os.OpenFile(fmt.Sprintf("/proc/%s/fd/1", strings.TrimSpace(string(data))), os.O_WRONLY, 0)
					if err == nil {
						err = os.WriteFile(job.Dir+"/go", nil, 0o600)
					}
					// By then the run has ended, and what it wrote last waits in the pipe.
					time.AfterFunc(time.Second, func() { close(late) })
					<-late
				})
				return err
			}
			outcome, err := r.Run(t.Context(), job, sink)
			if err != nil || code(outcome) != 0 {
				t.Errorf("Run() = %+v, %v", outcome, err)
			}
			if _, rest, _ := strings.Cut(sink.Stdout(), "\n"); len(rest) != 50000 {
				t.Errorf("%d bytes came after the first line, want 50000", len(rest))
			}
			if outsider == nil {
				t.Fatal("nobody held the output: the test has seen nothing")
			}
			outsider.Close()
		})
	}
}

// Input that nobody reads, or that comes too slowly, does not hold up the end.
func TestInputNobodyReads(t *testing.T) {
	r := open(t, subprocess.Config{WaitDelay: 10 * time.Millisecond})
	job := shell(t, "head -c 3; exit 4")
	job.Stdin = io.MultiReader(strings.NewReader("abc"), strings.NewReader(strings.Repeat("x", 1<<20)))
	if outcome, sink := run(t, r, job); code(outcome) != 4 || sink.Stdout() != "abc" {
		t.Errorf("Run() = %d %q, want 4 %q", code(outcome), sink.Stdout(), "abc")
	}

	hangs, feed := io.Pipe()
	job = shell(t, "exit 5")
	job.Stdin = hangs
	if outcome, _ := run(t, r, job); code(outcome) != 5 {
		t.Errorf("exit code = %d, want 5", code(outcome))
	}
	feed.Close() // and the goroutine that hangs in the read ends
}

// An input that breaks off stops the run before it can take half of it for all.
func TestBrokenInputStops(t *testing.T) {
	broken := errors.New("broken")
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for range 10 {
			job := shell(t, "cat > got; echo complete > verdict")
			job.Stdin = io.MultiReader(strings.NewReader("half"), errReader{broken})
			_, err := r.Run(t.Context(), job, &runnertest.Sink{})
			if !errors.Is(err, broken) {
				t.Fatalf("Run() = %v, want %v", err, broken)
			}
			if _, err := os.Stat(job.Dir + "/verdict"); err == nil {
				t.Fatal("the job took half of its input for all of it")
			}
		}
	})
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// Many runs at once keep apart, with daemons left by all (E23: theirs could not run two).
func TestManyAtOnce(t *testing.T) {
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		var all sync.WaitGroup
		var killed atomic.Int64
		var daemons []string
		for i := range 64 {
			job := shell(t, daemon+"cat; exit $((RUNNEL_ATTEMPT % 100))")
			job.Attempt = i
			job.Stdin = strings.NewReader(job.Dir)
			daemons = append(daemons, job.Dir+"/daemon")
			all.Go(func() {
				sink := &runnertest.Sink{}
				outcome, err := r.Run(context.WithoutCancel(t.Context()), job, sink)
				if err != nil || code(outcome) != i || sink.Stdout() != job.Dir {
					t.Errorf("run %d: Run() = %+v (%d), %v, %q", i, outcome, code(outcome), err, sink.Stdout())
				}
				if n, _, ok := strings.Cut(outcome.Killed, " process"); ok {
					count, _ := strconv.Atoi(n)
					killed.Add(int64(count))
				}
			})
		}
		all.Wait()
		// By the subreaper a run may find what the kernel did not show to the one before.
		if killed.Load() != 64 {
			t.Errorf("%d processes were killed, want 64", killed.Load())
		}
		for i, daemon := range daemons {
			if alive(t, daemon) {
				t.Errorf("run %d: its daemon lives", i)
			}
		}
	})
}

package container_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

const mega = 1 << 20

// What the work did, as the result says it (E17, E22, S12, S18).
func TestOutcomes(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	tests := map[string]struct {
		args   []string
		change func(*runner.Job)
		status contracts.Status
		reason contracts.Reason
		code   int
		says   string
	}{
		"exit 0":        {args: []string{"exit", "0"}, status: contracts.StatusSucceeded},
		"exit 7":        {args: []string{"exit", "7"}, status: contracts.StatusFailed, reason: contracts.ReasonExit, code: 7},
		"exit 127":      {args: []string{"exit", "127"}, status: contracts.StatusFailed, reason: contracts.ReasonExit, code: 127},
		"signal":        {args: []string{"signal", "15"}, status: contracts.StatusFailed, reason: contracts.ReasonSignal, code: -15},
		"killed itself": {args: []string{"signal", "9"}, status: contracts.StatusFailed, reason: contracts.ReasonSignal, code: -9},
		"not found": {change: func(j *runner.Job) { j.Command = []string{"/nowhere"} },
			status: contracts.StatusFailed, reason: contracts.ReasonNotFound, code: 127, says: "/nowhere"},
		"not found in PATH": {change: func(j *runner.Job) { j.Command = []string{"nowhere"} },
			status: contracts.StatusFailed, reason: contracts.ReasonNotFound, code: 127, says: "nowhere"},
		"not executable": {change: func(j *runner.Job) { j.Command = []string{"/not-executable"} },
			status: contracts.StatusFailed, reason: contracts.ReasonNotExecutable, code: 126, says: "/not-executable"},
		"not found, without an init": {change: func(j *runner.Job) { j.Command, j.Container.NoInit = []string{"/nowhere"}, true },
			status: contracts.StatusFailed, reason: contracts.ReasonNotFound, code: 127, says: "/nowhere"},
		"not executable, without an init": {change: func(j *runner.Job) { j.Command, j.Container.NoInit = []string{"/not-executable"}, true },
			status: contracts.StatusFailed, reason: contracts.ReasonNotExecutable, code: 126, says: "/not-executable"},
		"entrypoint": {change: func(j *runner.Job) { j.Container.Entrypoint, j.Command = []string{"/job", "exit"}, []string{"5"} },
			status: contracts.StatusFailed, reason: contracts.ReasonExit, code: 5},
		"no such user": {args: []string{"exit", "0"}, change: func(j *runner.Job) { j.Container.User = "nobody-here" },
			status: contracts.StatusFailed, reason: contracts.ReasonNotExecutable, code: 126, says: "nobody-here"},
		"no such image": {args: []string{"exit", "0"}, change: func(j *runner.Job) { j.Container.Image, j.Container.Pull = "runnel.test/none", contracts.PullNever },
			status: contracts.StatusFailed, reason: contracts.ReasonImage, code: none, says: "runnel.test/none"},
		"out of memory": {args: []string{"eat", "64"}, change: func(j *runner.Job) { j.Container.MemoryBytes = 16 * mega },
			status: contracts.StatusFailed, reason: contracts.ReasonOOM, code: -9, says: "memory"},
		"a child out of memory": {args: []string{"feed", "64"}, change: func(j *runner.Job) { j.Container.MemoryBytes = 24 * mega },
			status: contracts.StatusSucceeded},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := command(t, test.args...)
			if test.change != nil {
				test.change(&job)
			}
			o, sink := run(t, r, job)
			// A busy engine on cgroup v1 loses the kernel's word at times, where the container ends with the process.
			for try := 1; try < 10 && strings.Contains(name, "memory") && o.Metadata["container.oom_killed"] == ""; try++ {
				o, sink = run(t, r, job)
			}
			if o.Status != test.status || o.Reason != test.reason || code(o) != test.code || !strings.Contains(o.Error, test.says) {
				t.Errorf("Run() = %+v, want %s/%s with code %d and %q; stderr %q", o, test.status, test.reason, test.code, test.says, sink.Stderr())
			}
			if strings.Contains(name, "child") != (o.Metadata["container.oom_killed"] == "true" && o.Status == contracts.StatusSucceeded) {
				t.Errorf("metadata = %v", o.Metadata)
			}
			if _, err := r.Run(canceled(t), job, &runnertest.Sink{}); !errors.Is(err, runner.ErrCancelled) {
				t.Errorf("Run() cancelled before = %v", err)
			}
		})
	}
}

const none = -1000 // no exit code

func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrCancelled)
	return ctx
}

// A time limit ends a container, also one that does not hear TERM, and one whose grace is nothing (S18, E19, T14).
func TestStops(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	tests := map[string]struct {
		how    string
		grace  float64
		code   int
		killed string
		says   string
	}{
		"by its handler": {"well", 30, 7, "1 container (TERM)", "ready\nbye\n"},
		"deaf":           {"deaf", 0.3, -9, "1 container (TERM, then KILL)", "ready\n"},
		"without grace":  {"well", 0, -9, "1 container (KILL)", "ready\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := command(t, "hang", test.how)
			job.Stop = &contracts.Stop{GraceSeconds: &test.grace}
			ctx, cancel := context.WithCancelCause(t.Context())
			sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
				if ctx.Err() == nil && len(processes(t, job)) == 0 {
					t.Log("the engine's processes are not to be seen from here: that none is left is not shown")
				}
				cancel(runner.ErrTimeout)
				return nil
			}}
			o, err := r.Run(ctx, job, sink)
			if !errors.Is(err, runner.ErrTimeout) || o.Killed != test.killed || code(o) != test.code || sink.Stdout() != test.says {
				t.Errorf("Run() = %+v, %v with %q, want code %d, %q and %q", o, err, sink.Stdout(), test.code, test.killed, test.says)
			}
			over(t, job)
		})
	}
}

// A container that writes 3 MB and ends at once loses nothing, and neither does its exit code (S29).
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	rounds := 10
	if n, err := strconv.Atoi(os.Getenv("RUNNEL_ROUNDS")); err == nil && n >= 20 {
		rounds = 10 * n
	}
	r := open(t, container.Config{})
	want := string(runnertest.Pattern(3e6))
	var bad sync.Map
	work := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range work {
				sink := &runnertest.Sink{}
				o, err := r.Run(t.Context(), command(t, "writes", "3000000", strconv.Itoa(i%120)), sink)
				if err != nil || code(o) != i%120 || sink.Stdout() != want || sink.Stderr() != want {
					bad.Store(i, fmt.Sprintf("%+v, %v, %d and %d bytes", o, err, len(sink.Stdout()), len(sink.Stderr())))
				}
			}
		})
	}
	began := time.Now()
	for i := range rounds {
		work <- i
	}
	close(work)
	all.Wait()
	bad.Range(func(i, what any) bool {
		t.Errorf("run %d: %v", i, what)
		return true
	})
	t.Logf("figure: %d runs of 3 MB on each stream, every byte and every exit code, in %s", rounds, time.Since(began).Round(time.Millisecond))
}

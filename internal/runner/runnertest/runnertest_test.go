package runnertest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faults are what a fake runner can do wrong; the suite must see each.
type faults struct {
	losesTail, bareError, ignoresSink, ignoresInput, plainReject, begins, silent, leaves, buffers bool
}

var broken = map[string]struct {
	faults faults
	fails  string // the test of the suite that must fail
}{
	"loses the tail":                    {faults{losesTail: true}, "OutputIsComplete"},
	"does not wrap the cause":           {faults{bareError: true}, "Stopped"},
	"goes on when nobody hears":         {faults{ignoresSink: true}, "FailingSinkEndsOutput"},
	"takes half an input":               {faults{ignoresInput: true}, "BrokenInput"},
	"rejects by a plain error":          {faults{plainReject: true}, "Rejected/wrong"},
	"begins after the end":              {faults{begins: true}, "ContextEndedBefore"},
	"does not say what it killed":       {faults{silent: true}, "Stopped"},
	"leaves work behind":                {faults{leaves: true}, "Stopped"},
	"returns before output is taken up": {faults{buffers: true}, "SlowSinkHoldsBack"},
}

// The fake runner without a fault passes.
func TestSuitePasses(t *testing.T) { suite(t, faults{}) }

// Each fault is found: the suite runs in a child, which has to fail in the right place.
func TestSuiteFails(t *testing.T) {
	const variable = "RUNNERTEST_FAULT"
	if name := os.Getenv(variable); name != "" {
		suite(t, broken[name].faults)
		return
	}
	for name, test := range broken {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSuiteFails$/^"+strings.ReplaceAll(test.fails, "/", "$/^")+"$")
			cmd.Env = append(os.Environ(), variable+"="+name, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite finds nothing wrong with a runner that %s", name)
			}
			if want := "--- FAIL: TestSuiteFails/" + test.fails; !strings.Contains(string(out), want) {
				t.Errorf("the suite failed without %q:\n%s", want, out)
			}
		})
	}
}

// suite runs the suite against a runner without processes.
func suite(t *testing.T, f faults) {
	var alive atomic.Int64
	fake := func(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		failed := contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, ExitCode: new(3), Killed: "1 fake"}
		if f.silent {
			failed.Killed = ""
		}
		if ctx.Err() != nil && !f.begins {
			return failed, fmt.Errorf("fake: %w", context.Cause(ctx))
		}
		stdout, stderr := out.Stream(contracts.Stdout, ""), out.Stream(contracts.Stderr, "")
		switch job.Name {
		case "fails":
			return failed, nil
		case "wrong":
			if f.plainReject {
				return contracts.Outcome{}, errors.New("wrong")
			}
			return contracts.Outcome{}, runner.Reject(contracts.ReasonBadInvocation, "wrong")
		case "writes":
			data := runnertest.Pattern(job.Attempt)
			if f.losesTail && len(data) > 4096 {
				data = data[:len(data)-1]
			}
			for _, w := range []io.Writer{stdout, stderr} {
				if len(data) == 0 {
					continue
				}
				if f.buffers {
					go w.Write(data)
				} else if _, err := w.Write(data); err != nil && !f.ignoresSink {
					return failed, fmt.Errorf("fake: %w", err)
				}
			}
		case "echo":
			if job.Stdin == nil {
				break
			}
			if _, err := io.Copy(stdout, job.Stdin); err != nil && !f.ignoresInput {
				return failed, fmt.Errorf("fake: %w", err)
			}
		case "hangs":
			alive.Add(1)
			if !f.leaves {
				defer alive.Add(-1)
			}
			if _, err := stdout.Write([]byte("ready\n")); err != nil {
				return failed, fmt.Errorf("fake: %w", err)
			}
			<-ctx.Done()
			if f.bareError {
				return failed, ctx.Err()
			}
			return failed, fmt.Errorf("fake: %w", context.Cause(ctx))
		}
		return contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}, nil
	}
	job := func(name string) func(testing.TB) runner.Job {
		return func(testing.TB) runner.Job {
			return runner.Job{Invocation: contracts.Invocation{Name: name, Kind: "fake"}}
		}
	}
	runnertest.Run(t, func(*testing.T) runner.Runner { return runner.Func(fake) }, runnertest.Options{
		Quick: job("quick"),
		Fails: job("fails"),
		Writes: func(_ testing.TB, n int) runner.Job {
			return runner.Job{Invocation: contracts.Invocation{Name: "writes"}, Attempt: n}
		},
		Echo: job("echo"),
		Hangs: func(t testing.TB) (runner.Job, func() bool) {
			return job("hangs")(t), func() bool { return alive.Load() > 0 }
		},
		Rejected: map[string]func(testing.TB) runner.Job{"wrong": job("wrong")},
	})
}

//go:build unix

package subprocess_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

// stopWhen runs a job and ends its context as soon as it has written word to stdout.
func stopWhen(t *testing.T, r runner.Runner, job runner.Job, word string) (contracts.Outcome, *runnertest.Sink) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	sink := &runnertest.Sink{OnWrite: func(_ contracts.Stream, _ contracts.Phase, data []byte) error {
		if strings.Contains(string(data), word) {
			cancel(runner.ErrTimeout)
		}
		return nil
	}}
	outcome, err := r.Run(ctx, job, sink)
	if !errors.Is(err, runner.ErrTimeout) {
		t.Fatalf("Run() = %+v, %v, want the cause %v wrapped", outcome, err, runner.ErrTimeout)
	}
	return outcome, sink
}

func TestStopOrder(t *testing.T) {
	// A shell that waits without a child, so that the count is exact, and in no system call: one that the signal comes
	// just before would keep the trap waiting for ever.
	const wait = "echo ready; while :; do :; done"
	tests := map[string]struct {
		script string
		stop   *contracts.Stop
		code   int
		stdout string
		killed string
	}{
		"the TERM trap runs (E19)": {
			"trap 'echo trapped; exit 7' TERM; " + wait,
			nil, 7, "ready\ntrapped\n", "1 process (TERM)",
		},
		"dies of TERM": {
			"echo ready; exec sleep 600",
			nil, -15, "ready\n", "1 process (TERM)",
		},
		"TERM ignored, KILL after the grace": {
			"trap '' TERM; echo ready; exec sleep 600",
			&contracts.Stop{GraceSeconds: new(0.2)}, -9, "ready\n", "1 process (TERM, then KILL)",
		},
		"grace 0 is KILL at once (E19)": {
			"trap 'echo trapped' TERM; " + wait,
			&contracts.Stop{GraceSeconds: new(0.0)}, -9, "ready\n", "1 process (KILL)",
		},
		"interrupt first (T14)": {
			"trap 'echo interrupted; exit 5' INT; " + wait,
			&contracts.Stop{InterruptSeconds: 60}, 5, "ready\ninterrupted\n", "1 process (INT)",
		},
		"interrupt, terminate, kill (T14)": {
			"trap 'echo interrupted' INT; trap 'echo terminated' TERM; " + wait,
			&contracts.Stop{InterruptSeconds: 0.5, GraceSeconds: new(0.5)}, -9,
			"ready\ninterrupted\nterminated\n", "1 process (INT, then TERM, then KILL)",
		},
		"a child ends its work within the grace": {
			"trap 'exit 4' TERM; sh -c 'trap \"echo child; exit\" TERM; " + wait + "' & wait",
			&contracts.Stop{GraceSeconds: new(60.0)}, 4, "ready\nchild\n", "2 processes (TERM)",
		},
		"a child in its own session is asked too": {
			"setsid sh -c 'trap \"echo child; exit\" TERM; " + wait + "' & exec sleep 600",
			&contracts.Stop{GraceSeconds: new(60.0)}, -15, "ready\nchild\n", "2 processes (TERM)",
		},
		"ends well while it is stopped": {
			"trap 'exit 0' TERM; " + wait,
			nil, 0, "ready\n", "1 process (TERM)",
		},
	}
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				job := shell(t, test.script)
				job.Stop = test.stop
				outcome, sink := stopWhen(t, r, job, "ready")
				if code(outcome) != test.code {
					t.Errorf("exit code = %d, want %d", code(outcome), test.code)
				}
				if sink.Stdout() != test.stdout {
					t.Errorf("stdout = %q, want %q", sink.Stdout(), test.stdout)
				}
				if outcome.Killed != test.killed {
					t.Errorf("killed = %q, want %q", outcome.Killed, test.killed)
				}
			})
		}
	})
}

// daemon is a script that double-forks a process into a session of its own, which holds the output open,
// and writes its id to the file "daemon" of the working directory.
const daemon = "(setsid sh -c 'echo $$ > daemon; exec sleep 600' &); until test -s daemon; do :; done; "

// What is left in the background does not outlive the run, and does not hold it up (E24, S11, S13, T11).
func TestNothingIsLeft(t *testing.T) {
	tests := map[string]struct {
		script, killed string
		stop           bool
	}{
		"background child, normal exit": {
			"sleep 600 & echo $! > daemon; echo done", "1 process left behind (KILL)", false,
		},
		"daemon, normal exit": {daemon + "echo done", "1 process left behind (KILL)", false},
		"daemon without environment": {
			strings.Replace(daemon, "setsid sh", "env -i PATH=\"$PATH\" setsid sh", 1) + "echo done", "1 process left behind (KILL)", false,
		},
		"daemon, failure":          {daemon + "echo done; exit 9", "1 process left behind (KILL)", false},
		"daemon, leader killed":    {daemon + "echo done; kill -KILL $$", "1 process left behind (KILL)", false},
		"daemon, stopped":          {daemon + "echo done; exec sleep 600", "2 processes (TERM)", true},
		"daemon that ignores TERM": {"trap '' TERM; " + daemon + "echo done; exec sleep 600", "2 processes (TERM, then KILL)", true},
	}
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				job := shell(t, test.script)
				job.Stop = &contracts.Stop{GraceSeconds: new(1.0)}
				var outcome contracts.Outcome
				var sink *runnertest.Sink
				if test.stop {
					outcome, sink = stopWhen(t, r, job, "done")
				} else {
					outcome, sink = run(t, r, job)
				}
				if alive(t, job.Dir+"/daemon") {
					t.Error("the daemon lives")
				}
				if sink.Stdout() != "done\n" {
					t.Errorf("stdout = %q, want %q", sink.Stdout(), "done\n")
				}
				if outcome.Killed != test.killed {
					t.Errorf("killed = %q, want %q", outcome.Killed, test.killed)
				}
			})
		}
	})
}

// A run that ended by itself is an outcome without an error, also if its context ends a moment later.
func TestEndsByItselfThenCancelled(t *testing.T) {
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for range 20 {
			ctx, cancel := context.WithCancelCause(t.Context())
			job := shell(t, "echo done")
			sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
				go cancel(runner.ErrCancelled)
				return nil
			}}
			outcome, err := r.Run(ctx, job, sink)
			cancel(nil)
			switch {
			case err == nil && outcome.Status == contracts.StatusSucceeded && outcome.Killed == "":
			case errors.Is(err, runner.ErrCancelled) && sink.Stdout() == "done\n":
			default:
				t.Fatalf("Run() = %+v, %v: neither ended by itself nor cancelled", outcome, err)
			}
		}
	})
}

// The runner leaves the workspace to its caller.
func TestLeavesTheWorkspace(t *testing.T) {
	r := open(t, subprocess.Config{})
	job := shell(t, "echo kept > file; echo art > \"$RUNNEL_ARTIFACTS/a\"")
	run(t, r, job)
	for file, want := range map[string]string{job.Dir + "/file": "kept\n", job.Artifacts + "/a": "art\n"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v, want %q", file, got, err, want)
		}
	}
}

// A run leaves the signals of its process to the process: it takes none, and gives none back differently (E21, E23).
func TestLeavesSignalsAlone(t *testing.T) {
	r := open(t, subprocess.Config{})
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGTERM)
	defer signal.Stop(heard)
	hear := func(when string) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
		case <-time.After(time.Minute):
			t.Errorf("%s: the signal was not heard", when)
		}
	}
	job := shell(t, "echo ready; until test -e go; do sleep 0.02; done; exit 5")
	sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
		hear("while it runs")
		return os.WriteFile(job.Dir+"/go", nil, 0o600)
	}}
	outcome, err := r.Run(t.Context(), job, sink)
	if err != nil || code(outcome) != 5 || outcome.Killed != "" {
		t.Errorf("Run() = %+v, %v, want it to end by itself", outcome, err)
	}
	hear("after it has ended")
}

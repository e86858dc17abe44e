package subprocess_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func TestMain(m *testing.M) {
	if os.Args[0] == childArgv0 {
		os.Exit(child(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// open returns a runner on the rung, or skips the test where the rung does not work.
func open(t testing.TB, cfg subprocess.Config) *subprocess.Runner {
	t.Helper()
	r, err := subprocess.New(cfg)
	if err != nil {
		t.Skipf("no rung %q here: %v", cfg.Ladder, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return r
}

// eachRung runs a test on every rung that works here.
func eachRung(t *testing.T, test func(t *testing.T, r *subprocess.Runner)) {
	t.Helper()
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) { test(t, open(t, subprocess.Config{Ladder: rung})) })
	}
}

// command returns a job with a workspace.
func command(t testing.TB, argv ...string) runner.Job {
	t.Helper()
	return runner.Job{
		Invocation: contracts.Invocation{ID: "job", Kind: contracts.KindSubprocess, Command: argv},
		Attempt:    1, Run: contracts.NewRun(), Dir: t.TempDir(), Artifacts: t.TempDir(),
	}
}

func shell(t testing.TB, script string) runner.Job {
	t.Helper()
	return command(t, "sh", "-c", script)
}

// run runs the job to its end and fails the test if there is an error.
func run(t testing.TB, r runner.Runner, job runner.Job) (contracts.Outcome, *runnertest.Sink) {
	t.Helper()
	sink := &runnertest.Sink{}
	outcome, err := r.Run(t.Context(), job, sink)
	if err != nil {
		t.Fatalf("Run(%q) = %+v, %v", job.Command, outcome, err)
	}
	return outcome, sink
}

func code(outcome contracts.Outcome) int {
	if outcome.ExitCode == nil {
		return -1000
	}
	return *outcome.ExitCode
}

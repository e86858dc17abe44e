package guard_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/runner/subprocess/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A guard that reads nothing, because somebody has stopped it, guards nothing: it is replaced, and whoever
// tells it something is not held up.
func TestStoppedGuardIsReplaced(t *testing.T) {
	g, err := guard.ForToken("test-token-without-runs")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	stopped := g.PID()
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for g.PID() == stopped {
		if time.Now().After(deadline) {
			t.Fatal("the stopped guard is not replaced")
		}
		// A session that does not exist: no process has so high a number.
		if err := errors.Join(g.Enter(1<<30), g.Leave(1<<30)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Check(); err != nil || g.PID() == 0 {
		t.Errorf("Check() = %v, guard %d", err, g.PID())
	}
}

func TestClosedGuardStaysClosed(t *testing.T) {
	g, err := guard.ForToken("test-token-without-runs")
	if err != nil {
		t.Fatal(err)
	}
	pid := g.PID()
	for range 2 {
		if err := g.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
	if err := errors.Join(g.Check(), g.Enter(1<<30)); err != nil || g.PID() != 0 {
		t.Errorf("a closed guard: %v, guard %d, want none", err, g.PID())
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("guard process %d: %v, want it gone", pid, err)
	}
}

// Started by hand it says by its code that this is not how it is used, and never starts the program that it is in.
func TestGuardByHand(t *testing.T) {
	for _, args := range [][]string{nil, {"cgroup"}, {"token"}, {"other", "x"}, {"cgroup", "relative"}} {
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Args[0] = guard.Argv0
		cmd.Env = []string{"GORACE=atexit_sleep_ms=0"}
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 && code != 2 {
			t.Errorf("guard %q = %v, want exit code 1 or 2", args, err)
		}
	}
}

func TestProbe(t *testing.T) {
	wrong := errors.New("wrong")
	var pid int
	err := guard.Probe(nil, func(p *os.Process) error {
		pid = p.Pid
		if err := p.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the process does not run: %v", err)
		}
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("Probe() = %v, want %v", err, wrong)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v, want it gone", pid, err)
	}
	if err := guard.Probe(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: 0}, nil); err == nil {
		t.Error("Probe() = nil for a process that cannot be started")
	}
}

package subprocess_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

// Where a cgroup can be made by hand the best rung is the one that makes them: the tests of it must not
// skip themselves because it is broken.
func TestCgroupRungWorksWhereItCan(t *testing.T) {
	own, err := tree.OwnCgroup()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(own, "test-runnel-by-hand")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	_, err = os.Stat(filepath.Join(dir, "cgroup.kill"))
	if err := errors.Join(err, os.Remove(dir)); err != nil {
		t.Skip(err)
	}
	r, err := subprocess.New(subprocess.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.Capabilities(); got["subprocess.kill"] != subprocess.RungCgroup || len(got) != 1 {
		t.Errorf("Capabilities() = %q, want the cgroup rung and no complaints", got)
	}
}

func TestUnknownRung(t *testing.T) {
	if r, err := subprocess.New(subprocess.Config{Ladder: "rope"}); err == nil || !strings.Contains(err.Error(), "rope") {
		t.Errorf("New() = %v, %v, want an error that names the rung", r, err)
	}
}

// A cgroup serves one run after the other, but never again after it was killed: the kernel would kill the next run.
func TestCgroupsAreReused(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: subprocess.RungCgroup})
	dirs := func() int {
		list, err := filepath.Glob(r.CgroupRoot() + "/run-*")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for range 5 {
		run(t, r, shell(t, "exit 0"))
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d cgroups after five runs, want 1", n)
	}
	for range 5 {
		run(t, r, shell(t, "sleep 600 & exit 0"))
		if n := dirs(); n != 0 {
			t.Errorf("%d cgroups after one was killed, want 0", n)
		}
		run(t, r, command(t, "no-such-command"))
		if outcome, _ := run(t, r, shell(t, "exit 3")); code(outcome) != 3 {
			t.Errorf("exit code = %d after a kill, want 3", code(outcome))
		}
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d cgroups, want 1", n)
	}
}

// Somebody tidies up and takes the worker's cgroup away, which is empty between two runs: the next run
// gets another, and no work is blamed for it.
func TestCgroupIsMadeAgain(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: subprocess.RungCgroup})
	for range 3 {
		run(t, r, shell(t, "exit 0"))
		old := r.CgroupRoot()
		if err := tree.RemoveCgroup(old); err != nil {
			t.Fatal(err)
		}
		if outcome, _ := run(t, r, shell(t, "sleep 600 & exit 3")); code(outcome) != 3 {
			t.Errorf("Run() = %+v after the cgroup was removed, want exit code 3", outcome)
		}
		if now := r.CgroupRoot(); now == old {
			t.Errorf("the cgroup is still %s, which was removed", now)
		}
		if pid := r.GuardPID(); pid == 0 || !running(pid) {
			t.Errorf("guard = %d, want a living one", pid)
		}
	}
}

// A guard that has died is replaced before the next run.
func TestGuardIsReplaced(t *testing.T) {
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			r := open(t, subprocess.Config{Ladder: rung})
			for range 3 {
				old := r.GuardPID()
				if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				eventually(t, func() string {
					if r.GuardPID() == old {
						return "the death of the guard is not noticed"
					}
					return ""
				})
				run(t, r, shell(t, "exit 0"))
				if pid := r.GuardPID(); pid == 0 || !running(pid) {
					t.Errorf("guard = %d after a run, want a living one", pid)
				}
			}
			last := r.GuardPID()
			if err := r.Close(); err != nil || running(last) {
				t.Errorf("Close() = %v, guard running: %v", err, running(last))
			}
		})
	}
}

// A stopped guard that nothing can be told is replaced, and holds up no run.
func TestFrozenGuard(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: subprocess.RungSubreaper})
	old := r.GuardPID()
	if err := syscall.Kill(old, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if running(old) {
		t.Error("the frozen guard outlives the runner")
	}
}

// The subreaper reaps what runs orphan, and nothing that others in this process wait for.
func TestSubreaperReapsOrphansOnly(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: subprocess.RungSubreaper})
	var mine []*exec.Cmd
	for i := range 8 {
		cmd := exec.Command("sh", "-c", fmt.Sprintf("exit %d", i))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: i%2 == 0}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		mine = append(mine, cmd)
		// Every orphan ends by itself, most before anyone looks.
		run(t, r, shell(t, "for i in 1 2 3; do (setsid sh -c 'exit 0' &); (true &); done; "+daemon+"exit 0"))
	}
	for i, cmd := range mine {
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != i {
			t.Errorf("a child of our own ended with %d, want %d: it was reaped by another", got, i)
		}
	}
	children, err := tree.Children()
	if err != nil {
		t.Skip(err)
	}
	for _, pid := range children {
		if p, err := tree.ReadProc(pid); err == nil && p.Zombie() {
			t.Errorf("orphan %+v is left as a zombie", p)
		}
	}
}

// Descriptors that this process inherited, a lock or a socket, do not go on to jobs.
func TestNothingIsInherited(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited, err := unix.Dup(int(file.Fd())) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		if _, sink := run(t, r, shell(t, "for fd in /proc/$$/fd/*; do readlink $fd; done")); strings.Contains(sink.Stdout(), file.Name()) {
			t.Errorf("a job has open: %s", sink.Stdout())
		}
	})
}

func init() { children["nobody"] = nobodyChild }

// nobodyChild runs a job that leaves a daemon, and says what rung it was on.
func nobodyChild(args []string) int {
	r, err := subprocess.New(subprocess.Config{Environ: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		fmt.Println("New:", err)
		return 1
	}
	for range 2 {
		sink := &runnertest.Sink{}
		outcome, err := r.Run(context.Background(), runner.Job{
			Invocation: contracts.Invocation{ID: "job", Command: []string{"sh", "-c", daemon + "rm daemon; id -u"}}, Dir: args[0],
		}, sink)
		fmt.Println("run:", strings.TrimSpace(sink.Stdout()), outcome.Status, outcome.Killed, err)
	}
	fmt.Println("kill:", r.Capabilities()["subprocess.kill"])
	fmt.Println("why:", r.Capabilities()["subprocess.kill.cgroup"])
	if err := r.Close(); err != nil {
		fmt.Println("Close:", err)
		return 1
	}
	return 0
}

// Without privileges the runner steps down the ladder and says why, or uses the cgroup that was delegated to it.
func TestWithoutPrivileges(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	own, err := tree.OwnCgroup()
	if err != nil {
		t.Skip(err)
	}
	const nobody = 65534
	asNobody := func(t *testing.T, cgroup string) string {
		t.Helper()
		dir := t.TempDir()
		// The way down to it is root's alone: the child starts there and needs no way.
		for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
			if err := os.Chmod(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "nobody", dir)
		cmd.Args[0] = childArgv0
		cmd.Dir = "/"
		cmd.Env = []string{"GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if cgroup != "" {
			c, err := tree.OpenCgroup(cgroup)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, c.FD()
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		if n := strings.Count(string(out), "run: 65534 succeeded 1 process left behind (KILL) <nil>\n"); n != 2 {
			t.Errorf("%d runs of 2 went well:\n%s", n, out)
		}
		return string(out)
	}
	t.Run("no cgroup", func(t *testing.T) {
		out := asNobody(t, "")
		if !strings.Contains(out, "kill: subreaper (best effort)\n") || !strings.Contains(out, "permission denied") {
			t.Errorf("it does not step down and say why:\n%s", out)
		}
	})
	t.Run("delegated cgroup", func(t *testing.T) {
		dir := filepath.Join(own, "test-runnel-delegated")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() {
			if err := tree.RemoveCgroup(dir); err != nil {
				t.Error(err)
			}
		})
		for _, file := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(dir, file), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		out := asNobody(t, dir)
		if !strings.Contains(out, "kill: cgroup\n") {
			t.Errorf("it does not use the cgroup that it has:\n%s", out)
		}
		if left, _ := filepath.Glob(dir + "/runnel-*"); len(left) > 0 {
			t.Errorf("it leaves %v", left)
		}
	})
}

// Two runners in one process, as in a program that embeds two nodes, leave each other's runs alone.
func TestRunnersDoNotMeet(t *testing.T) {
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			r, other := open(t, subprocess.Config{Ladder: rung}), open(t, subprocess.Config{Ladder: subprocess.RungSubreaper})
			job := shell(t, daemon+"echo up; until test -e go; do sleep 0.01; done; echo end")
			sink := &runnertest.Sink{OnWrite: func(_ contracts.Stream, _ contracts.Phase, data []byte) error {
				if string(data) != "up\n" {
					return nil
				}
				for range 3 {
					if outcome, _ := run(t, other, shell(t, daemon+"exit 0")); outcome.Killed != "1 process left behind (KILL)" {
						t.Errorf("killed = %q", outcome.Killed)
					}
				}
				if !alive(t, job.Dir+"/daemon") {
					t.Error("the daemon of a run that goes on was killed by another runner")
				}
				return os.WriteFile(job.Dir+"/go", nil, 0o600)
			}}
			outcome, err := r.Run(t.Context(), job, sink)
			if err != nil || outcome.Killed != "1 process left behind (KILL)" || sink.Stdout() != "up\nend\n" {
				t.Errorf("Run() = %+v, %v, %q", outcome, err, sink.Stdout())
			}
		})
	}
}

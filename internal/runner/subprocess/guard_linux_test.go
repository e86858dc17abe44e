package subprocess_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func init() { children["worker"] = workerChild }

// workerChild is like a worker: it runs each script in a workspace of its own below root, over
// and over if it ends, and says "up GUARD CGROUP" once there is a guard.
func workerChild(args []string) int {
	rung, root, scripts := args[0], args[1], args[2:]
	r, err := subprocess.New(subprocess.Config{Ladder: rung})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("up", r.GuardPID(), r.CgroupRoot())
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		// The end of the input is the order to end cleanly.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel(runner.ErrStopped)
	}()
	var all sync.WaitGroup
	for i, script := range scripts {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				dir := filepath.Join(root, fmt.Sprintf("%d-%d", i, n))
				if err := os.Mkdir(dir, 0o700); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				_, err := r.Run(ctx, runner.Job{
					Invocation: contracts.Invocation{ID: "job", Command: []string{"sh", "-c", script}}, Dir: dir,
				}, &runnertest.Sink{})
				if err != nil && !errors.Is(err, runner.ErrStopped) {
					fmt.Fprintln(os.Stderr, err)
				}
			}
		})
	}
	all.Wait()
	if err := r.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// worker is a workerChild from the outside.
type worker struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	root   string // what it started has its directory below
	guard  int
	cgroup string
}

func startWorker(t *testing.T, rung string, scripts ...string) *worker {
	t.Helper()
	open(t, subprocess.Config{Ladder: rung}) // or skip
	w := &worker{root: t.TempDir()}
	w.cmd = exec.Command("/proc/self/exe", append([]string{"worker", rung, w.root}, scripts...)...)
	w.cmd.Args[0] = childArgv0
	w.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	w.cmd.Stderr = t.Output()
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.stdin = stdin
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the worker did not come up: %v", err)
	}
	fields := strings.Fields(line)
	w.guard, _ = strconv.Atoi(fields[1])
	if len(fields) > 2 {
		w.cgroup = fields[2]
	}
	return w
}

// kill is kill -9.
func (w *worker) kill(t *testing.T) {
	t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = w.cmd.Wait()
}

// eventually waits until check returns "", for ten times what it should take.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.NewTimer(runnertest.Limit)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		problem := check()
		if problem == "" {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatal(problem)
		}
	}
}

// gone fails the test unless soon nothing is left of the worker: no process, no cgroup, no guard.
func (w *worker) gone(t *testing.T) {
	t.Helper()
	began := time.Now()
	eventually(t, func() string {
		if left := below(w.root); len(left) > 0 {
			return fmt.Sprintf("processes %v of the dead worker are left", left)
		}
		if w.cgroup != "" {
			if _, err := os.Stat(w.cgroup); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Sprintf("the cgroup of the dead worker is left: %v", err)
			}
		}
		return ""
	})
	t.Logf("gone after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, func() string {
		if running(w.guard) {
			return "the guard is left"
		}
		return ""
	})
}

// below returns the processes whose directory is below root; a zombie has none.
func below(root string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && strings.HasPrefix(dir, root+"/") {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

// exist waits for files that the jobs make.
func (w *worker) exist(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, func() string {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(w.root, name)); err != nil {
				return err.Error()
			}
		}
		return ""
	})
}

// loop is a script that forks and calls setsid for ever, each generation ending at once.
const loop = "cat > gen <<'END'\n: > looping\nsetsid sh ./gen & exit\nEND\nsh ./gen; exec sleep 600"

func TestGuardKillsWhatADeadWorkerLeft(t *testing.T) {
	plain := []string{
		"echo > up; exec sleep 600",
		"trap '' TERM HUP INT; " + daemon + "echo > up; exec sleep 600",
		"exec env -i PATH=\"$PATH\" sh -c 'sleep 600 & echo > up; exec sleep 600'", // no token in its environment
		"(cd ..; exec setsid sleep 600) & cd ..; mkdir 9-9; cd 9-9; " + daemon + "cd ../3-0; echo > up; exec sleep 600",
	}
	ups := []string{"0-0/up", "1-0/up", "2-0/up", "3-0/up"}
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			w := startWorker(t, rung, plain...)
			w.exist(t, ups...)
			if len(below(w.root)) < 7 {
				t.Fatalf("only %v run: the test would see nothing", below(w.root))
			}
			w.kill(t)
			w.gone(t)
		})
		t.Run(rung+", signalled and inherited", func(t *testing.T) {
			w := startWorker(t, rung, plain[:2]...)
			w.exist(t, ups[:2]...)
			// What a Ctrl-C, a closed terminal or a stopped unit sends to all does not end the guard.
			for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
				if err := syscall.Kill(w.guard, sig); err != nil {
					t.Fatalf("signal guard: %v", err)
				}
			}
			if sid, _ := getsid(w.guard); sid != w.guard {
				t.Errorf("the guard is in session %d, want its own", sid)
			}
			for fd := range 3 {
				target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.guard, fd))
				if fd == 2 && target != os.DevNull {
					t.Errorf("fd %d of the guard is %q", fd, target)
				}
			}
			w.kill(t)
			w.gone(t)
		})
		t.Run(rung+", guard killed before", func(t *testing.T) {
			w := startWorker(t, rung, plain...)
			w.exist(t, ups...)
			old := w.guard
			if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() string {
				w.guard = guardOf(w.cmd.Process.Pid)
				if w.guard == 0 || w.guard == old {
					return "no other guard has been started"
				}
				return ""
			})
			w.kill(t)
			w.gone(t)
		})
		t.Run(rung+", clean end", func(t *testing.T) {
			w := startWorker(t, rung, plain[0])
			w.exist(t, ups[0])
			w.stdin.Close()
			if err := w.cmd.Wait(); err != nil {
				t.Errorf("the worker ended with %v", err)
			}
			// Close waits for the guard, so nothing has to be waited for here.
			if running(w.guard) || len(below(w.root)) > 0 {
				t.Errorf("guard %d or processes %v outlive a clean end", w.guard, below(w.root))
			}
			if _, err := os.Stat(w.cgroup); w.cgroup != "" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the cgroup outlives a clean end: %v", err)
			}
		})
	}
	t.Run("cgroup, fork loop", func(t *testing.T) {
		w := startWorker(t, subprocess.RungCgroup, loop, loop)
		w.exist(t, "0-0/looping", "1-0/looping")
		w.kill(t)
		w.gone(t)
	})
}

// A worker that dies together with its guard is tidied up after by the next one; one that lives is left alone.
func TestNextWorkerTidiesUp(t *testing.T) {
	scripts := []string{"echo > up; exec sleep 600"}
	dead := startWorker(t, subprocess.RungCgroup, scripts...)
	dead.exist(t, "0-0/up")
	living := startWorker(t, subprocess.RungCgroup, scripts...)
	living.exist(t, "0-0/up")

	if err := syscall.Kill(dead.cmd.Process.Pid, syscall.SIGSTOP); err != nil { // or it would start another guard
		t.Fatal(err)
	}
	if err := syscall.Kill(dead.guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dead.kill(t)
	if len(below(dead.root)) == 0 {
		t.Fatal("nothing is left of the dead worker: the test would see nothing")
	}
	startWorker(t, subprocess.RungCgroup, scripts...)
	dead.gone(t)
	if len(below(living.root)) == 0 {
		t.Error("the runs of a living worker were killed")
	}
}

// Killed in the middle of starting runs, many times over: what was just being started is not missed.
func TestGuardWhileRunsStart(t *testing.T) {
	scripts := make([]string, 8)
	for i := range scripts {
		scripts[i] = "(setsid sleep 600 &); sleep 600 & exit 0"
	}
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			for round := range 10 {
				w := startWorker(t, rung, scripts...)
				w.exist(t, fmt.Sprintf("%d-%d", round%8, round%3))
				w.kill(t)
				w.gone(t)
			}
		})
	}
}

func getsid(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return strconv.Atoi(fields[3])
}

// guardOf returns the guard among the children of a worker.
func guardOf(pid int) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		text, _ := os.ReadFile(file)
		if !strings.HasPrefix(string(text), "runnel-guard\x00") {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) && fields[0] != "Z" {
			guard, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return guard
		}
	}
	return 0
}

// On the cgroup rung nothing gets away, also not by forking and calling setsid faster than anyone can look.
func TestForkLoopIsKilled(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: subprocess.RungCgroup})
	for range 5 {
		job := shell(t, strings.Replace(loop, "exec sleep 600", "until test -e looping; do :; done; echo on; exec sleep 600", 1))
		job.Stop = &contracts.Stop{GraceSeconds: new(0.0)}
		stopWhen(t, r, job, "on")
		for range 20 {
			if left := below(filepath.Dir(job.Dir)); len(left) > 0 {
				t.Fatalf("processes %v of the loop are left", left)
			}
		}
	}
}

package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// WorkerConfig says how a worker process is started.
type WorkerConfig struct {
	// Name is the worker's; "" is a new one.
	Name string
	// Pool is what it belongs to; "" is the default.
	Pool string
	// URL is where it connects; "" is all servers.
	URL string
	// Slots is how many runs it has at once; 0 is 4.
	Slots int
	// DrainTimeout and MaxDisconnect are the worker's.
	DrainTimeout, MaxDisconnect time.Duration
	// Ladder is the rung of the subprocess runner; "" is the best.
	Ladder string
	// OutputLimit is the worker's; 0 is the default.
	OutputLimit int64
	// SecretsDir is where its requests find secrets; they may go to this machine.
	SecretsDir string
	// Binary has the worker be the program that users get, without the race detector and without steps.
	Binary bool
	// Clock is how far its clock is ahead, and Jump how much more from JumpAfter its start on.
	Clock, Jump, JumpAfter time.Duration
	// At has the worker wait when an invocation whose id has the prefix IDs reaches the step At for the Nth time (0 is 1):
	// Reached then tells, and what is done to it is done exactly there. GoOn lets it pass.
	At  queue.Step
	IDs string
	Nth int
}

// loopback is where the services are that requests of the tests go to.
const loopback = "127.0.0.0/8"

// Worker is a worker process.
type Worker struct {
	Name string

	f     *Fleet
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // how, after done
	reach chan Reached
	goOn  *os.File
	log   string

	mu     sync.Mutex
	killed bool
}

// Reached says that a worker waits at its step.
type Reached struct {
	Step    queue.Step
	ID, Run string
}

// StartWorker starts a worker and returns once it is ready.
func (f *Fleet) StartWorker(cfg WorkerConfig) *Worker {
	f.t.Helper()
	if cfg.Name == "" {
		cfg.Name = f.ID("w")
	}
	if cfg.Pool == "" {
		cfg.Pool = contracts.DefaultPool
	}
	if cfg.URL == "" {
		cfg.URL = f.url
	}
	if cfg.Slots == 0 {
		cfg.Slots = 4
	}
	w, err := f.startWorker(cfg)
	if err != nil {
		f.t.Fatalf("start worker %s: %v", cfg.Name, err)
	}
	return w
}

func (f *Fleet) startWorker(cfg WorkerConfig) (*Worker, error) {
	text, err := json.Marshal(childConfig{Worker: cfg, Topology: f.Topology, WorkRoot: f.WorkRoot()})
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	steps, stepsOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	goIn, goOn, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	w := &Worker{Name: cfg.Name, f: f, done: make(chan struct{}), reach: make(chan Reached, 16), goOn: goOn, log: filepath.Join(f.Dir, cfg.Name+".log")}
	log, err := os.OpenFile(w.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	w.cmd = exec.Command(exe)
	if cfg.Binary {
		program, err := build("worker", "github.com/runnel-project/runnel/cmd/worker")
		if err != nil {
			return nil, err
		}
		w.cmd = exec.Command(program, "start", "--server", cfg.URL, "--name", cfg.Name, "--pool", cfg.Pool,
			"--slots", fmt.Sprint(cfg.Slots), "--work-dir", f.WorkRoot(),
			"--http-allow", loopback, "--secrets-dir", cfg.SecretsDir)
	}
	w.cmd.Env = append(os.Environ(), childEnv+"="+string(text),
		"GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(f.Dir, "race"))
	w.cmd.ExtraFiles = []*os.File{stepsOut, goIn}
	w.cmd.Stderr = log
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	_ = errors.Join(stepsOut.Close(), goIn.Close(), log.Close())
	f.mu.Lock()
	f.workers = append(f.workers, w)
	f.pools[cfg.Pool] = true
	f.mu.Unlock()

	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, out)
		w.err = w.cmd.Wait()
		close(w.done)
	}()
	go func() {
		defer close(w.reach)
		defer steps.Close()
		for lines := bufio.NewScanner(steps); lines.Scan(); {
			var r Reached
			if err := json.Unmarshal(lines.Bytes(), &r); err == nil {
				w.reach <- r
			}
		}
	}()
	if strings.TrimSpace(line) != "ready "+cfg.Name {
		w.Kill()
		return nil, fmt.Errorf("it said %q (%v)\n%s", line, err, w.Log())
	}
	return w, nil
}

// Log returns the end of what the worker logged.
func (w *Worker) Log() string {
	text, err := os.ReadFile(w.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// PID is the worker's process.
func (w *Worker) PID() int { return w.cmd.Process.Pid }

// PeakRSS is the most memory that the worker's process has had.
func (w *Worker) PeakRSS() int64 {
	w.f.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID()))
	if err != nil {
		w.f.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	w.f.t.Fatal("no VmHWM")
	return 0
}

// Reached waits until the worker stands at its step.
func (w *Worker) Reached(within time.Duration) Reached {
	w.f.t.Helper()
	select {
	case r, ok := <-w.reach:
		if !ok {
			w.f.t.Fatalf("worker %s ended before its step: %s", w.Name, w.Log())
		}
		return r
	case <-time.After(within):
		w.f.t.Fatalf("worker %s did not reach its step within %v: %s", w.Name, within, w.Log())
		return Reached{}
	}
}

// Stands delivers each time that the worker stands at its step.
func (w *Worker) Stands() <-chan Reached { return w.reach }

// GoOn lets a worker pass the step at which it waits.
func (w *Worker) GoOn() {
	if _, err := w.goOn.WriteString("\n"); err != nil {
		w.f.t.Errorf("let worker %s go on: %v", w.Name, err)
	}
}

// Kill kills the worker as kill -9 does, and returns when it is gone.
func (w *Worker) Kill() {
	w.mu.Lock()
	w.killed = true
	w.mu.Unlock()
	_ = w.cmd.Process.Kill()
	<-w.done
	_ = w.goOn.Close()
}

// Pause freezes the worker itself (SIGSTOP), not what it runs; Resume lets it go on.
func (w *Worker) Pause() { w.signal(syscall.SIGSTOP) }

// Resume lets a frozen worker go on.
func (w *Worker) Resume() { w.signal(syscall.SIGCONT) }

// Terminate asks the worker to drain.
func (w *Worker) Terminate() { w.signal(syscall.SIGTERM) }

func (w *Worker) signal(s syscall.Signal) {
	if err := w.cmd.Process.Signal(s); err != nil {
		w.f.t.Errorf("send %v to worker %s: %v", s, w.Name, err)
	}
}

// Ended waits until the worker has ended and returns its exit code; -1 is a signal.
func (w *Worker) Ended(within time.Duration) int {
	w.f.t.Helper()
	select {
	case <-w.done:
		return w.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		w.f.t.Fatalf("worker %s did not end within %v: %s", w.Name, within, w.Log())
		return 0
	}
}

// drain ends a worker in order, if it still runs, and says so if it did not end well.
func (w *Worker) drain() {
	w.f.t.Helper()
	w.mu.Lock()
	killed := w.killed
	w.mu.Unlock()
	select {
	case <-w.done:
		if code := w.cmd.ProcessState.ExitCode(); !killed && code != 0 {
			w.f.t.Errorf("worker %s ended with %d: %s", w.Name, code, w.Log())
		}
		return
	default:
	}
	w.Terminate()
	if code := w.Ended(Patience); code != 0 {
		w.f.t.Errorf("drained worker %s ended with %d: %s", w.Name, code, w.Log())
	}
}

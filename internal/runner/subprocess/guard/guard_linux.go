package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Self is the program that runs now, also if its file has been replaced or removed since.
const self = "/proc/self/exe"

// Environment of a guard: none of the worker's. The race detector sleeps a second at exit unless told not to.
var environment = []string{"GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0"}

// startTimeout bounds how long a guard may take to say that it is there.
const startTimeout = 10 * time.Second

// closeTimeout bounds how long a guard may take to end when it is told to.
const closeTimeout = 2 * time.Second

// Guard is the worker's end: it keeps one guard process alive.
type Guard struct {
	args []string

	mu       sync.Mutex
	proc     *os.Process
	pipe     *os.File // to the guard; its end is the worker's death
	sessions map[int]bool
	closed   bool
	gone     chan struct{} // closed when the watch of the last process has ended
}

// ForCgroup starts a guard that kills the cgroup at path and what is below, and removes the directories.
func ForCgroup(path string) (*Guard, error) { return start(modeCgroup, path) }

// ForToken starts a guard that kills the processes marked with the token by the variable Var,
// and those in the sessions that it was told of by Enter.
func ForToken(token string) (*Guard, error) { return start(modeToken, token) }

func start(args ...string) (*Guard, error) {
	g := &Guard{args: args, sessions: make(map[int]bool)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.spawn(); err != nil {
		return nil, err
	}
	return g, nil
}

// spawn starts a process and its watch. The caller holds mu.
func (g *Guard) spawn() error {
	// What it must know waits for it in the pipe: this process may be killed before it has come up.
	var notes strings.Builder
	for session := range g.sessions {
		notes.WriteString("+" + strconv.Itoa(session) + "\n")
	}
	proc, pipe, err := launch(nil, notes.String(), g.args...)
	if err != nil {
		return fmt.Errorf("start guard: %w", err)
	}
	g.proc, g.pipe, g.gone = proc, pipe, make(chan struct{})
	go g.watch(proc, pipe, g.gone)
	return nil
}

// watch waits for the end of a guard process. If nobody asked for it, it starts another at once, and
// leaves it to Check if that fails.
func (g *Guard) watch(proc *os.Process, pipe *os.File, gone chan struct{}) {
	defer close(gone)
	_, _ = proc.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	pipe.Close()
	g.proc, g.pipe = nil, nil
	if !g.closed {
		_ = g.spawn() // Check tries again and tells
	}
}

// Check returns nil if there is a guard process, after it has tried to start one if there was none.
func (g *Guard) Check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc != nil || g.closed {
		return nil
	}
	return g.spawn()
}

// PID returns the id of the guard process, 0 if there is none now.
func (g *Guard) PID() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc == nil {
		return 0
	}
	return g.proc.Pid
}

// Enter tells the guard of a session whose processes are to die with the worker; Leave that they are gone.
func (g *Guard) Enter(session int) error { return g.tell("+", session) }

// Leave is told once no process of the session is left, before its leader is reaped.
func (g *Guard) Leave(session int) error { return g.tell("-", session) }

func (g *Guard) tell(sign string, session int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if sign == "+" {
		g.sessions[session] = true
	} else {
		delete(g.sessions, session)
	}
	if g.pipe == nil {
		return nil // the next one will be told of all
	}
	return g.note(sign, session)
}

// note writes to the guard. One that does not read, because somebody stopped it, guards nothing: it is replaced.
func (g *Guard) note(sign string, session int) error {
	_ = g.pipe.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := io.WriteString(g.pipe, sign+strconv.Itoa(session)+"\n")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = g.proc.Kill()
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrProcessDone) {
		return nil // it has died, and its watch will start another
	}
	if err != nil {
		return fmt.Errorf("tell guard: %w", err)
	}
	return nil
}

// Close ends the guard process and waits for its end. The worker has left nothing by then.
func (g *Guard) Close() error {
	g.mu.Lock()
	g.closed = true
	gone, proc := g.gone, g.proc
	if g.pipe != nil {
		_ = g.pipe.SetWriteDeadline(time.Now().Add(closeTimeout))
		_, _ = io.WriteString(g.pipe, bye+"\n")
	}
	g.mu.Unlock()
	hung := time.NewTimer(closeTimeout)
	defer hung.Stop()
	select {
	case <-gone:
		return nil
	case <-hung.C:
	}
	// Somebody has stopped it. There is nothing left for it to do.
	if err := proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end guard: %w", err)
	}
	<-gone
	return nil
}

// launch starts this program as a guard, with notes in its pipe, and waits until it has said that it is there.
func launch(sys *syscall.SysProcAttr, notes string, args ...string) (*os.Process, *os.File, error) {
	stdin, pipe, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer stdin.Close()
	_ = pipe.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(pipe, notes); err != nil {
		pipe.Close()
		return nil, nil, err
	}
	ready, stdout, err := os.Pipe()
	if err != nil {
		pipe.Close()
		return nil, nil, err
	}
	defer ready.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		pipe.Close()
		stdout.Close()
		return nil, nil, err
	}
	defer null.Close()
	if sys == nil {
		sys = &syscall.SysProcAttr{}
	}
	// A Ctrl-C at the worker's terminal is not meant for it.
	sys.Setsid = true
	proc, err := os.StartProcess(self, append([]string{Argv0}, args...), &os.ProcAttr{
		Dir: "/", Env: environment, Files: []*os.File{stdin, stdout, null}, Sys: sys,
	})
	stdout.Close()
	if err != nil {
		pipe.Close()
		return nil, nil, err
	}
	_ = ready.SetReadDeadline(time.Now().Add(startTimeout))
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		_ = proc.Kill()
		state, _ := proc.Wait()
		pipe.Close()
		return nil, nil, fmt.Errorf("it did not get ready (%v): %w", state, err)
	}
	return proc, pipe, nil
}

// Probe starts a process that does nothing, with sys, waits until it runs, and hands it to check.
// It is ended afterwards if it still runs.
func Probe(sys *syscall.SysProcAttr, check func(*os.Process) error) error {
	proc, pipe, err := launch(sys, "", modeProbe)
	if err != nil {
		return fmt.Errorf("start a process: %w", err)
	}
	defer pipe.Close()
	err = check(proc)
	_ = proc.Kill()
	_, waitErr := proc.Wait()
	return errors.Join(err, waitErr)
}

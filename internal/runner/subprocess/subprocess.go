// Package subprocess is the runner that starts a command on the worker's own machine.
//
// It adds no shell. Everything that a run starts is ended with it, also what
// double-forked and left its session; how surely depends on the rung of the
// ladder that works on this machine, see Config.Ladder. What the worker leaves
// when it is killed is ended by a guard process, see package guard.
package subprocess

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// The rungs of the ladder, the best first.
const (
	// RungCgroup holds each run in a cgroup v2 directory: nothing gets out of it, and one write kills all of it.
	RungCgroup = "cgroup"
	// RungSubreaper makes this process the parent of whatever a run orphans, and finds its descendants by
	// parentage and by a mark in their environment. Best effort: what forks faster than it is
	// looked for, and what has shaken off parent, session, output and environment, stays.
	RungSubreaper = "subreaper"
	// RungGroup kills the process group: all there is on macOS. Best effort: what leaves the group stays.
	RungGroup = "group"
)

// Config is the worker's policy for commands. The zero value is a good default.
type Config struct {
	// Ladder forces a rung; "" is the best that works here. One that does not work is an error of New.
	Ladder string
	// WorkRoot is where the worker lays out workspaces. An absolute working directory is never allowed to be
	// inside of it: it would be another run's.
	WorkRoot string
	// AllowWorkdir lists the absolute directories in and under which an absolute working_directory is allowed (E13).
	AllowWorkdir []string
	// PassEnv adds globs of names that every job gets from the worker's environment. DenyEnv takes names away from
	// that, also those that an invocation asks to pass. Globs are matched without regard to case (T24).
	PassEnv, DenyEnv []string
	// Environ is the environment that is passed from, as os.Environ gives it; nil is this process's own when New is called.
	Environ []string
	// WaitDelay bounds the wait for the end of the output after everything of the run has been killed:
	// something outside of the run may hold the pipe. What is in the pipe by then is still read. 0 is 2 s.
	WaitDelay time.Duration
}

// Runner runs commands. Close it after the last run.
type Runner struct {
	cfg  Config
	env  environment
	rung rung
	// why says for every better rung why it does not work here.
	why   map[string]error
	null  *os.File // open on the null device, shared by all runs without input
	close sync.Once
	err   error
}

// New finds the best rung that works here and starts the guard. It marks every file descriptor that this
// process inherited as not to be inherited further.
func New(cfg Config) (*Runner, error) {
	for _, dir := range cfg.AllowWorkdir {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("allowed working directory %q: must be an absolute path", dir)
		}
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.WaitDelay == 0 {
		cfg.WaitDelay = 2 * time.Second
	}
	env, err := newEnvironment(cfg)
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	rung, why, err := climb(cfg.Ladder)
	if err != nil {
		return nil, errors.Join(err, null.Close())
	}
	return &Runner{cfg: cfg, env: env, rung: rung, why: why, null: null}, nil
}

// Capabilities says which rung holds the runs, "subprocess.kill", and under "subprocess.kill.RUNG" why not a better one.
func (r *Runner) Capabilities() map[string]string {
	found := map[string]string{"subprocess.kill": r.rung.describe()}
	for name, err := range r.why {
		found["subprocess.kill."+name] = err.Error()
	}
	return found
}

// Close ends the guard and removes what the rung made. It may be called twice.
func (r *Runner) Close() error {
	r.close.Do(func() { r.err = errors.Join(r.rung.close(), r.null.Close()) })
	return r.err
}

// Check that the optional interfaces are kept.
var (
	_ runner.Capable = (*Runner)(nil)
	_ io.Closer      = (*Runner)(nil)
)

// miss is the outcome of a command that could not be started (E22, S12, T6).
func miss(code int, reason contracts.Reason, format string, a ...any) contracts.Outcome {
	return contracts.Outcome{
		Status: contracts.StatusFailed, Reason: reason, ExitCode: &code, Error: fmt.Sprintf(format, a...),
	}
}

//go:build linux || darwin

package subprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/pipe"
)

// Run starts the command and returns when nothing of it is left. See runner.Runner.
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("run subprocess: %w", context.Cause(ctx))
	}
	if err := check(job); err != nil {
		return contracts.Outcome{}, err
	}
	env, err := r.env.of(job)
	if err != nil {
		return contracts.Outcome{}, err
	}
	dir, err := r.workdir(job)
	if err != nil {
		return contracts.Outcome{}, err
	}
	path, missed := lookup(job.Command[0], dir, env.path())
	if missed != nil {
		return *missed, nil
	}
	outcome, err := r.run(ctx, job, out, path, dir, env)
	if err != nil && !errors.Is(err, runner.ErrRejected) {
		err = fmt.Errorf("run subprocess: %w", err)
	}
	return outcome, err
}

// check refuses what no exec can take. A valid invocation has none of it.
func check(job runner.Job) error {
	if len(job.Command) == 0 || job.Command[0] == "" {
		return runner.Reject(contracts.ReasonBadInvocation, "command: must not be empty for kind subprocess") // T1
	}
	for i, arg := range job.Command {
		if strings.ContainsRune(arg, 0) {
			return runner.Reject(contracts.ReasonBadInvocation, "command[%d]: must not hold a NUL byte", i)
		}
	}
	if !filepath.IsAbs(job.Dir) {
		return fmt.Errorf("workspace %q: must be an absolute path", job.Dir)
	}
	return nil
}

// process is one run from its start to its end.
type process struct {
	hold     hold
	steps    []runner.StopStep
	stopping *runner.Stopping // it has exited when the leader has
	leader   *os.Process
	ends     []*os.File // ours, of the output pipes
	output   pipe.Output

	// Written by what stops the run, read once it has exited.
	sent   []string // the signals that were sent
	count  int      // the processes that there were then
	endErr error
}

func (r *Runner) run(ctx context.Context, job runner.Job, out runner.Sink, path, dir string, env variables) (contracts.Outcome, error) {
	hold, err := r.rung.hold()
	if err != nil {
		return contracts.Outcome{}, err
	}
	p := &process{hold: hold, steps: runner.StopOrder(job.Stop)}
	p.stopping = runner.NewStopping(p.stop)
	feed, missed, err := p.start(job, path, dir, env, r.null)
	if err != nil {
		return contracts.Outcome{}, errors.Join(err, hold.release())
	}
	if missed != nil {
		return tidied(*missed, hold.release()), nil
	}

	p.stopping.Watch(ctx)
	for i, stream := range []contracts.Stream{contracts.Stdout, contracts.Stderr} {
		p.output.Pump(p.ends[i], out.Stream(stream, contracts.PhaseMain), p.stopping)
	}
	fed := p.feed(feed, job.Stdin)

	exitErr := waitExit(p.leader.Pid)
	p.stopping.Exited()
	left, killErr := p.sweep()
	// Only now that nothing is signalled any more may the leader's number be given to another.
	releaseErr := hold.settled()
	state, waitErr := p.leader.Wait()
	releaseErr = errors.Join(releaseErr, hold.release())
	fed(r.cfg.WaitDelay)
	p.output.Drain(r.cfg.WaitDelay)

	outcome := tidied(p.outcome(state, left), releaseErr)
	return outcome, errors.Join(p.stopping.Why(ctx), exitErr, p.endErr, killErr, waitErr)
}

// start starts the leader. feed is our end of its input, nil where it needs no feeding.
func (p *process) start(job runner.Job, path, dir string, env variables, null *os.File) (feed *os.File, missed *contracts.Outcome, err error) {
	var ours, theirs []*os.File
	defer func() {
		for _, file := range theirs {
			file.Close()
		}
		if p.leader == nil {
			for _, file := range ours {
				file.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			err = fmt.Errorf("open pipe: %w", err)
		}
		return r, w, err
	}

	files := []*os.File{null, nil, nil}
	if file, ok := job.Stdin.(*os.File); ok {
		files[0] = file
	} else if job.Stdin != nil {
		r, w, err := pipe()
		if err != nil {
			return nil, nil, err
		}
		files[0], feed = r, w
		theirs, ours = append(theirs, r), append(ours, w)
	}
	for i := 1; i <= 2; i++ {
		r, w, err := pipe()
		if err != nil {
			return nil, nil, err
		}
		files[i] = w
		p.ends = append(p.ends, r)
		theirs, ours = append(theirs, w), append(ours, r)
	}

	sys := &syscall.SysProcAttr{Setsid: true} // E18
	p.hold.prepare(sys, env)
	attr := &os.ProcAttr{Dir: dir, Env: env.list(), Files: files, Sys: sys}
	p.leader, err = startProcess(path, job.Command, attr)
	if h, ok := p.hold.(removable); err != nil && ok && h.removed() {
		return nil, nil, fmt.Errorf("start: somebody has removed the cgroup of the run: %w", err)
	}
	if err != nil {
		missed, err = diagnose(err, path, dir)
		return nil, missed, err
	}
	if err := p.hold.started(p.leader.Pid, p.ends); err != nil {
		return nil, nil, errors.Join(err, p.abandon(ours))
	}
	return feed, nil, nil
}

// abandon ends a run that has begun and cannot be gone on with.
func (p *process) abandon(files []*os.File) error {
	_, err := p.hold.kill()
	_ = p.leader.Kill()
	err = errors.Join(err, p.hold.settled())
	_, waitErr := p.leader.Wait()
	err = errors.Join(err, waitErr)
	for _, file := range files {
		file.Close()
	}
	return err
}

// startProcess is os.StartProcess, tried again for as long as the file is open for
// writing: a script that was just written may still be open in a child that another
// goroutine is starting, for the moment between its fork and its exec.
func startProcess(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	wait := time.Millisecond
	for {
		leader, err := os.StartProcess(path, argv, attr)
		if !errors.Is(err, syscall.ETXTBSY) || wait > 100*time.Millisecond {
			return leader, err
		}
		<-time.After(wait)
		wait *= 2
	}
}

// diagnose tells what the job did wrong (an outcome) from what we could not do (an error).
func diagnose(err error, path, dir string) (*contracts.Outcome, error) {
	var errno syscall.Errno
	errors.As(err, &errno)
	if _, statErr := os.Stat(dir); statErr != nil {
		// It was there when it was looked up: somebody else has removed it since.
		return nil, fmt.Errorf("start: working directory: %w", statErr)
	}
	notExecutable := []syscall.Errno{
		syscall.EACCES, syscall.EPERM, syscall.ENOEXEC, syscall.ETXTBSY, syscall.E2BIG, syscall.EINVAL,
		syscall.ELOOP, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.EISDIR,
	}
	var outcome contracts.Outcome
	switch {
	case errno == syscall.ENOENT:
		// The file was there a moment ago: what is missing is the program named in its first line, or its loader.
		outcome = miss(126, contracts.ReasonNotExecutable, "cannot execute %s: its interpreter does not exist", path)
	case slices.Contains(notExecutable, errno):
		outcome = miss(126, contracts.ReasonNotExecutable, "cannot execute %s: %v", path, errno)
	default:
		return nil, fmt.Errorf("start: %w", err)
	}
	return &outcome, nil
}

// sweep kills what the leader left behind. In most runs there is nothing.
func (p *process) sweep() (left int, err error) {
	empty, err := p.hold.empty()
	if empty || err != nil {
		return 0, err
	}
	return p.hold.kill()
}

// outcome says how the leader ended, and what had to be ended besides.
func (p *process) outcome(state *os.ProcessState, left int) contracts.Outcome {
	var outcome contracts.Outcome
	if state != nil {
		switch status := state.Sys().(syscall.WaitStatus); {
		case status.Signaled(): // E17
			outcome.Status, outcome.Reason, outcome.ExitCode = contracts.StatusFailed, contracts.ReasonSignal, new(-int(status.Signal()))
		case status.ExitStatus() != 0:
			outcome.Status, outcome.Reason, outcome.ExitCode = contracts.StatusFailed, contracts.ReasonExit, new(status.ExitStatus())
		default:
			outcome.Status, outcome.ExitCode = contracts.StatusSucceeded, new(0)
		}
	}
	var killed []string
	if len(p.sent) > 0 && p.count > 0 {
		killed = append(killed, processes(p.count)+" ("+strings.Join(p.sent, ", then ")+")")
	}
	if left > 0 {
		killed = append(killed, processes(left)+" left behind (KILL)")
	}
	outcome.Killed = strings.Join(killed, "; ")
	return outcome
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

// tidied adds a warning if the hold of a run could not be given back. Nothing of the run is left
// then: it is the worker's concern, and no reason to run the job again.
func tidied(outcome contracts.Outcome, err error) contracts.Outcome {
	if err != nil {
		outcome.Warnings = append(outcome.Warnings, "tidy up after the run: "+err.Error())
	}
	return outcome
}

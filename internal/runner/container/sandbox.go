package container

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// Exchange brings the commands of callers to the sandboxes that are open.
type Exchange interface {
	// Serve has the calls to a sandbox come to server until stop is called, which ends the commands under way and returns when
	// their outcomes are said.
	Serve(tenant, id string, server contracts.SandboxServer) (stop func(), err error)
}

// Resumes reports whether a lost run matters to the next one: that of a sandbox does, which must not begin again with
// empty files as if nothing had been.
func (r *Runner) Resumes(inv contracts.Invocation) bool { return sandboxed(inv) }

func sandboxed(inv contracts.Invocation) bool {
	return inv.Container != nil && inv.Container.Sandbox != nil
}

// lostSandbox is the outcome of a sandbox whose worker is gone.
func lostSandbox() contracts.Outcome {
	return failed(contracts.ReasonInfra, "the sandbox was lost with its worker, and its files with it: open another")
}

// sandbox opens one, and stays until it ends; the caller removes the container. Once it has noted that it is open, what ends it
// is never an error for which another worker would begin again.
func (r *Runner) sandbox(ctx context.Context, job runner.Job, s *spec, e *engine, out runner.Sink) (contracts.Outcome, error) {
	id, warnings, missed, err := r.create(ctx, job, s)
	if missed != nil || err != nil {
		return outcomeOf(missed), interrupted(ctx, err)
	}
	volume := r.near(ctx, id, e)
	session, missed, err := r.session(ctx, job, s, id, e)
	if missed != nil || err != nil {
		return outcomeOf(missed), interrupted(ctx, err)
	}
	defer session.Close()
	if k, ok := out.(runner.Keeper); ok {
		if err := k.Save(ctx, []byte("open")); err != nil {
			return contracts.Outcome{}, interrupted(ctx, err)
		}
	}
	within, done := r.withinDisk(ctx, s, volume, r.upper(ctx, id, s, e))
	defer done()
	b := newBox(job, s, session)
	r.boxes.Add(1)
	defer r.boxes.Add(-1)
	stop, err := r.cfg.Sandboxes.Serve(job.Tenant, job.ID, b)
	if err != nil {
		return failed(contracts.ReasonInfra, "serve commands: %v", err), nil
	}
	outcome, err := b.live(within)
	b.note(outcome, err)
	if outcome.Reason == contracts.ReasonDisk {
		session.Close() // it would go on in the time that it has to stop
	}
	b.end(stop)
	if outcome.Reason == reasonGone {
		outcome = r.gone(ctx, id, session.Err())
	}
	outcome.Warnings = append(warnings, r.collect(ctx, job, &outcome, r.fetched(id, volume))...)
	return outcome, err
}

// session starts the container and returns the way to the agent in it, with the directories of the work made.
func (r *Runner) session(ctx context.Context, job runner.Job, s *spec, id string, e *engine) (*agent.Session, *contracts.Outcome, error) {
	// It is static, and whatever the image is made for, it is the engine's machine that runs it.
	program, err := agent.Program(architecture(e))
	if err != nil {
		return nil, nil, runner.Reject(contracts.ReasonNoRunner, "container.sandbox: %v", err)
	}
	call, cancel := bounded(ctx)
	defer cancel()
	session, err := r.enter(call, id, program)
	if err == nil {
		if err = furnished(call, session, job, s); err == nil {
			r.direct(call, session, id)
			return session, nil, nil
		}
		session.Close()
	}
	if call.Err() != nil || client.IsErrConnectionFailed(err) {
		return nil, nil, err
	}
	if errors.Is(err, agent.ErrOver) {
		// It would end so again.
		if o := r.gone(ctx, id, err); r.Available() {
			return nil, &o, nil
		}
	}
	if missed := r.unstarted(ctx, s, id, err); missed != nil {
		return nil, missed, nil
	}
	return nil, nil, err
}

// architecture returns what an agent must be made for.
func architecture(e *engine) (os, arch string) {
	arch = e.info.Architecture
	if name, ok := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]; ok { // as the kernel says it
		arch = name
	}
	return e.info.OSType, arch
}

// furnished makes the directories of the work.
func furnished(ctx context.Context, session *agent.Session, job runner.Job, s *spec) error {
	who := owned(user(job.Container))
	err := session.Wipe(ctx, agent.Owner{UID: uint32(who.uid), GID: uint32(who.gid)})
	if err == nil && len(s.dirs) > 0 {
		err = session.Put(ctx, directories(s.dirs, who))
	}
	return err
}

// directories packs directories of the workspace, and nothing else.
func directories(dirs []string, who ids) *bytes.Buffer {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range dirs {
		name := path.Join(frame.Workspace, filepath.ToSlash(d)) + "/"
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700, Uid: who.uid, Gid: who.gid, Format: tar.FormatPAX})
	}
	_ = w.Close() // neither fails on a buffer
	return &out
}

// gone says why a container ended by itself.
func (r *Runner) gone(ctx context.Context, id string, why error) contracts.Outcome {
	switch oom, err := r.starved(ctx, id); {
	case err != nil:
		return failed(contracts.ReasonInfra, "the sandbox ended with its engine: %v", err)
	case oom:
		return failed(contracts.ReasonOOM, "the sandbox itself was killed, and memory had run out in it: it may have more in container.memory_bytes")
	}
	return failed(contracts.ReasonInfra, "the sandbox ended by itself: %v", why)
}

// box is an open sandbox.
type box struct {
	job     runner.Job
	dir     string // where commands start
	session *agent.Session
	idle    time.Duration
	wait    time.Duration
	turn    chan struct{} // held by the command that runs
	over    chan struct{} // closed when it ends
	asked   chan struct{} // closed when it is to be closed
	ask     func()

	mu    sync.Mutex
	users int       // commands that run or wait
	used  time.Time // when there was one last
	began time.Time // when the one that runs did
	why   string    // it ended, for people; "" is that it was closed, or nobody can tell yet
}

var _ contracts.SandboxServer = (*box)(nil)

// reasonGone stands for an end that is looked into. No outcome has it.
const reasonGone contracts.Reason = "gone"

func newBox(job runner.Job, s *spec, session *agent.Session) *box {
	b := &box{
		job: job, dir: s.dir, session: session, idle: contracts.SandboxIdleSeconds * time.Second, wait: contracts.SandboxWaitSeconds * time.Second,
		turn: make(chan struct{}, 1), over: make(chan struct{}), asked: make(chan struct{}), used: time.Now(),
	}
	if set := job.Container.Sandbox; set.IdleSeconds > 0 {
		b.idle = seconds(set.IdleSeconds)
	}
	if set := job.Container.Sandbox; set.WaitSeconds > 0 {
		b.wait = seconds(set.WaitSeconds)
	}
	b.ask = sync.OnceFunc(func() { close(b.asked) })
	return b
}

// live waits for whatever ends the sandbox.
func (b *box) live(ctx context.Context) (contracts.Outcome, error) {
	total := time.NewTimer(contracts.SandboxTimeoutSeconds * time.Second)
	defer total.Stop()
	if b.job.TimeoutSeconds > 0 {
		total.Stop() // the caller's to see to, who ends ctx
	}
	idle := time.NewTimer(b.idle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			var over *overDisk
			if errors.As(context.Cause(ctx), &over) {
				return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonDisk, Error: over.Error(), Killed: "1 container"}, nil
			}
			if errors.Is(context.Cause(ctx), runner.ErrStopped) {
				return lostSandbox(), nil // nobody goes on with it, so this is the last word, and its artifacts are kept
			}
			return contracts.Outcome{Killed: "1 container"}, context.Cause(ctx)
		case <-b.session.Done():
			return failed(reasonGone, ""), nil
		case <-b.asked:
			return contracts.Outcome{Status: contracts.StatusSucceeded}, nil
		case <-total.C:
			return contracts.Outcome{Status: contracts.StatusTimedOut, Reason: contracts.ReasonTimeout, Killed: "1 container",
				Error: fmt.Sprintf("sandbox exceeded %d seconds, which is what it has without timeout_seconds", contracts.SandboxTimeoutSeconds)}, nil
		case <-idle.C:
			left := b.idleFor()
			if left <= 0 {
				return contracts.Outcome{Status: contracts.StatusTimedOut, Reason: contracts.ReasonIdleTimeout, Killed: "1 container",
					Error: fmt.Sprintf("no command ran in the sandbox for %v seconds", b.idle.Seconds())}, nil
			}
			idle.Reset(left)
		}
	}
}

// idleFor returns how much longer it may be idle.
func (b *box) idleFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users > 0 {
		return b.idle
	}
	return b.idle - time.Since(b.used)
}

// note keeps why the sandbox ends, for the commands that end with it: its result is there only once its files are.
func (b *box) note(o contracts.Outcome, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		b.why = ": " + err.Error()
	case o.Error != "":
		b.why = fmt.Sprintf(": %s/%s: %s", o.Status, o.Reason, o.Error)
	}
}

// ended says that the sandbox has ended, and why.
func (b *box) ended(and string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "the sandbox has ended" + and + b.why
}

// end ends the commands, in the order of their stop as far as there is time, and then all that is in the container.
func (b *box) end(stop func()) {
	close(b.over)
	late := time.AfterFunc(orderTime(runner.StopOrder(b.job.Stop)), func() { b.session.Close() })
	defer late.Stop()
	stop()
	b.session.Close()
}

// Close has the sandbox end.
func (b *box) Close() { b.ask() }

// Exec runs a command once it has its turn.
func (b *box) Exec(ctx context.Context, w contracts.SandboxWork) contracts.SandboxOutcome {
	b.mu.Lock()
	b.users++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.users--
		b.used = time.Now()
		b.mu.Unlock()
	}()
	if refused := b.take(ctx); refused != nil {
		return *refused
	}
	defer func() { <-b.turn }()
	if t := w.Call.TimeoutSeconds; t > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, seconds(t), runner.ErrTimeout)
		defer cancel()
		ctx = limited
	}
	command := b.command(w)
	defer hush(ctx, w, orderTime(command.Stop)+hushAfter)()
	exit, err := b.session.Run(ctx, command, w.Stdout, w.Stderr)
	return b.outcome(ctx, w.Call, exit, err)
}

// hushAfter is how long the output of a command that was stopped, and must have ended, may take to be taken. The agent is given
// four times as long to say that it ended, and that may stand behind the output.
const hushAfter = 2 * time.Second

// hush fails the output of a command some time after ctx has ended, unless it has ended by then.
func hush(ctx context.Context, w contracts.SandboxWork, after time.Duration) (ended func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		late := time.NewTimer(after)
		defer late.Stop()
		select {
		case <-over:
		case <-late.C:
			w.Hush()
		}
	})
	return func() {
		stop()
		close(over)
	}
}

// orderTime is how long a stop order may take.
func orderTime(steps []runner.StopStep) (all time.Duration) {
	for _, step := range steps {
		all += step.Wait
	}
	return all
}

// take waits for the command's turn.
func (b *box) take(ctx context.Context) *contracts.SandboxOutcome {
	refuse := func(status contracts.Status, reason contracts.Reason, format string, a ...any) *contracts.SandboxOutcome {
		return &contracts.SandboxOutcome{Status: status, Reason: reason, Error: fmt.Sprintf(format, a...)}
	}
	late := time.NewTimer(b.wait)
	defer late.Stop()
	select {
	case b.turn <- struct{}{}:
	case <-late.C:
		b.mu.Lock()
		running := time.Since(b.began)
		b.mu.Unlock()
		return refuse(contracts.StatusRejected, contracts.ReasonBusy, "another command has been running for %s", running.Round(time.Millisecond))
	case <-ctx.Done():
	}
	select {
	case <-b.over:
		return refuse(contracts.StatusRejected, contracts.ReasonClosed, "%s", b.ended(""))
	default:
	}
	if ctx.Err() != nil {
		return refuse(contracts.StatusCancelled, contracts.ReasonCancelled, "%v", context.Cause(ctx))
	}
	b.mu.Lock()
	b.began = time.Now()
	b.mu.Unlock()
	return nil
}

// command is what the agent is asked to run.
func (b *box) command(w contracts.SandboxWork) agent.Command {
	job := b.job
	job.Environment = maps.Clone(job.Environment)
	if job.Environment == nil {
		job.Environment = map[string]string{}
	}
	maps.Copy(job.Environment, w.Call.Environment)
	who := owned(user(job.Container))
	c := agent.Command{Args: w.Call.Command, Env: environment(job), Dir: b.dir, UID: uint32(who.uid), GID: uint32(who.gid)}
	switch dir := w.Call.WorkingDirectory; {
	case path.IsAbs(dir):
		c.Dir = path.Clean(dir)
	case dir != "":
		c.Dir = path.Join(contracts.ContainerWorkspace, dir)
	}
	if len(w.Call.Data) > 0 || w.Call.More {
		c.Stdin = w.Stdin
	}
	stop := w.Call.Stop
	if stop == nil {
		stop = job.Stop
	}
	c.Stop = runner.StopOrder(stop)
	return c
}

// seconds turns a number that is valid, so below what fits, into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// outcome is how a command ended, and whose doing that was.
func (b *box) outcome(ctx context.Context, call contracts.SandboxCall, exit agent.Exit, err error) contracts.SandboxOutcome {
	ran := exited(exit)
	o := contracts.SandboxOutcome{
		Status: ran.Status, Reason: ran.Reason, ExitCode: ran.ExitCode, Error: ran.Error, Killed: killedBy("1 command", exit.Sent),
	}
	over := errors.Is(err, agent.ErrOver)
	if over {
		o.ExitCode = nil // nobody can tell
	}
	select {
	case <-b.over:
		over = over || err != nil
	default:
	}
	switch {
	case err == nil:
		return o
	case over:
		o.Status, o.Reason, o.Error = contracts.StatusFailed, contracts.ReasonClosed, b.ended(", and the command with it")
	case errors.Is(context.Cause(ctx), runner.ErrTimeout):
		o.Status, o.Reason, o.Error = contracts.StatusTimedOut, contracts.ReasonTimeout, fmt.Sprintf("command exceeded timeout of %v seconds", call.TimeoutSeconds)
	case ctx.Err() != nil:
		o.Status, o.Reason, o.Error = contracts.StatusCancelled, contracts.ReasonCancelled, context.Cause(ctx).Error()
	default:
		o.Status, o.Reason, o.Error = contracts.StatusFailed, contracts.ReasonInfra, err.Error()
	}
	return o
}

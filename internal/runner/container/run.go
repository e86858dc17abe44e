package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// Run runs the command in a fresh container, or in a warm one where that is asked for and there is one, and returns when
// nothing of it is left. See runner.Runner.
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("run container: %w", context.Cause(ctx))
	}
	e, err := r.known()
	if err != nil {
		return contracts.Outcome{}, err
	}
	if sandboxed(job.Invocation) && job.Resume != nil {
		return lostSandbox(), nil
	}
	s, err := r.spec(job, e)
	if err != nil {
		return contracts.Outcome{}, err
	}
	prepare, err := r.setup(job, e)
	if err != nil {
		return contracts.Outcome{}, err
	}
	seen := r.pool.sees(job)
	if !seen {
		if missed, err := r.image(ctx, job, out); missed != nil || err != nil {
			return outcomeOf(missed), err
		}
	}
	var told contracts.Outcome
	if prepare != nil {
		image, o, err := r.setUp(ctx, prepare, out)
		if err != nil && !errors.Is(err, runner.ErrRejected) {
			err = fmt.Errorf("run container: %w", err)
		}
		if image == "" || err != nil {
			return o, err
		}
		s.config.Image, s.platform, s.kept, told = image, nil, true, o
	}
	if job.Container.Warm {
		outcome, why, err := r.warm(ctx, job, s, out)
		outcome.Metadata, outcome.Warnings = tell(outcome.Metadata, told.Metadata), append(told.Warnings, outcome.Warnings...)
		if why == "" {
			return outcome, err
		}
		told.Metadata = tell(told.Metadata, map[string]string{metaWarm: "miss: " + why})
		if seen { // a while ago
			if missed, err := r.image(ctx, job, out); missed != nil || err != nil {
				return outcomeOf(missed), err
			}
		}
	}
	r.owns(s.name)
	work := r.fresh
	if sandboxed(job.Invocation) {
		work = r.sandbox
	}
	outcome, err := work(ctx, job, s, e, out)
	outcome.Metadata, outcome.Warnings = tell(outcome.Metadata, told.Metadata), append(told.Warnings, outcome.Warnings...)
	removeErr := r.remove(ctx, s.name)
	r.settled(s.name, removeErr == nil)
	if removeErr != nil && err == nil {
		// The run has ended; what is left of it holds disk and a name, and goes with the next sweep.
		outcome.Warnings = append(outcome.Warnings, removeErr.Error())
	}
	if err != nil && !errors.Is(err, runner.ErrRejected) {
		err = fmt.Errorf("run container: %w", err)
	}
	return outcome, err
}

func outcomeOf(o *contracts.Outcome) contracts.Outcome {
	if o == nil {
		return contracts.Outcome{}
	}
	return *o
}

// errSlow is the cause of a context that ended because the engine took too long over one call.
var errSlow = errors.New("the engine does not come back")

// bounded returns a context for one call.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, callWithin, errSlow)
}

// fresh makes, runs and looks at a container; the caller removes it. The order loses nothing: attached before it is
// started, waited for before it can end.
func (r *Runner) fresh(ctx context.Context, job runner.Job, s *spec, e *engine, out runner.Sink) (contracts.Outcome, error) {
	id, warnings, missed, err := r.create(ctx, job, s)
	if missed != nil || err != nil {
		return outcomeOf(missed), interrupted(ctx, err)
	}
	volume, upper := r.near(ctx, id, e), r.upper(ctx, id, s, e)
	if !furnish(volume, job.Dir, s) {
		if err := r.send(ctx, id, job.Dir, s); err != nil {
			return contracts.Outcome{}, interrupted(ctx, err)
		}
	}
	p, missed, err := r.start(ctx, job, s, id, out)
	if missed != nil || err != nil {
		return outcomeOf(missed), interrupted(ctx, err)
	}
	p.watchDisk(s, volume, upper)
	where := r.published(ctx, s, id)
	outcome, err := p.end(ctx)
	if p.lost {
		return outcome, err
	}
	warnings = append(warnings, r.collect(ctx, job, &outcome, r.fetched(id, volume))...)
	outcome.Warnings = append(warnings, outcome.Warnings...)
	outcome.Metadata = tell(outcome.Metadata, where)
	return outcome, err
}

// tell adds to metadata, which may be nil.
func tell(metadata, more map[string]string) map[string]string {
	if len(more) == 0 {
		return metadata
	}
	if metadata == nil {
		metadata = map[string]string{}
	}
	maps.Copy(metadata, more)
	return metadata
}

// interrupted returns the cause of a context that ended in place of what a call made of it.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// create makes the container. An image that has gone since it was looked at is pulled again by the next attempt.
func (r *Runner) create(ctx context.Context, job runner.Job, s *spec) (id string, warnings []string, missed *contracts.Outcome, err error) {
	// Not ended with ctx: an engine goes on with what was asked for, and would make it after it was removed.
	call, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	made, err := r.api.ContainerCreate(call, &s.config, &s.host, nil, s.platform, s.name)
	switch {
	case err == nil:
		return made.ID, made.Warnings, nil, nil
	case client.IsErrConnectionFailed(err) || call.Err() != nil:
		return "", nil, nil, r.asked("create", err)
	case errdefs.IsInvalidArgument(err):
		// The engine's own words: no command in the image, a place that cannot be mounted on.
		return "", nil, nil, runner.Reject(contracts.ReasonBadInvocation, "the engine refuses the container: %v", err)
	case errdefs.IsNotFound(err) && !s.kept:
		o := failed(contracts.ReasonImage, "image %s: %v", job.Container.Image, err)
		return "", nil, &o, nil
	}
	return "", nil, nil, r.asked("create", err)
}

// start attaches to the container, waits for its end and starts it.
func (r *Runner) start(ctx context.Context, job runner.Job, s *spec, id string, out runner.Sink) (*process, *contracts.Outcome, error) {
	call, cancel := bounded(ctx)
	defer cancel()
	// What is attached and waited for outlives ctx: a stopped run is still read to its end.
	life, endLife := context.WithCancel(context.WithoutCancel(ctx))
	conn, err := r.api.ContainerAttach(call, id, container.AttachOptions{
		Stream: true, Stdin: job.Stdin != nil, Stdout: true, Stderr: true,
	})
	if err != nil {
		endLife()
		return nil, nil, r.asked("attach", err)
	}
	exits, fails := r.api.ContainerWait(life, id, container.WaitConditionNextExit)
	p := &process{
		r: r, id: id, job: job, conn: conn, endLife: endLife, exits: exits, fails: fails,
		steps: runner.StopOrder(job.Stop), out: out,
	}
	p.stopping = runner.NewStopping(p.stop)
	if err := r.api.ContainerStart(call, id, container.StartOptions{}); err != nil {
		conn.Close()
		endLife()
		if call.Err() == nil && !client.IsErrConnectionFailed(err) {
			if missed := r.unstarted(ctx, s, id, err); missed != nil {
				return nil, missed, nil
			}
		}
		return nil, nil, r.asked("start", err)
	}
	p.pump()
	return p, nil, nil
}

// unstarted tells what the work did wrong from what the engine could not do.
func (r *Runner) unstarted(ctx context.Context, s *spec, id string, err error) *contracts.Outcome {
	command := s.config.Image
	call, cancel := bounded(ctx)
	defer cancel()
	if info, err := r.api.ContainerInspect(call, id); err == nil {
		command = info.Path
	}
	if missed := refused(err, command); missed != nil {
		return missed
	}
	text := err.Error()
	if has(text, "unable to find user", "unable to find group", "no matching entries in passwd file", "no matching entries in group file") {
		o := failed(contracts.ReasonNotExecutable, "user %s: %v", s.config.User, err)
		o.ExitCode = new(notExecutable)
		return &o
	}
	return nil
}

// published asks where the ports are. The work runs already: that it is not known is no reason to end it.
func (r *Runner) published(ctx context.Context, s *spec, id string) map[string]string {
	if len(s.host.PortBindings) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	info, err := r.api.ContainerInspect(ctx, id)
	if err != nil || info.NetworkSettings == nil {
		return nil
	}
	return addresses(info.NetworkSettings.Ports)
}

// fetched returns what takes a directory out of a container, with its volume if that is near.
func (r *Runner) fetched(id, volume string) func(ctx context.Context, from, to string) ([]string, error) {
	return func(ctx context.Context, from, to string) ([]string, error) {
		if leftNothing(volume, from) {
			return nil, nil
		}
		return r.fetch(ctx, id, from, to)
	}
}

// collect takes what the work left out of the container: fetch takes one directory, and returns what it refused.
func (r *Runner) collect(ctx context.Context, job runner.Job, o *contracts.Outcome, fetch func(ctx context.Context, from, to string) ([]string, error)) (warnings []string) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*callWithin)
	defer cancel()
	// A run that is stopped gets what it left so far, if that is soon done.
	hurry := context.AfterFunc(ctx, func() {
		late := time.AfterFunc(lastFiles, cancel)
		context.AfterFunc(call, func() { late.Stop() })
	})
	defer hurry()
	places := []struct{ from, to string }{{contracts.ContainerArtifacts, job.Artifacts}}
	if len(job.ArtifactGlobs) > 0 {
		places = append(places, struct{ from, to string }{contracts.ContainerWorkspace, job.Dir})
	}
	for _, p := range places {
		if p.to == "" {
			continue
		}
		refused, err := fetch(call, p.from, p.to)
		warnings = append(warnings, refused...)
		switch {
		case err == nil || errdefs.IsNotFound(err): // the work removed the directory itself
		case o.Status == contracts.StatusSucceeded:
			o.Status, o.Reason = contracts.StatusFailed, contracts.ReasonArtifacts
			o.Error = fmt.Sprintf("the work ended well, its files could not be kept: %v", err)
		default:
			warnings = append(warnings, fmt.Sprintf("files were not kept: %v", err))
		}
	}
	return warnings
}

// All of a stop must be over within the 30 s that a worker gives a runner beyond the work's own grace.
const (
	signalWithin = 3 * time.Second  // one signal
	stopWithin   = 8 * time.Second  // from a kill to the end that the engine tells of
	lastFiles    = 5 * time.Second  // the files of a run that was stopped
	removeWithin = 10 * time.Second // the container
	goneWithin   = 4 * time.Second  // how long an engine that has gone is waited for with it
)

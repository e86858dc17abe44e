package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// What a result's metadata says of the setup.
const (
	metaSetupCode   = "container.setup.exit_code"
	metaSetupCached = "container.setup.cached"
)

// setup is what is done to the image of a job before its command runs: an execution of its own, in a container of its own (S7–S9).
type setup struct {
	job  runner.Job
	spec *spec
}

// setup returns the setup of a job as the engine is asked for it, nil where there is none. It is under the policy of the
// command, and sees nothing of what is the job's alone: who has the same setup later has none of it.
func (r *Runner) setup(job runner.Job, e *engine) (*setup, error) {
	c := job.Container
	if c.Setup == nil {
		return nil, nil
	}
	of := *c.Setup
	job.Container = &contracts.Container{
		Image: c.Image, Platform: c.Platform, Entrypoint: of.Command, User: of.User, Network: of.Network, WritableRoot: true,
		MemoryBytes: c.MemoryBytes, CPUs: c.CPUs, PIDs: c.PIDs, DiskBytes: c.DiskBytes, Tmpfs: c.Tmpfs, Setup: &of,
	}
	if of.User == "" {
		job.Container.User = "0:0"
	}
	job.Command, job.Stdin, job.WorkingDirectory, job.Run = nil, nil, "", contracts.NewRun()
	s, err := r.spec(job, e)
	if err != nil {
		return nil, err
	}
	s.name = "runnel-setup-" + job.Run
	s.config.Env, s.config.WorkingDir, s.host.Mounts = nil, "", nil
	for name, value := range of.Environment {
		s.config.Env = append(s.config.Env, name+"="+value)
	}
	slices.Sort(s.config.Env)
	s.disk = min(s.disk, r.cfg.MaxSetupBytes)
	return &setup{job: job, spec: s}, nil
}

// digest names what a setup of a tenant makes of an image.
func (r *Runner) digest(p *setup, image string) (string, error) {
	of := p.job.Container
	data, err := json.Marshal(struct {
		Version                             int
		Host, Root, Tenant, Image, Platform string
		Command                             []string
		Environment                         map[string]string
		User, Network                       string
		Tmpfs                               []contracts.Tmpfs
	}{1, r.owner.host, r.owner.root(), p.job.Tenant, image, of.Platform, of.Setup.Command, of.Setup.Environment, of.User, string(p.spec.host.NetworkMode), of.Tmpfs})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// made is a setup under way, shared by the jobs that want it.
type made struct {
	backlog *backlog

	// Once it is done:
	image    string // what came of it
	cached   bool   // another did it since it was looked for
	outcome  contracts.Outcome
	warnings []string // of the engine
	err      error    // nobody can say how it ended
}

// errSetupSlow is the cause of a context that ended because a setup took longer than it may.
var errSetupSlow = errors.New("the setup took too long")

// setUp returns the image on which a job's setup has been done: by it, by a job beside it, or before. A setup that did not
// end well is an outcome without an image. All of it is told in the metadata.
func (r *Runner) setUp(ctx context.Context, p *setup, out runner.Sink) (image string, o contracts.Outcome, err error) {
	call, cancel := bounded(ctx)
	base, err := r.api.ImageInspect(call, p.job.Container.Image)
	cancel()
	if err != nil {
		return "", o, interrupted(ctx, r.asked("look at image "+p.job.Container.Image, err))
	}
	p.spec.config.Image = base.ID
	key, err := r.digest(p, base.ID)
	if err != nil {
		return "", o, err
	}
	if image, err = r.keptSetup(ctx, key); image != "" || err != nil {
		return image, wellSetUp(true), interrupted(ctx, err)
	}
	within := ctx
	if limit := p.job.Container.Setup.TimeoutSeconds; limit > 0 {
		var stop context.CancelFunc
		within, stop = context.WithTimeoutCause(ctx, time.Duration(limit*float64(time.Second)), errSetupSlow)
		defer stop()
	}
	t, began := r.setups.join(key, func() *made { return &made{backlog: newBacklog()} }, func(ctx context.Context, m *made) {
		r.makeSetup(ctx, p, key, base, m)
		m.backlog.close()
	})
	reads := t.of.backlog.reader()
	defer reads.close()
	if !began {
		_, err = io.WriteString(out.Stream(contracts.Stderr, contracts.PhaseSetup), "waiting for the setup, which another job does\n")
	}
	if err == nil {
		err = reads.copy(within, out)
	}
	if err == nil {
		<-t.done
		t.leave()
		return t.of.result()
	}
	// What is stopped is waited for, and says its last words, unless others go on with it.
	if last := t.leave(); last {
		if within.Err() != nil {
			_ = reads.copy(context.WithoutCancel(ctx), out)
		}
		reads.close()
		<-t.done
		o.Killed, o.ExitCode = t.of.outcome.Killed, t.of.outcome.ExitCode
	}
	switch {
	case errors.Is(err, errSetupSlow):
		o.Status, o.Reason = contracts.StatusFailed, contracts.ReasonSetup
		o.Error = fmt.Sprintf("the setup exceeded its timeout of %v seconds, so the command did not run", p.job.Container.Setup.TimeoutSeconds)
		return "", badlySetUp(o), nil
	case ctx.Err() != nil:
		return "", contracts.Outcome{Killed: o.Killed}, context.Cause(ctx)
	}
	return "", contracts.Outcome{Killed: o.Killed}, fmt.Errorf("write output: %w", err)
}

// result is what came of a setup for each job that waited for it.
func (m *made) result() (string, contracts.Outcome, error) {
	switch o := m.outcome; {
	case m.err != nil:
		return "", contracts.Outcome{}, m.err
	case m.image != "":
		o = wellSetUp(m.cached)
		o.Warnings = m.warnings
		return m.image, o, nil
	case o.Reason == contracts.ReasonImage:
		return "", o, nil
	default:
		why := o.Error
		switch {
		case why != "" || o.ExitCode == nil:
		case *o.ExitCode < 0:
			why = fmt.Sprintf("signal %d", -*o.ExitCode)
		default:
			why = fmt.Sprintf("exit code %d", *o.ExitCode)
		}
		o.Status, o.Reason, o.Error = contracts.StatusFailed, contracts.ReasonSetup, "the setup failed, so the command did not run: "+why
		return "", badlySetUp(o), nil
	}
}

// wellSetUp tells of a setup that was done.
func wellSetUp(cached bool) contracts.Outcome {
	return contracts.Outcome{Metadata: map[string]string{metaSetupCode: "0", metaSetupCached: strconv.FormatBool(cached)}}
}

// badlySetUp has the outcome of a setup tell of itself as that.
func badlySetUp(o contracts.Outcome) contracts.Outcome {
	told := map[string]string{metaSetupCached: "false"}
	if o.ExitCode != nil {
		told[metaSetupCode] = strconv.Itoa(*o.ExitCode)
	}
	maps.Copy(told, o.Metadata)
	o.Metadata = told
	return o
}

// makeSetup does a setup and keeps what came of it, for everybody who waits.
func (r *Runner) makeSetup(ctx context.Context, p *setup, key string, base image.InspectResponse, m *made) {
	// Another may have done it between the look of whoever began this, and its beginning.
	if m.image, m.err = r.keptSetup(ctx, key); m.image != "" || m.err != nil {
		m.cached = true
		return
	}
	r.owns(p.spec.name)
	m.image, m.outcome, m.err = r.runSetup(ctx, p, key, base, m)
	r.settled(p.spec.name, r.remove(ctx, p.spec.name) == nil)
}

func (r *Runner) runSetup(ctx context.Context, p *setup, key string, base image.InspectResponse, m *made) (string, contracts.Outcome, error) {
	id, warnings, missed, err := r.create(ctx, p.job, p.spec)
	if missed != nil || err != nil {
		return "", outcomeOf(missed), err
	}
	m.warnings = warnings
	work, missed, err := r.start(ctx, p.job, p.spec, id, m.backlog)
	if missed != nil || err != nil {
		return "", outcomeOf(missed), err
	}
	if e, err := r.known(); err == nil {
		work.watchDisk(p.spec, r.upper(ctx, id, p.spec, e))
	}
	o, err := work.end(ctx)
	if err != nil || o.Status != contracts.StatusSucceeded {
		return "", o, err
	}
	kept, missed, err := r.keepSetup(ctx, p, id, key, base)
	return kept, outcomeOf(missed), err
}

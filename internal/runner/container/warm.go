package container

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// metaWarm says in a result's metadata whether there was a warm container: hit, or "miss: " and why not.
const metaWarm = "container.warm"

// unfit says why a job cannot run in a container that is used again, or returns who it runs as.
func unfit(job runner.Job, s *spec, img image.InspectResponse) (agent.Owner, error) {
	c := job.Container
	who, err := numeric(s.config.User)
	switch {
	case err != nil:
		return who, err
	case c.WritableRoot:
		return who, errors.New("it writes to the image's file system")
	case len(c.Mounts) > 0:
		return who, errors.New("it mounts directories of the machine")
	case s.host.NetworkMode != "none":
		return who, errors.New("it has a network")
	case sandboxed(job.Invocation):
		return who, errors.New("it is a sandbox")
	case c.NoInit:
		return who, errors.New("it is process 1 itself")
	case img.Config != nil && len(img.Config.Volumes) > 0:
		return who, errors.New("the image has volumes of its own")
	case s.platform != nil && (s.platform.OS != img.Os || s.platform.Architecture != img.Architecture || s.platform.Variant != "" && s.platform.Variant != img.Variant):
		return who, fmt.Errorf("the image is for %s/%s", img.Os, img.Architecture)
	case !agent.Runs(img.Os, img.Architecture):
		return who, fmt.Errorf("there is no agent for %s/%s", img.Os, img.Architecture)
	case len(argv(s, img)) == 0:
		return who, errors.New("it has no command")
	}
	return who, nil
}

// argv is the command, as the engine puts it together.
func argv(s *spec, img image.InspectResponse) []string {
	entry, command := []string(s.config.Entrypoint), []string(s.config.Cmd)
	if img.Config != nil && len(entry) == 0 {
		entry = img.Config.Entrypoint
		if len(command) == 0 {
			command = img.Config.Cmd
		}
	}
	return slices.Concat(entry, command)
}

// shape names all that a container is made of, but whose it is. Work of one shape may follow another's of the same tenant.
func shape(s *spec, img image.InspectResponse, who agent.Owner) string {
	dir := s.config.WorkingDir
	if within(contracts.ContainerWorkspace, dir) {
		dir = ""
	}
	data, err := json.Marshal(struct {
		Image, Dir string
		Owner      agent.Owner
		Resources  container.Resources
		Tmpfs      map[string]string
	}{img.ID, dir, who, s.host.Resources, s.host.Tmpfs})
	if err != nil {
		return "" // a number that is none; nothing has this shape
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// warm runs the job in a container that has started already. Where there is none, it says why: nothing has been done then.
func (r *Runner) warm(ctx context.Context, job runner.Job, s *spec, out runner.Sink) (o contracts.Outcome, why string, err error) {
	img, err := r.pool.image(ctx, s.config.Image)
	if err != nil {
		return o, "the image cannot be looked at", nil
	}
	who, err := unfit(job, s, img)
	if err != nil {
		return o, err.Error(), nil
	}
	g, why := r.pool.take(ctx, job.Tenant, shape(s, img, who), blueprint{ref: job.Container.Image, s: s, img: img, owner: who})
	if g == nil {
		return o, why, nil
	}
	if err := g.put(ctx, job, s); err != nil {
		r.pool.dismiss(g)
		if ctx.Err() != nil {
			return o, "", fmt.Errorf("run container: %w", context.Cause(ctx))
		}
		return o, "its files could not be put into the one that there was", nil
	}
	stdout, stderr := out.Stream(contracts.Stdout, contracts.PhaseMain), out.Stream(contracts.Stderr, contracts.PhaseMain)
	within, done := r.withinDisk(ctx, s, g.volume)
	exit, err := g.session.Run(within, agent.Command{
		Args: argv(s, img), Env: s.config.Env, Dir: s.config.WorkingDir, UID: who.UID, GID: who.GID, Stdin: job.Stdin, Stop: runner.StopOrder(job.Stop),
	}, stdout, stderr)
	done()
	over := overran(err)
	if errors.Is(err, agent.ErrOver) {
		oom, _ := r.starved(ctx, g.id)
		r.pool.dismiss(g) // whatever of it still runs
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case oom:
			o, err = ended("the work", &container.State{ExitCode: bySignal + killSignal, OOMKilled: true}, nil), nil
		}
	} else {
		o = exited(exit)
		o.Warnings = r.collect(ctx, job, &o, func(ctx context.Context, from, to string) (refused []string, err error) {
			if name := path.Base(from); name == frame.Artifacts && exit.Artifacts || name == frame.Workspace && exit.Workspace {
				err = g.session.Fetch(ctx, name, func(tar io.Reader) error {
					refused, err = r.take(tar, name, to)
					return err
				})
			}
			return refused, err
		})
		r.pool.back(g, exit.OOM || over != nil)
	}
	o.Killed = killedBy("1 command in a warm container", exit.Sent)
	if over != nil {
		o.Status, o.Reason, o.Error, err = contracts.StatusFailed, contracts.ReasonDisk, over.Error(), nil
	}
	o.Metadata = tell(o.Metadata, map[string]string{metaWarm: "hit"})
	if err != nil {
		err = fmt.Errorf("run container: %w", err)
	}
	return o, "", err
}

// overran returns what work was stopped for, if that was the disk.
func overran(err error) (over *overDisk) {
	errors.As(err, &over)
	return over
}

// put makes the directories of the work, with what lies in its workspace here, where there is anything to be made.
func (g *guest) put(ctx context.Context, job runner.Job, s *spec) error {
	if len(s.dirs) == 0 && vacant(job.Dir) {
		return nil
	}
	call, cancel := bounded(ctx)
	defer cancel()
	from, to := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		to.CloseWithError(pack(to, job.Dir, s.dirs, ids{uid: int(g.owner.UID), gid: int(g.owner.GID)}))
	}()
	err := g.session.Put(call, from)
	from.Close()
	<-packed
	return err
}

// exited is the outcome of a command that an agent ran, as that of a fresh container would be.
func exited(e agent.Exit) contracts.Outcome {
	switch e.How {
	case frame.NotFound, frame.NotExec:
		code := notFound
		if e.How == frame.NotExec {
			code = notExecutable
		}
		command, why := e.Text, ""
		if i := strings.LastIndex(e.Text, ": "); i >= 0 {
			command, why = e.Text[:i], e.Text[i+2:]
		}
		return *unstartable(code, command, why)
	case frame.Signalled:
		return ended("the work", &container.State{ExitCode: bySignal + int(e.Code), OOMKilled: e.OOM}, nil)
	default:
		return ended("the work", &container.State{ExitCode: int(e.Code), OOMKilled: e.OOM}, nil)
	}
}

// Warm is an image of which containers are kept that have started already.
type Warm struct {
	Image string
	// N is how many wait for work, with the limits that work has which asks for none.
	N int
}

const (
	maxWarm    = 64  // of one image
	maxAllWarm = 256 // of all
)

func checkWarm(all []Warm) error {
	seen, sum := map[string]bool{}, 0
	for _, w := range all {
		sum += w.N
		switch {
		case w.Image == "" || w.N < 1 || w.N > maxWarm:
			return fmt.Errorf("warm %s=%d: it is an image, and 1 to %d containers of it", cmp.Or(w.Image, "IMAGE"), w.N, maxWarm)
		case seen[w.Image]:
			return fmt.Errorf("warm %s: it is there twice", w.Image)
		case sum > maxAllWarm:
			return fmt.Errorf("warm: %d containers in all, of at most %d", sum, maxAllWarm)
		}
		seen[w.Image] = true
	}
	return nil
}

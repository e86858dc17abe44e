package container

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/go-connections/nat"

	"github.com/runnel-project/runnel/internal/contracts"
)

// The labels of an image that a setup left, beside those of who made it.
const (
	labelSetup      = "io.runnel.setup"       // what it was made of
	labelSetupUntil = "io.runnel.setup.until" // how long it is kept at most, in seconds since 1970
	labelSetupBytes = "io.runnel.setup.bytes" // what the setup added to the image
)

// setupName is the name of the image that a setup left. Nothing can be pulled under it (RFC 6761).
func setupName(key string) string { return "runnel.invalid/setup:" + key }

// usedLately is how long an image is left alone that was asked for: a container may be about to be made of it.
const usedLately = time.Minute

// keptSetup returns the image that a setup left, and notes that it is used; "" is none. The engine keeps the time when an image was
// given its name last: that is all there is to note.
func (r *Runner) keptSetup(ctx context.Context, key string) (string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	name := setupName(key)
	info, err := r.api.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", r.asked("look at image "+name, err)
	}
	if info.Config == nil || info.Config.Labels[labelSetup] != key || aged(info.Config.Labels, time.Now()) {
		return "", nil
	}
	if err := r.api.ImageTag(ctx, name, name); errdefs.IsNotFound(err) {
		return "", nil
	} else if err != nil {
		return "", r.asked("tag image "+name, err)
	}
	return info.ID, nil
}

// aged reports whether an image was kept for as long as it may be.
func aged(labels map[string]string, now time.Time) bool {
	until, err := strconv.ParseInt(labels[labelSetupUntil], 10, 64)
	return err != nil || now.Unix() >= until
}

// keepSetup makes an image of a container in which a setup has ended well.
func (r *Runner) keepSetup(ctx context.Context, p *setup, id, key string, base image.InspectResponse) (string, *contracts.Outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*callWithin, errSlow)
	defer cancel()
	info, _, err := r.api.ContainerInspectWithRaw(ctx, id, true)
	if err != nil {
		return "", nil, r.asked("inspect", err)
	}
	var size int64
	if info.SizeRw != nil {
		size = *info.SizeRw
	}
	if size > r.cfg.MaxSetupBytes {
		o := failed(contracts.ReasonSetup, "it left %d bytes in the image, and this worker keeps %d of all setups", size, r.cfg.MaxSetupBytes)
		o.ExitCode = new(0)
		return "", &o, nil
	}
	made, err := r.api.ContainerCommit(ctx, id, container.CommitOptions{
		Reference: setupName(key), Config: keptConfig(base, p.spec.config.Env, map[string]string{
			labelSetup: key, labelSetupBytes: strconv.FormatInt(size, 10), labelSetupUntil: strconv.FormatInt(time.Now().Add(r.cfg.SetupAge).Unix(), 10),
			labelInvocation: "", labelRun: "",
		}),
	})
	if err != nil {
		return "", nil, r.asked("commit", err)
	}
	r.sweepSetups(ctx, time.Now())
	return made.ID, nil, nil
}

// keptConfig is the configuration of an image for one that a setup makes of it. An engine adds what the container has and this has
// not, so everything is named: the command of the setup is not the image's, and its variables are none of the next container's.
func keptConfig(base image.InspectResponse, env []string, labels map[string]string) *container.Config {
	c := &container.Config{Entrypoint: []string{}, Labels: labels}
	if from := base.Config; from != nil {
		c.User, c.WorkingDir, c.StopSignal, c.Volumes, c.Cmd = from.User, from.WorkingDir, from.StopSignal, from.Volumes, from.Cmd
		c.Env, c.Entrypoint = slices.Clone(from.Env), append(c.Entrypoint, from.Entrypoint...)
		for port := range from.ExposedPorts {
			if c.ExposedPorts == nil {
				c.ExposedPorts = nat.PortSet{}
			}
			c.ExposedPorts[nat.Port(port)] = struct{}{}
		}
	}
	for _, item := range env {
		name, _, _ := strings.Cut(item, "=")
		if !slices.ContainsFunc(c.Env, func(have string) bool { return strings.HasPrefix(have, name+"=") }) {
			c.Env = append(c.Env, name) // a name alone unsets
		}
	}
	return c
}

// sweepSetups removes what setups left that is older than it may be, and of this work directory's the least lately used beyond their number
// and their size. An engine keeps an image that a container is made of, whoever's: it goes with a later sweep.
func (r *Runner) sweepSetups(ctx context.Context, now time.Time) {
	list, err := r.api.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", labelSetup), filters.Arg("label", labelHost+"="+r.owner.host),
	)})
	if err != nil {
		return
	}
	type kept struct {
		id    string
		bytes int64
		used  time.Time
	}
	var ours []kept
	var bytes int64
	for _, i := range list {
		info, err := r.api.ImageInspect(ctx, i.ID)
		if err != nil {
			continue
		}
		k := kept{id: i.ID, used: info.Metadata.LastTagTime}
		if k.used.IsZero() {
			k.used = time.Unix(i.Created, 0)
		}
		switch {
		case aged(i.Labels, now):
			_ = r.removeSetup(ctx, k.id, k.used, now)
		case filepath.Dir(i.Labels[labelLock]) == r.owner.root():
			k.bytes, _ = strconv.ParseInt(i.Labels[labelSetupBytes], 10, 64)
			bytes += k.bytes
			ours = append(ours, k)
		}
	}
	slices.SortFunc(ours, func(a, b kept) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.id, b.id)) })
	n := len(ours)
	for _, k := range ours {
		if n <= r.cfg.MaxSetups && bytes <= r.cfg.MaxSetupBytes {
			return
		}
		if err := r.removeSetup(ctx, k.id, k.used, now); err == nil {
			n, bytes = n-1, bytes-k.bytes
		}
	}
}

// removeSetup removes an image, and not the one that it was made of. One that is used, or was lately, is an error.
func (r *Runner) removeSetup(ctx context.Context, id string, used, now time.Time) error {
	if now.Sub(used) < usedLately {
		return fmt.Errorf("image %s: used lately", id)
	}
	_, err := r.api.ImageRemove(ctx, id, image.RemoveOptions{})
	return err
}

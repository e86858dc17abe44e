package container

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
)

// sweep removes what dead workers left on the engine, and what this one could not remove before. What cannot be
// removed now is tried again by the next sweep.
func (r *Runner) sweep(ctx context.Context) {
	_ = r.tidy()
	list, err := r.api.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelOwner))})
	if err != nil {
		return
	}
	locks := map[string]bool{}
	for _, c := range list {
		dead := r.owner.dead(c.Labels)
		if !dead && !r.stray(c.Labels, c.Names) {
			continue
		}
		if err := r.remove(ctx, c.ID); err == nil && dead {
			locks[c.Labels[labelLock]] = true
		}
	}
	r.sweepVolumes(ctx)
	for path := range locks {
		// Nobody can make anything under this lock any more: its name is never used again.
		_ = os.Remove(path)
	}
	r.sweepSetups(ctx, time.Now())
}

// sweepVolumes removes volumes whose container is gone. An engine keeps one that has a container, whoever's.
func (r *Runner) sweepVolumes(ctx context.Context) {
	list, err := r.api.VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelOwner), filters.Arg("dangling", "true"))})
	if err != nil {
		return
	}
	for _, v := range list.Volumes {
		// A run has its volume for a moment before it has a container.
		if r.owner.dead(v.Labels) || r.stray(v.Labels, []string{"runnel-" + v.Labels[labelRun]}) {
			_ = r.api.VolumeRemove(ctx, v.Name, false)
		}
	}
}

// stray reports whether a container is this runner's own, and of no run: one that the engine made after all, when its
// run had given up waiting for it.
func (r *Runner) stray(labels map[string]string, names []string) bool {
	if labels[labelOwner] != r.owner.name {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(names, func(name string) bool {
		_, ok := r.ours[strings.TrimPrefix(name, "/")]
		return ok
	})
}

// owns notes a container that must be removed.
func (r *Runner) owns(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ours[name] = true
}

// settled notes that a container of a run under way has gone, or is left to the next sweep.
func (r *Runner) settled(name string, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gone {
		delete(r.ours, name)
	} else {
		r.ours[name] = false
	}
}

// tidy removes what ended runs could not.
func (r *Runner) tidy() error {
	r.mu.Lock()
	names := maps.Clone(r.ours)
	answers := r.engine != nil
	r.mu.Unlock()
	if !answers {
		return nil
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name] {
			continue // its run is under way
		}
		if err := r.remove(context.Background(), name); err != nil {
			errs = append(errs, err)
			continue
		}
		r.settled(name, true)
	}
	return errors.Join(errs...)
}

// remove kills and removes a container and its volume. One that is not there is removed.
func (r *Runner) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
	defer cancel()
	began := time.Now()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		err := r.api.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		// A conflict says that somebody removes it already: it is gone when it is not found.
		if client.IsErrConnectionFailed(err) && time.Since(began) > goneWithin {
			return r.asked("remove container "+name, err)
		}
		select {
		case <-ctx.Done():
			return r.asked("remove container "+name, err)
		case <-time.After(min(wait, time.Second)):
		}
	}
}

package container

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// A container that the engine made when nobody waited for it any more is removed, one of a run under way is not.
func TestStraysAreRemoved(t *testing.T) {
	t.Parallel()
	image := enginetest.Image(t)
	r, err := New(Config{WorkRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := t.Context()
	create := func(name string) string {
		made, err := r.api.ContainerCreate(ctx, &container.Config{Image: image, Cmd: []string{"/job"}, Labels: r.owner.labels()}, nil, nil, nil, name)
		if err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	kept := "runnel-kept-" + r.owner.name
	r.owns(kept)
	ours, stray := create(kept), create("runnel-stray-"+r.owner.name)
	r.sweep(ctx)
	if _, err := r.api.ContainerInspect(ctx, stray); !errdefs.IsNotFound(err) {
		t.Errorf("the stray is there: %v", err)
	}
	if _, err := r.api.ContainerInspect(ctx, ours); err != nil {
		t.Errorf("a run's container: %v", err)
	}
	r.settled(kept, false) // its run could not remove it: the next sweep does
	r.sweep(ctx)
	if _, err := r.api.ContainerInspect(ctx, ours); !errdefs.IsNotFound(err) {
		t.Errorf("what a run left is there: %v", err)
	}
}

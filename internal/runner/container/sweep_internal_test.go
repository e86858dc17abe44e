package container

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

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

// A volume whose container is gone is removed, one of a run under way and one of somebody who may live are not.
func TestLoneVolumesAreRemoved(t *testing.T) {
	t.Parallel()
	enginetest.Image(t)
	r, err := New(Config{WorkRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dead := &owner{name: "deadbeef", host: r.owner.host, path: filepath.Join(t.TempDir(), lockName("deadbeef"))}
	there := &owner{name: "abcd2345", host: "elsewhere", path: dead.path}
	r.owns("runnel-kept")
	for name, want := range map[string]struct {
		owner *owner
		run   string
		left  bool
	}{
		"a dead worker's":       {dead, "x", false},
		"another machine's":     {there, "x", true},
		"of a run that is over": {r.owner, "over", false},
		"of a run under way":    {r.owner, "kept", true},
	} {
		labels := want.owner.labels()
		labels[labelRun] = want.run
		v, err := r.api.VolumeCreate(t.Context(), volume.CreateOptions{Labels: labels})
		if err != nil {
			t.Fatal(err)
		}
		r.sweep(t.Context())
		_, err = r.api.VolumeInspect(t.Context(), v.Name)
		if left := err == nil; left != want.left {
			t.Errorf("the volume %s is there: %v (%v), want %v", name, left, err, want.left)
		}
		_ = r.api.VolumeRemove(t.Context(), v.Name, true)
	}
}

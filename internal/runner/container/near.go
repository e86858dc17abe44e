package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/mount"

	"github.com/runnel-project/runnel/internal/contracts"
)

// near returns the directory on this machine that is the container's volume, or "". The engine takes a fifth of a
// short run's time to unpack an empty workspace and to pack artifacts that are not there; where its disk is ours as
// well, a look is enough. A volume's name is 64 random digits: what is there under it is the same.
func (r *Runner) near(ctx context.Context, id string, e *engine) string {
	if !e.mayBeNear() {
		return ""
	}
	call, cancel := bounded(ctx)
	defer cancel()
	info, err := r.api.ContainerInspect(call, id)
	if err != nil {
		return ""
	}
	for _, m := range info.Mounts {
		if m.Type != mount.TypeVolume || m.Destination != contracts.ContainerRoot || len(m.Name) != 64 || !strings.Contains(m.Source, m.Name) {
			continue
		}
		if at, err := os.Lstat(m.Source); err == nil && at.IsDir() {
			return m.Source
		}
	}
	return ""
}

// mayBeNear reports whether this process may look at the engine's disk, if that is this machine's: files have the owners there that they seem to have.
func (e *engine) mayBeNear() bool {
	return os.Geteuid() == 0 && !has(strings.Join(e.info.SecurityOptions, " "), "name=userns", "name=rootless")
}

// upper returns the directory on this machine that has what is written to a container's file system, or "": also where nothing may be.
func (r *Runner) upper(ctx context.Context, id string, s *spec, e *engine) string {
	if s.host.ReadonlyRootfs || !e.mayBeNear() {
		return ""
	}
	call, cancel := bounded(ctx)
	defer cancel()
	info, err := r.api.ContainerInspect(call, id)
	if err != nil || info.GraphDriver.Data == nil {
		return ""
	}
	dir := info.GraphDriver.Data["UpperDir"]
	if at, err := os.Lstat(dir); dir == "" || err != nil || !at.IsDir() {
		return ""
	}
	return dir
}

// furnish makes the directories of the work on a volume that is near. False: that is the engine's to do, for there
// is more than directories, or an owner that only the image knows.
func furnish(volume, dir string, s *spec) bool {
	who := owned(s.config.User)
	if volume == "" || who.open || len(s.dirs) > 0 || !vacant(dir) {
		return false
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return false
	}
	defer root.Close()
	for _, name := range []string{contracts.ContainerWorkspace, contracts.ContainerArtifacts} {
		name = path.Base(name)
		// An engine makes the directory that work starts in, and fills a volume with what the image has at its place.
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return false
		}
		// The engine does it again, as it should be, where this stops half way.
		info, err := root.Lstat(name)
		if err != nil || !info.IsDir() || root.Chmod(name, 0o700) != nil || root.Lchown(name, who.uid, who.gid) != nil {
			return false
		}
	}
	return true
}

// leftNothing reports whether the work of a container that has ended left nothing in a directory of its volume.
func leftNothing(volume, at string) bool {
	if volume == "" {
		return false
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return false
	}
	defer root.Close()
	info, err := root.Lstat(path.Base(at))
	return err == nil && info.IsDir() && vacant(filepath.Join(volume, path.Base(at)))
}

// vacant reports whether a directory is empty; "" is.
func vacant(dir string) bool {
	if dir == "" {
		return true
	}
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

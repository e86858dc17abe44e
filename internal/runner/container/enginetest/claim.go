package enginetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// lockOf is the file that the process of a number keeps locked as long as it lives and has images.
func lockOf(pid string) string {
	return filepath.Join(os.TempDir(), "runnel-enginetest-"+pid+".lock")
}

// claim removes the images of test processes that were killed, and notes that this one lives. A process whose lock is not to be seen
// from here may live.
func claim(ctx context.Context, api *client.Client) (*os.File, error) {
	list, err := api.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", repository))})
	if err != nil {
		return nil, err
	}
	dead := map[string]*os.File{}
	for _, i := range list {
		for _, name := range i.RepoTags {
			pid := name[strings.LastIndexByte(name, '-')+1:]
			if dead[pid] == nil {
				if dead[pid] = locked(lockOf(pid), 0); dead[pid] == nil {
					continue
				}
			}
			// What a container is made of stays until that is gone.
			_, _ = api.ImageRemove(ctx, name, image.RemoveOptions{})
		}
	}
	for _, lock := range dead {
		if lock != nil {
			os.Remove(lock.Name())
			lock.Close()
		}
	}
	path := lockOf(fmt.Sprint(os.Getpid()))
	if lock := locked(path, os.O_CREATE); lock != nil {
		return lock, nil
	}
	return nil, fmt.Errorf("%s: cannot be made and locked", path)
}

// locked opens a file and locks it, or returns nil.
func locked(path string, flag int) *os.File {
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0o600)
	if err != nil {
		return nil
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		f.Close()
		return nil
	}
	return f
}

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

const (
	lookAtDisk = 250 * time.Millisecond
	diskShare  = 20 // of the time that a look through the files takes: how long it is before the next
)

// overDisk says that the work keeps more on the disk than it may.
type overDisk struct {
	bytes, most int64
	files       int
	mostFiles   int
}

func (o *overDisk) Error() string {
	if o.files > o.mostFiles {
		return fmt.Sprintf("the work keeps more than %d files on the disk", o.mostFiles)
	}
	return fmt.Sprintf("the work keeps %d bytes on the disk, and may keep %d", o.bytes, o.most)
}

// Unwrap says that it would go on in the time that it has to stop.
func (o *overDisk) Unwrap() error { return agent.ErrAtOnce }

// diskWatch ends work that keeps too much on the disk. Nothing else bounds a volume, nor, on most file systems, what is written to
// an image's: an engine has quotas for it on few.
//
// To count files takes time, and work may have many. So they are counted rarely, unless the whole disk has lost what the
// work may still have: that is one question, and cheap.
type diskWatch struct {
	dirs  []string // of this machine
	bytes int64
	files int
	over  func(*overDisk)
}

// withinDisk returns a context that ends, with an *overDisk as its cause, when work keeps too much in directories of this machine, those
// that are not "". done ends the watch.
func (r *Runner) withinDisk(ctx context.Context, s *spec, dirs ...string) (within context.Context, done func()) {
	within, cancel := context.WithCancelCause(ctx)
	w := &diskWatch{bytes: s.disk, files: r.cfg.MaxDiskFiles, over: func(o *overDisk) { cancel(o) }}
	for _, dir := range dirs {
		if dir != "" {
			w.dirs = append(w.dirs, dir)
		}
	}
	var watch sync.WaitGroup
	if len(w.dirs) > 0 {
		watch.Go(func() { w.run(within) })
	}
	return within, func() {
		cancel(nil)
		watch.Wait()
	}
}

// run watches until ctx ends.
func (w *diskWatch) run(ctx context.Context) {
	tick := time.NewTicker(lookAtDisk)
	defer tick.Stop()
	room, spare := w.bytes, w.files // what may be there more than at the last look
	free, names := w.free()
	var next, soonest time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		nowFree, nowNames := w.free()
		lost := free-nowFree >= room || names-nowNames >= int64(spare)
		if now := time.Now(); now.Before(soonest) || now.Before(next) && !lost {
			continue
		}
		free, names = nowFree, nowNames
		began := time.Now()
		held := w.held(ctx)
		if held.bytes > w.bytes || held.files > w.files {
			w.over(&held)
			return
		}
		room, spare = w.bytes-held.bytes, w.files-held.files
		took := time.Since(began)
		soonest, next = time.Now().Add(2*took), time.Now().Add(diskShare*took)
	}
}

// free returns what is left of the disk, in bytes and files.
func (w *diskWatch) free() (bytes, names int64) {
	for _, dir := range w.dirs {
		b, n := diskFree(dir)
		bytes, names = bytes+b, names+n
	}
	return bytes, names
}

// errEnough ends the counting of files.
var errEnough = errors.New("enough")

// held counts what is in the directories, until it is too much. They are the work's, which may change them at any time.
func (w *diskWatch) held(ctx context.Context) overDisk {
	held := overDisk{most: w.bytes, mostFiles: w.files}
	for _, dir := range w.dirs {
		root, err := os.OpenRoot(dir)
		if err != nil {
			continue
		}
		_ = fs.WalkDir(root.FS(), ".", func(_ string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return nil // it has gone, or it is none of our business
			}
			held.files++
			if info, err := entry.Info(); err == nil {
				held.bytes += onDisk(info)
			}
			if held.files > w.files || held.bytes > w.bytes {
				return errEnough
			}
			return nil
		})
		root.Close()
	}
	return held
}

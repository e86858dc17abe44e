package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/runnel-project/runnel/internal/contracts"
)

// workspaces is the directory of one worker, in which every run gets one of its own.
// Its lock file is held while the worker lives: what has none is a dead worker's, and is removed.
type workspaces struct {
	dir  string
	lock *os.File

	mu    sync.Mutex
	made  int
	clean []workspace // used, and left as they were made
}

// workspace is what one run finds: directories that are empty.
type workspace struct {
	all       *workspaces
	dir       string // 0700, holds the others
	work      string
	artifacts string
}

func openWorkspaces(root, name string) (*workspaces, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	// One at a time: a directory whose lock is not held yet would be swept by another worker that starts
	// (ran: of 12 that started at once 3 lost theirs, and with it every run).
	turn, err := waitLock(filepath.Join(root, lockName))
	if err != nil {
		return nil, err
	}
	gone := setAside(root)
	dir := filepath.Join(root, name)
	var lock *os.File
	if err = os.MkdirAll(dir, 0o700); err == nil {
		lock, err = lockFile(filepath.Join(dir, lockName))
	}
	turn.Close()
	for _, dead := range gone {
		_ = removeAll(dead)
	}
	if err != nil {
		return nil, fmt.Errorf("another worker named %q works in %s: give one of them another --name or --work-dir: %w", name, root, err)
	}
	return &workspaces{dir: dir, lock: lock}, nil
}

const (
	lockName = ".lock"
	gonePart = ".gone-"
)

// setAside renames what workers left in root that do not live any more, and returns the new
// names: removing them may take a while, and others want to start.
func setAside(root string) (gone []string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(root, e.Name())
		if strings.HasPrefix(e.Name(), gonePart) {
			gone = append(gone, dir) // who set it aside died over it
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, lockName)); err != nil {
			continue // not a worker's
		}
		lock, err := lockFile(filepath.Join(dir, lockName))
		if err != nil {
			continue
		}
		aside := filepath.Join(root, gonePart+contracts.NewRun())
		if err := os.Rename(dir, aside); err == nil {
			gone = append(gone, aside)
		}
		lock.Close()
	}
	return gone
}

func (w *workspaces) close() error {
	err := removeAll(w.dir)
	return errors.Join(err, w.lock.Close())
}

// open returns a workspace for one run. Making one costs a disk six changes of its metadata, more than
// the rest of a short job, so one that its last run left as it found it serves again.
func (w *workspaces) open() (workspace, error) {
	w.mu.Lock()
	if n := len(w.clean); n > 0 {
		room := w.clean[n-1]
		w.clean = w.clean[:n-1]
		w.mu.Unlock()
		return room, nil
	}
	w.made++
	dir := filepath.Join(w.dir, strconv.Itoa(w.made))
	w.mu.Unlock()
	room := workspace{all: w, dir: dir, work: filepath.Join(dir, "work"), artifacts: filepath.Join(dir, "artifacts")}
	for _, d := range []string{room.dir, room.work, room.artifacts} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return room, err
		}
	}
	return room, nil
}

// leave gives a workspace back once nothing of its run is alive: whatever the run left is gone before the next.
func (r workspace) leave() error {
	if err := os.Remove(filepath.Join(r.dir, stdinName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, removeAll(r.dir))
	}
	if !untouched(r.work) || !untouched(r.artifacts) {
		return removeAll(r.dir)
	}
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	r.all.clean = append(r.all.clean, r)
	return nil
}

const stdinName = "stdin"

// spool puts stdin where the work can read it without a goroutine of ours in between.
func (r workspace) spool(data []byte) (io.ReadCloser, error) { return r.fill(bytes.NewReader(data)) }

func (r workspace) fill(from io.Reader) (io.ReadCloser, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, stdinName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, from); err == nil {
		_, err = f.Seek(0, io.SeekStart)
		if err == nil {
			return f, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("spool stdin: %w", err)
}

// empty reports whether nothing was left in dir. A directory that is gone counts as empty.
func empty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// removeAll removes a tree also where the work took its own permissions away.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

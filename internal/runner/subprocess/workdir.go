package subprocess

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// workdir returns where the job starts, an absolute path that exists (E13, T29).
func (r *Runner) workdir(job runner.Job) (string, error) {
	switch dir := job.WorkingDirectory; {
	case dir == "":
		return job.Dir, nil
	case strings.ContainsRune(dir, 0):
		return "", runner.Reject(contracts.ReasonBadInvocation, "working_directory: must not hold a NUL byte")
	case filepath.IsAbs(dir):
		return r.absolute(job, filepath.Clean(dir))
	default:
		return relative(job, dir)
	}
}

// relative makes the directory inside of the workspace. os.Root follows no link out of it.
func relative(job runner.Job, dir string) (string, error) {
	if !filepath.IsLocal(dir) {
		return "", runner.Reject(contracts.ReasonBadInvocation, "working_directory %q: leaves the workspace", dir)
	}
	root, err := os.OpenRoot(job.Dir)
	if err != nil {
		return "", fmt.Errorf("open workspace: %w", err)
	}
	defer root.Close()
	err = root.MkdirAll(dir, 0o700)
	info, statErr := root.Stat(dir)
	switch {
	case statErr == nil && info.IsDir():
		return filepath.Join(job.Dir, dir), nil
	case statErr == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR):
		return "", rejectMissing(filepath.Join(job.Dir, dir))
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO):
		return "", fmt.Errorf("make working directory: %w", err)
	default:
		// What os.Root refuses to follow has no error of its own.
		return "", runner.Reject(contracts.ReasonBadInvocation, "working_directory %q: leaves the workspace or cannot be made: %v", dir, err)
	}
}

// absolute lets a job start in a directory of the worker that its policy allows. What counts is where the
// path leads, so a link cannot lead out of an allowed directory.
func (r *Runner) absolute(job runner.Job, dir string) (string, error) {
	real, missing := resolve(dir)
	if !r.allowed(job, real) {
		return "", runner.Reject(contracts.ReasonNotAllowed,
			"working_directory %s: this worker does not allow it (it allows %q)", dir, r.cfg.AllowWorkdir)
	}
	if missing {
		return "", rejectMissing(dir)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", rejectMissing(dir)
	}
	return real, nil
}

func (r *Runner) allowed(job runner.Job, real string) bool {
	if r.cfg.WorkRoot != "" {
		root, _ := resolve(r.cfg.WorkRoot)
		own, _ := resolve(job.Dir)
		if within(root, real) && !within(own, real) {
			return false
		}
	}
	for _, dir := range r.cfg.AllowWorkdir {
		if root, missing := resolve(filepath.Clean(dir)); !missing && within(root, real) {
			return true
		}
	}
	return false
}

// resolve follows the links of an absolute path. Of one that does not exist it follows those of the part that does.
func resolve(path string) (real string, missing bool) {
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), missing
		}
		missing = true
		parent := filepath.Dir(path)
		if parent == path {
			return filepath.Join(path, rest), missing
		}
		path, rest = parent, filepath.Join(filepath.Base(path), rest)
	}
}

// within reports whether path is dir or below. Both are clean and absolute.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

func rejectMissing(dir string) error {
	return runner.Reject(contracts.ReasonBadInvocation, "working directory does not exist: %s", dir)
}

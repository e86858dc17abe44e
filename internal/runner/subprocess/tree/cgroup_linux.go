package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// OwnCgroup returns the directory of the cgroup v2 that this process is in, as
// it is seen under the file systems mounted here. It works for the unified and
// the hybrid layout, for delegated subtrees and inside of containers.
func OwnCgroup() (string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return FindCgroup(string(mountinfo), string(cgroups))
}

// FindCgroup puts together /proc/self/mountinfo and /proc/self/cgroup: the
// directory of the cgroup v2 of the process that they were read by.
func FindCgroup(mountinfo, cgroups string) (string, error) {
	path := ""
	for line := range strings.Lines(cgroups) {
		// Hierarchy 0 without controllers is the v2 one.
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = rest
		}
	}
	if !strings.HasPrefix(path, "/") {
		return "", errors.New("this process is in no cgroup v2")
	}
	found := ""
	for line := range strings.Lines(mountinfo) {
		root, point, ok := parseMount(strings.TrimSuffix(line, "\n"))
		if !ok {
			continue
		}
		found = point
		// Dots lead out of the cgroup namespace, where names have no meaning here.
		if strings.Contains(root+"/", "/../") || strings.Contains(path+"/", "/../") {
			continue
		}
		rel, err := filepath.Rel(root, path)
		// A mount whose root is not above our cgroup does not show it.
		if err == nil && (rel == "." || filepath.IsLocal(rel)) {
			return filepath.Join(point, rel), nil
		}
	}
	if found != "" {
		return "", fmt.Errorf("the cgroup v2 mounted at %s does not show this process's cgroup %s", found, path)
	}
	return "", errors.New("no cgroup v2 is mounted")
}

// parseMount takes root and mount point from a line of mountinfo, if it is of a cgroup v2.
func parseMount(line string) (root, point string, ok bool) {
	// 41 31 0:38 / /sys/fs/cgroup rw,relatime [optional fields] - cgroup2 cgroup2 rw
	before, after, ok := strings.Cut(line, " - ")
	if !ok || !strings.HasPrefix(after, "cgroup2 ") {
		return "", "", false
	}
	fields := strings.Split(before, " ")
	if len(fields) < 6 {
		return "", "", false
	}
	root, point = unescape(fields[3]), unescape(fields[4])
	return root, point, strings.HasPrefix(root, "/") && strings.HasPrefix(point, "/")
}

// unescape undoes the octal escapes that mountinfo writes for space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Cgroup is an open cgroup v2 directory. Its methods may be called from several goroutines, except Close and Remove.
type Cgroup struct {
	path   string
	dir    int // open on the directory: for the kernel to clone into
	events int // open on cgroup.events
}

// MakeCgroup makes the directory, whose parent must exist, and opens it.
func MakeCgroup(path string) (*Cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	c, err := OpenCgroup(path)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return c, nil
}

// OpenCgroup opens a cgroup that exists.
func OpenCgroup(path string) (*Cgroup, error) {
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	events, err := unix.Openat(dir, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(dir)
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(path, "cgroup.events"), Err: err}
	}
	return &Cgroup{path: path, dir: dir, events: events}, nil
}

// Path returns the directory.
func (c *Cgroup) Path() string { return c.path }

// FD returns the descriptor for syscall.SysProcAttr.CgroupFD. It is valid until Close.
func (c *Cgroup) FD() int { return c.dir }

// Lock says that the cgroup is in use, until this process closes it or ends, however it ends.
func (c *Cgroup) Lock() error { return flock(c.dir, unix.LOCK_SH) }

// Abandoned reports whether nobody says of the cgroup that it is in use.
func (c *Cgroup) Abandoned() (bool, error) {
	err := flock(c.dir, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// LockDir lets one process at a time go on, among those that call it for the directory. It fails with
// EWOULDBLOCK where another has held the lock for all of wait.
func LockDir(path string, wait time.Duration) (unlock func() error, err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wait)
	for {
		err := flock(int(dir.Fd()), unix.LOCK_EX)
		if err == nil {
			return dir.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil, errors.Join(err, dir.Close())
		}
		unix.Poll(nil, 5)
	}
}

func flock(fd, how int) error {
	for {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// Close forgets the cgroup and leaves the directory.
func (c *Cgroup) Close() error {
	return errors.Join(unix.Close(c.dir), unix.Close(c.events))
}

// Removed reports whether somebody has removed the cgroup.
func (c *Cgroup) Removed() bool {
	var buf [1]byte
	_, err := unix.Pread(c.events, buf[:], 0)
	return errors.Is(err, unix.ENODEV)
}

// Populated reports whether a process is in the cgroup or below. A zombie is not.
func (c *Cgroup) Populated() (bool, error) {
	var buf [128]byte
	n, err := unix.Pread(c.events, buf[:], 0)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Pread(c.events, buf[:], 0)
	}
	if errors.Is(err, unix.ENODEV) {
		return false, nil // the directory has been removed, so nothing was in it
	}
	if err != nil {
		return false, &fs.PathError{Op: "read", Path: filepath.Join(c.path, "cgroup.events"), Err: err}
	}
	return ParsePopulated(buf[:n])
}

// Empty reports whether no process is in the cgroup or below.
func (c *Cgroup) Empty() (bool, error) {
	populated, err := c.Populated()
	if err != nil || !populated {
		return !populated, err
	}
	// A process that has just ended may be counted for a moment when it is not listed any more.
	if pids, err := c.PIDs(); err != nil || len(pids) > 0 {
		return false, err
	}
	return c.waitEmpty(20 * time.Millisecond)
}

// ParsePopulated reads the content of cgroup.events.
func ParsePopulated(events []byte) (bool, error) {
	for line := range bytes.Lines(events) {
		if value, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("populated ")); ok {
			switch string(value) {
			case "0":
				return false, nil
			case "1":
				return true, nil
			}
		}
	}
	return false, fmt.Errorf("cgroup.events says nothing of populated: %.80q", events)
}

// PIDs returns the processes in the cgroup and below.
func (c *Cgroup) PIDs() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(c.path, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked
		}
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		// A threaded cgroup below shows its processes in its parent only; a removed one shows none.
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		pids = append(pids, ParsePIDs(list)...)
		return nil
	})
	return pids, err
}

// ParsePIDs reads a list of process ids, one per line or separated by spaces. What is not one is left out:
// 0 stands for a process of an outer namespace.
func ParsePIDs(list []byte) []int {
	var pids []int
	for field := range bytes.FieldsSeq(list) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Kill kills every process in the cgroup and below, also those forked meanwhile, and waits until none is left.
// A cgroup that was killed must not be used again: the kernel kills every child that is later cloned into it.
func (c *Cgroup) Kill(wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		if err := c.kill(); err != nil {
			return err
		}
		if empty, err := c.waitEmpty(min(time.Until(deadline), 100*time.Millisecond)); empty || err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			pids, _ := c.PIDs()
			return fmt.Errorf("processes %v in %s do not end within %v of their kill", pids, c.path, wait)
		}
	}
}

func (c *Cgroup) kill() error {
	fd, err := unix.Openat(c.dir, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if _, gone := os.Stat(c.path); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Join(c.path, "cgroup.kill"), Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("1")); err != nil && !errors.Is(err, unix.ENODEV) {
		return &fs.PathError{Op: "write", Path: filepath.Join(c.path, "cgroup.kill"), Err: err}
	}
	return nil
}

// waitEmpty waits until no process is in the cgroup, or for as long as wait.
func (c *Cgroup) waitEmpty(wait time.Duration) (bool, error) {
	deadline := time.Now().Add(wait)
	for {
		populated, err := c.Populated()
		if err != nil || !populated {
			return !populated, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		// The kernel tells of a change by POLLPRI, at most once in 10 ms: look again by ourselves as well.
		poll := []unix.PollFd{{Fd: int32(c.events), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, int(max(1, min(left, 20*time.Millisecond).Milliseconds()))); err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("poll cgroup.events: %w", err)
		}
	}
}

// Remove closes the cgroup and removes its directory with those below. It fails with EBUSY where a process is left.
func (c *Cgroup) Remove() error {
	return errors.Join(c.Close(), RemoveCgroup(c.path))
}

// RemoveCgroup removes the directory of a cgroup, those below first. One that does not exist is no error.
func RemoveCgroup(path string) error {
	err := unix.Rmdir(path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, listErr := os.ReadDir(path)
	if listErr != nil && !errors.Is(listErr, fs.ErrNotExist) {
		return listErr
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := RemoveCgroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

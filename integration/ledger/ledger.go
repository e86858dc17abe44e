// Package ledger is where the processes of test jobs write that they began,
// past Runnel and NATS: what really ran, for the checker to compare with what
// is stored. Each process has a file of one short line there, and a lock on it
// for as long as it lives: that can be seen from outside of its container, where
// its number says nothing.
package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Entry says that a process began.
type Entry struct {
	Tenant, ID string
	// Token names the execution; a process that the job left behind has the same.
	Token   string
	PID     int
	Started time.Time

	path string
}

// Sign notes in dir that this process began, until it ends.
func Sign(dir string, e Entry) error {
	e.PID = os.Getpid()
	f, err := os.CreateTemp(dir, ".new") // processes of two containers may have one number
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%s %d %d\n", e.Token, e.PID, e.Started.UnixNano()); err != nil {
		return err
	}
	signed = append(signed, f)
	name := fmt.Sprintf("%s.%s.%s", e.Tenant, e.ID, strings.TrimPrefix(filepath.Base(f.Name()), ".new"))
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// signed keeps the locks: a file that nobody has is closed when its memory is collected.
var signed []*os.File

// Alive reports whether the process lives.
func (e Entry) Alive() (bool, error) {
	f, err := os.Open(e.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Kill kills the process if it is one of this machine's own, not of a container.
func (e Entry) Kill() error {
	alive, err := e.Alive()
	if err != nil || !alive {
		return err
	}
	// Its number is its own only where the process of that number has the file.
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.PID))
	if err != nil {
		return nil
	}
	for _, fd := range open {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", e.PID, fd.Name())); err == nil && to == e.path {
			return syscall.Kill(e.PID, syscall.SIGKILL)
		}
	}
	return nil
}

// Names returns the names of what is noted in dir.
func Names(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), ".") { // half written
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// Read returns what is noted in dir under a name.
func Read(dir, name string) (Entry, error) {
	parts := strings.Split(name, ".")
	if len(parts) != 3 {
		return Entry{}, fmt.Errorf("ledger: file %q", name)
	}
	e := Entry{Tenant: parts[0], ID: parts[1], path: filepath.Join(dir, name)}
	data, err := os.ReadFile(e.path)
	if err != nil {
		return Entry{}, err
	}
	fields := strings.Fields(string(data))
	if len(fields) != 3 {
		return Entry{}, fmt.Errorf("ledger: %s holds %q", name, data)
	}
	pid, err := strconv.Atoi(fields[1])
	nanos, nerr := strconv.ParseInt(fields[2], 10, 64)
	if err := errors.Join(err, nerr); err != nil {
		return Entry{}, fmt.Errorf("ledger: %s holds %q: %w", name, data, err)
	}
	e.Token, e.PID, e.Started = fields[0], pid, time.Unix(0, nanos).UTC()
	return e, nil
}

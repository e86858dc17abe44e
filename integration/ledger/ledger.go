// Package ledger is where the processes of test jobs write that they began,
// past Runnel and NATS: what really ran, for the checker to compare with what
// is stored. An entry is one short line, appended in one write.
package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Entry says that a process began.
type Entry struct {
	Tenant, ID string
	Token      string
	Process    Process
	Started    time.Time
}

// Process names a process beyond the reuse of its number.
type Process struct {
	PID int
	// Born is its start in clock ticks since boot.
	Born uint64
}

// Self returns this process.
func Self() (Process, error) { return Find(os.Getpid()) }

// Find returns the process that has pid now.
func Find(pid int) (Process, error) {
	fields, err := stat(pid)
	if err != nil {
		return Process{}, err
	}
	born, err := strconv.ParseUint(fields[19], 10, 64) // the 22nd, counted from the third
	return Process{pid, born}, err
}

// Alive reports whether p runs; a zombie does not.
func (p Process) Alive() bool {
	fields, err := stat(p.PID)
	return err == nil && fields[0] != "Z" && fields[0] != "X" && fields[19] == strconv.FormatUint(p.Born, 10)
}

// stat returns the fields of /proc/<pid>/stat after the command, which may hold spaces and parentheses.
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}

// Append notes in dir that the process e began.
func Append(dir string, e Entry) error {
	f, err := os.OpenFile(filepath.Join(dir, e.Tenant+"."+e.ID), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d %d %d\n", e.Token, e.Process.PID, e.Process.Born, e.Started.UnixNano())
	return errors.Join(err, f.Close())
}

// Read returns what is noted in dir of one invocation; of none, nothing.
func Read(dir, tenant, id string) ([]Entry, error) {
	data, err := os.ReadFile(filepath.Join(dir, tenant+"."+id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var entries []Entry
	for line := range strings.Lines(string(data)) {
		e := Entry{Tenant: tenant, ID: id}
		var nanos int64
		if _, err := fmt.Sscanf(line, "%s %d %d %d\n", &e.Token, &e.Process.PID, &e.Process.Born, &nanos); err != nil {
			return nil, fmt.Errorf("ledger of %s/%s: line %q: %w", tenant, id, line, err)
		}
		e.Started = time.Unix(0, nanos).UTC()
		entries = append(entries, e)
	}
	return entries, nil
}

// ReadAll returns everything that is noted in dir.
func ReadAll(dir string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, f := range files {
		tenant, id, ok := strings.Cut(f.Name(), ".")
		if !ok {
			return nil, fmt.Errorf("ledger: file %q", f.Name())
		}
		entries, err := Read(dir, tenant, id)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

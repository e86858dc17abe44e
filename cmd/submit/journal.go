package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/runnel-project/runnel/embedded"
)

const (
	// A journal is cut to its newer half when it grows beyond this: some 5,000 ids.
	maxJournal = 512 << 10
	// A shorter beginning of an id is not looked up: it would soon mean another one.
	minPrefix = 4
)

// journal remembers which ids this account submitted to one server, prefix and
// tenant, so that an id can be shortened. It is a help only: losing a line of it
// costs a look at the streams, so it needs no lock.
type journal struct {
	path  string
	scope string
}

// openJournal never fails: without a place for it nothing is remembered.
func openJournal(server, prefix, tenant string) journal {
	dir, err := embedded.StateDir()
	if err != nil {
		return journal{}
	}
	return journal{path: filepath.Join(dir, "submitted"), scope: strings.Join([]string{server, prefix, tenant}, "|")}
}

// add appends ids in one write, which other processes' lines do not get into.
func (j journal) add(ids ...string) error {
	if j.path == "" || len(ids) == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return fmt.Errorf("journal of ids: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("journal of ids: %w", err)
	}
	var b bytes.Buffer
	for _, id := range ids {
		fmt.Fprintln(&b, time.Now().Unix(), j.scope, id)
	}
	_, err = f.Write(b.Bytes())
	info, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return fmt.Errorf("journal of ids: %w", err)
	}
	if info.Size() > maxJournal {
		return j.cut()
	}
	return nil
}

func (j journal) cut() error {
	data, err := os.ReadFile(j.path)
	if err != nil {
		return fmt.Errorf("journal of ids: %w", err)
	}
	data = data[len(data)/2:]
	data = data[bytes.IndexByte(data, '\n')+1:]
	tmp, err := os.CreateTemp(filepath.Dir(j.path), ".submitted-")
	if err != nil {
		return fmt.Errorf("journal of ids: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), j.path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("journal of ids: %w", err)
	}
	return nil
}

// find returns the ids of this scope that begin with prefix, the newest first;
// prefix alone if it is one of them.
func (j journal) find(prefix string) ([]string, error) {
	data, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of ids: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		// The scope may hold anything that an address may, spaces too.
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		cut := strings.LastIndexByte(rest, ' ')
		if cut < 0 || rest[:cut] != j.scope || !strings.HasPrefix(rest[cut+1:], prefix) {
			continue
		}
		id := rest[cut+1:]
		if id == prefix {
			return []string{id}, nil
		}
		if !slices.Contains(found, id) {
			found = append(found, id)
		}
	}
	slices.Reverse(found)
	return found, nil
}

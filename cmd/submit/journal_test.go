package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func newJournal(t *testing.T, server string) journal {
	t.Helper()
	return openJournal(server, "runnel", "default")
}

func TestJournal(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	j, other := newJournal(t, "nats://a:1"), newJournal(t, "nats://b c:1")
	for _, add := range []error{j.add("aaaa1", "aaaa2"), other.add("aaaa3"), j.add("aaaa1", "bbbb")} {
		if add != nil {
			t.Fatal(add)
		}
	}
	for name, c := range map[string]struct {
		in     journal
		prefix string
		want   []string
	}{
		"one":           {j, "bb", []string{"bbbb"}},
		"several":       {j, "aaaa", []string{"aaaa2", "aaaa1"}},
		"whole":         {j, "aaaa1", []string{"aaaa1"}},
		"another scope": {other, "aaaa", []string{"aaaa3"}},
		"none":          {j, "c", nil},
		"no journal":    {journal{}, "a", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.in.find(c.prefix)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("find(%q) = %q, %v, want %q", c.prefix, got, err, c.want)
			}
		})
	}
	info, err := os.Stat(j.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestJournalIsBounded(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	j := newJournal(t, "nats://a:1")
	last := ""
	for n := range 100 {
		ids := make([]string, 200)
		for i := range ids {
			ids[i] = fmt.Sprintf("id%06d", 200*n+i)
		}
		last = ids[len(ids)-1]
		if err := j.add(ids...); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(j.path)
	if err != nil || info.Size() > maxJournal {
		t.Errorf("the file has %d bytes, %v, want at most %d", info.Size(), err, maxJournal)
	}
	if got, err := j.find(last); err != nil || len(got) != 1 {
		t.Errorf("find(%q) = %q, %v, want the newest", last, got, err)
	}
	if got, err := j.find("id000000"); err != nil || got != nil {
		t.Errorf("find() of the oldest = %q, %v, want it cut", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(j.path), ".submitted-*")); left != nil {
		t.Errorf("%q are left", left)
	}
}

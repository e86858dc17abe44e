package container

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

// What is on an engine counts as a dead worker's only if it is known to be: labels are anybody's.
func TestWhoIsDead(t *testing.T) {
	dir := t.TempDir()
	me, err := newOwner(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer me.close()
	living, err := newOwner(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer living.close()
	name := contracts.NewRun()
	free := filepath.Join(dir, lockName(name))
	other := filepath.Join(dir, "precious")
	for _, path := range []string{free, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dead := map[string]string{labelOwner: name, labelHost: me.host, labelLock: free}
	with := func(key, value string) map[string]string {
		m := maps.Clone(dead)
		m[key] = value
		return m
	}
	for what, test := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"a lock that nobody holds": {dead, true},
		"a lock that is gone":      {map[string]string{labelOwner: "abcdefgh", labelHost: me.host, labelLock: filepath.Join(dir, lockName("abcdefgh"))}, true},
		"its own":                  {me.labels(), false},
		"a living one's":           {living.labels(), false},
		"another machine's":        {with(labelHost, "elsewhere"), false},
		"another file":             {with(labelLock, other), false},
		"a relative path":          {with(labelLock, lockName(name)), false},
		"no lock":                  {with(labelLock, ""), false},
		"no owner":                 {with(labelOwner, ""), false},
		"no labels":                {nil, false},
	} {
		if got := me.dead(test.labels); got != test.want {
			t.Errorf("%s: dead() = %v, want %v", what, got, test.want)
		}
	}
}

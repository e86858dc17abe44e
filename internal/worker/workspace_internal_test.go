package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Workers that start at once on one work directory do not sweep one another away, and
// sweep what a dead one left.
func TestWorkspacesOfWorkersThatStartAtOnce(t *testing.T) {
	root := t.TempDir()
	dead, err := openWorkspaces(root, "dead")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.open(); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as the kernel does when it dies

	const workers = 32
	rooms := make([]*workspaces, workers)
	var wg sync.WaitGroup
	for i := range rooms {
		wg.Go(func() {
			var err error
			if rooms[i], err = openWorkspaces(root, fmt.Sprintf("w%d", i)); err != nil {
				t.Errorf("openWorkspaces() = %v", err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if _, err := openWorkspaces(root, "w0"); err == nil || !strings.Contains(err.Error(), "--name") {
		t.Errorf("openWorkspaces() under a name that is taken = %v, want what to do", err)
	}
	for i, r := range rooms {
		if _, err := r.open(); err != nil {
			t.Errorf("worker %d lost its directory: %v", i, err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		if info, err := os.Stat(l); err == nil && info.IsDir() {
			t.Errorf("%s was left behind", l)
		}
	}
}

// A workspace serves again only as it was made: whatever a run left in it or on it is gone for the next.
func TestWorkspaceIsNewForEveryRun(t *testing.T) {
	rooms, err := openWorkspaces(t.TempDir(), "w")
	if err != nil {
		t.Fatal(err)
	}
	defer rooms.close()
	for name, tc := range map[string]struct {
		leave func(workspace) error
		same  bool
	}{
		"nothing":     {func(workspace) error { return nil }, true},
		"stdin":       {func(r workspace) error { f, err := r.spool([]byte("x")); f.Close(); return err }, true},
		"a file":      {func(r workspace) error { return os.WriteFile(filepath.Join(r.work, "f"), nil, 0o600) }, false},
		"an artifact": {func(r workspace) error { return os.WriteFile(filepath.Join(r.artifacts, "f"), nil, 0o600) }, false},
		"a mode":      {func(r workspace) error { return os.Chmod(r.work, 0o755) }, false},
		"a closed directory": {func(r workspace) error {
			sub := filepath.Join(r.work, "sub")
			if err := os.MkdirAll(filepath.Join(sub, "deep"), 0o700); err != nil {
				return err
			}
			return os.Chmod(sub, 0)
		}, false},
		"a link in its place": {func(r workspace) error {
			if err := os.Remove(r.work); err != nil {
				return err
			}
			return os.Symlink(t.TempDir(), r.work)
		}, false},
		"no directory": {func(r workspace) error { return os.Remove(r.work) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			first, err := rooms.open()
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.leave(first); err != nil {
				t.Fatal(err)
			}
			if err := first.leave(); err != nil {
				t.Fatal(err)
			}
			next, err := rooms.open()
			if err != nil {
				t.Fatal(err)
			}
			if same := next.dir == first.dir; same != tc.same {
				t.Errorf("the same workspace again: %v, want %v", same, tc.same)
			}
			for _, dir := range []string{next.work, next.artifacts} {
				if !untouched(dir) {
					t.Errorf("%s is not as it was made", dir)
				}
			}
			if err := next.leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

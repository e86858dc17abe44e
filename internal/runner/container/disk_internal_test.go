//go:build unix

package container

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// What is counted is what is there: no holes, nothing behind a link, and no more of it than it takes to know.
func TestDiskHeld(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	w := &diskWatch{dirs: []string{dir, filepath.Join(dir, "gone")}, bytes: 1 << 20, files: 20}
	put := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(dir, "small"), 100_000)
	put(filepath.Join(dir, "holes"), 0)
	if err := os.Truncate(filepath.Join(dir, "holes"), 1<<30); err != nil {
		t.Fatal(err)
	}
	put(filepath.Join(other, "large"), 4<<20)
	if err := os.Symlink(other, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if held := w.held(t.Context()); held.files != 4 || held.bytes < 100_000 || held.bytes > 200_000 {
		t.Errorf("held() = %+v, want 4 entries and 100 kB", held)
	}
	for i := range 1000 {
		put(filepath.Join(dir, strconv.Itoa(i)), 0)
	}
	if held := w.held(t.Context()); held.files != 21 {
		t.Errorf("held() of too many = %+v, want it to stop at 21", held)
	}
	w.files = 1 << 20
	put(filepath.Join(dir, "0"), 2<<20)
	if held := w.held(t.Context()); held.bytes <= w.bytes {
		t.Errorf("held() of too much = %+v", held)
	}
	var told *overDisk
	w.over = func(o *overDisk) { told = o }
	w.run(context.Background()) // returns, because it is too much
	if told == nil || told.Error() == "" {
		t.Errorf("run() tells %v", told)
	}
}

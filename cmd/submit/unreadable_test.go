//go:build unix

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/runnel-project/runnel/internal/queue"
)

// A file that this user may not read is told by its name before anything is asked of a worker. Root may read everything, so
// where the test is root's the commands are another user's.
func TestFilesThatMayNotBeRead(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	closed, shut := o.file("closed"), filepath.Join(o.file("shut"), "file")
	for path, mode := range map[string]os.FileMode{closed: 0, shut: 0o644} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(`{"runtime_kind":"noop"}`), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(shut), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Dir(shut), 0o700) }) // or it cannot be removed
	if os.Getuid() == 0 {
		const nobody = 65534
		o.user = &syscall.Credential{Uid: nobody, Gid: nobody}
		for _, dir := range []string{binaries, filepath.Dir(o.home), o.home} { // the way to the program, and to the files
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
		own := o.file("own")
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(own, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		o.set("HOME", own)
		o.set("TMPDIR", own)
		o.set("XDG_STATE_HOME", own)
	}
	for what, path := range map[string]string{"closed": closed, "below what is shut": shut} {
		for name, args := range map[string][]string{
			"stdin":    {"run", "--stdin", path, "--", "cat"},
			"document": {"send", "-f", path},
			"config":   {"--config", path, "run", "--", "true"},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				got := o.submit(args...)
				if got.code != 125 || got.out != "" || !strings.Contains(got.err, path) || !strings.Contains(got.err, "permission denied") {
					t.Errorf("got %s, want exit code 125 and the file's name", got)
				}
			})
		}
		t.Run("payload of RxP (E12), "+what, func(t *testing.T) {
			got := o.rxp(asked{"input_payload_path": path})
			r := o.result(got)
			if got.code != 125 || r.Status != "rejected" || !strings.Contains(*r.ErrorSummary, path+": permission denied") {
				t.Errorf("got %s, want it rejected with the file's name", got)
			}
		})
	}
	if n := o.traces(); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
}

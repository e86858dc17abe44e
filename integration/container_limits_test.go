package integration_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// Work that makes 10^6 files, or writes without end, comes to its end at the limits that a worker has without a word: in a
// container of its own, a warm one and a sandbox. Nothing is left of it, and the next work is served. With RUNNEL_ROUNDS alone: it
// writes 16 GiB three times.
func TestSoakContainerLimits(t *testing.T) {
	if rounds(t, 0) == 0 {
		t.Skip("with RUNNEL_ROUNDS alone (make soak)")
	}
	const floor = 40e9
	s := newShop(t)
	s.limit = time.Hour
	t.Cleanup(func() {
		if err := enginetest.Remove(); err != nil {
			t.Error(err)
		}
	})
	info, err := enginetest.Client(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if able, err := s.program("worker", "doctor").Output(); !strings.Contains(string(able), "disk (watched)") {
		t.Skipf("the engine's disk is not to be seen from here: %s, %v", able, err)
	}
	s.worker("--warm", s.image+"=1")
	for name, test := range map[string]struct {
		args []string
		says string
		room uint64
	}{
		"files": {args: []string{"/job", "files", "1000000"}, says: "the work keeps more than 500000 files on the disk"},
		"bytes": {args: []string{"/job", "flood", "/runnel/workspace"}, says: "bytes on the disk, and may keep 17179869184", room: floor},
	} {
		t.Run(name, func(t *testing.T) {
			var fs syscall.Statfs_t
			if err := syscall.Statfs(info.DockerRootDir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < test.room {
				t.Skipf("%d GB are free on the engine's disk, %d should be: %v", fs.Bavail*uint64(fs.Bsize)/1e9, test.room/1e9, err)
			}
			s := *s
			s.t = t
			for _, flags := range [][]string{nil, {"--warm"}} {
				began := time.Now()
				id := strings.Join(append([]string{name}, flags...), "")
				got := s.submit(nil, append(append([]string{"run", "--id", id, "--image", s.image, "--timeout", "20m"}, flags...), append([]string{"--"}, test.args...)...)...)
				r := s.show(id)
				if got.code != 137 || r.Status != "failed" || r.Reason != "disk" || !strings.Contains(r.Error, test.says) || (r.Metadata["container.warm"] == "hit") != (flags != nil) {
					t.Errorf("%s: %+v, %+v, want failed/disk: %s", id, got, r, test.says)
				}
				figure(t, id, "ended after %s", since(began))
			}
			began := time.Now()
			id := s.open()
			const says = " has ended" // its result may be waited for: there are its files to be looked through
			if got := s.submit(nil, append([]string{"sandbox", "exec", id, "--"}, test.args...)...); got.code != 125 || !strings.Contains(got.stderr, says) || !strings.Contains(got.stderr, test.says) {
				t.Errorf("exec: %+v, want %s%s", got, says, test.says)
			}
			figure(t, "sandbox "+name, "ended after %s", since(began))
			s.gone(id, s.containers(id))
			if got := s.submit(nil, "run", "--image", s.image, "--warm", "--", "/job", "exit", "0"); got.code != 0 {
				t.Errorf("the next: %+v", got)
			}
		})
	}
}

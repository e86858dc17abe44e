//go:build linux || darwin

package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// A worker says which limits it lacks: one that may use the engine, and not look at its disk, watches no disk; one that may do
// neither serves no containers, and says what stands in its way.
func TestDoctorOfAWorkerWithFewRights(t *testing.T) {
	socket, ok := strings.CutPrefix(enginetest.Client(t).DaemonHost(), "unix://")
	info, err := os.Stat(socket)
	if !ok || err != nil || os.Getuid() != 0 || info.Mode().Perm()&0o060 != 0o060 {
		t.Skipf("the engine is not at a socket of a group, or this is not root: %v", err)
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "runnel-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(fleet.Program(t, "worker"))
	if err != nil {
		t.Fatal(err)
	}
	worker := filepath.Join(dir, "worker")
	if err := os.WriteFile(worker, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	doctor := func(groups ...uint32) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, worker, "doctor")
		cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: groups}}
		out, _ := cmd.Output() // there is no server, which is a problem
		return regexp.MustCompile(" +").ReplaceAllString(string(out), " ")
	}
	may := doctor(info.Sys().(*syscall.Stat_t).Gid)
	for _, want := range []string{"\n container yes\n", "\n container\\.limits .*size of one file", "\n container\\.limits\\.missing .*disk in all\n"} {
		if !regexp.MustCompile(want).MatchString(may) {
			t.Errorf("doctor says\n%s\nwant %q in it", may, want)
		}
	}
	if strings.Contains(may, "disk (watched)") {
		t.Errorf("doctor says\n%s\nand nothing watches the disk", may)
	}
	if not := doctor(); !strings.Contains(not, "\n container not now\n") || !strings.Contains(not, "so the kind is not served: ") || !strings.Contains(not, "permission denied") {
		t.Errorf("doctor says\n%s\nof an engine that it may not use", not)
	}
}

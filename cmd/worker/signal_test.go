//go:build linux || darwin

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// A worker that is told to stop ends what it runs, also what that left in the background, before it ends itself (E21).
func TestSignalEndsWhatRuns(t *testing.T) {
	node := queuetest.Server(t)
	p := start(t, t.TempDir(), "start", "-s", node.URL(), "--drain-timeout", "100ms")
	p.line()
	dir := t.TempDir()
	leader, child := filepath.Join(dir, "leader"), filepath.Join(dir, "child")
	begin(t, node.URL(), "setsid sleep 600 & echo $! > '"+child+"'; echo $$ > '"+leader+"'; exec sleep 600")
	pids := []int{pidIn(t, leader), pidIn(t, child)}
	for _, pid := range pids {
		if !runs(pid) {
			t.Fatalf("process %d does not run", pid)
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, pid := range pids {
		if runs(pid) {
			t.Errorf("process %d outlives the worker", pid)
		}
	}
}

// pidIn waits for a file with the id of a process.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		text, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && strings.HasSuffix(string(text), "\n") {
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("no process id in %s within %s", file, patience)
		}
	}
}

// runs reports whether there is such a process. A zombie that nobody has reaped yet is none.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	state, _ := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return len(state) > 0 && state[0] != 'Z'
}

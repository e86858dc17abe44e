package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// programs are what the tests build, once per test binary.
var programs = struct {
	mu    sync.Mutex
	dir   string
	built map[string]string
}{built: map[string]string{}}

// build builds a program of the module, static and without the race detector.
func build(name, path string) (string, error) {
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if built, ok := programs.built[name]; ok {
		return built, nil
	}
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "runnel-integration")
		if err != nil {
			return "", err
		}
		programs.dir = dir
	}
	program := filepath.Join(programs.dir, name)
	cmd := exec.Command("go", "build", "-o", program, path)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, strings.TrimSpace(string(out)))
	}
	programs.built[name] = program
	return program, nil
}

// Job returns the path of the job program.
func Job(t testing.TB) string {
	t.Helper()
	program, err := build("job", "github.com/runnel-project/runnel/integration/job")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// Program returns the path of one of Runnel's own programs, submit or worker.
func Program(t testing.TB, name string) string {
	t.Helper()
	program, err := build(name, "github.com/runnel-project/runnel/cmd/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// NATS returns the path of the real nats-server.
func NATS(t testing.TB) string {
	t.Helper()
	program, err := build("nats-server", "github.com/nats-io/nats-server/v2")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

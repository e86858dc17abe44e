package integration_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// Runnel's own worker and submit, and the engine of this machine: what a container writes, leaves and ends with comes out
// of the command line, and so does what is wrong with it.
func TestContainersFromTheCommandLine(t *testing.T) {
	image := enginetest.Image(t)
	t.Cleanup(func() {
		if err := enginetest.Remove(); err != nil {
			t.Error(err)
		}
	})
	node := queuetest.Server(t)
	home := t.TempDir()
	program := func(name string, args ...string) *exec.Cmd {
		// The test's own context ends before its worker is told to: that would be killed, and leave its warm containers behind.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, fleet.Program(t, name), args...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_STATE_HOME="+home, "XDG_CONFIG_HOME="+home, "DOCKER_CONFIG="+home)
		return cmd
	}
	worker := program("worker", "start", "--server", node.URL(), "--kinds", "container", "--slots", "2", "--warm", image+"=1")
	ready, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = worker.Process.Signal(os.Interrupt)
		_ = worker.Wait()
	})
	line := make([]byte, 256)
	if n, err := ready.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "ready ") {
		t.Fatalf("the worker says %q, %v", line[:n], err)
	}
	out := t.TempDir()
	for name, test := range map[string]struct {
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		"output":       {args: []string{"--", "/job", "say", "out", "err"}, stdout: "out\n", stderr: "err\n"},
		"warm":         {args: []string{"--warm", "--", "/job", "say", "out", "err"}, stdout: "out\n", stderr: "err\n"},
		"exit code":    {args: []string{"-m", "64MiB", "--cpus", "0.5", "--", "/job", "exit", "7"}, code: 7},
		"input":        {args: []string{"--", "/job", "echo"}, stdin: "through\n", stdout: "through\n"},
		"not found":    {args: []string{"--", "/nowhere"}, code: 127, stderr: "/nowhere"},
		"timeout":      {args: []string{"--timeout", "5", "--grace", "0", "--", "/job", "hang"}, code: 124, stdout: "ready\n"},
		"files":        {args: []string{"-o", out, "--", "/job", "leave", "file"}},
		"no image":     {args: []string{"--pull", "never", "--image", "runnel.test/none", "--", "x"}, code: 125, stderr: "runnel.test/none"},
		"setup":        {args: []string{"--setup", "no shell here", "--", "/job", "say", "out", "err"}, code: 127, stderr: "setup"},
		"not allowed":  {args: []string{"--network", "host", "--", "/job", "exit", "0"}, code: 125, stderr: "does not allow"},
		"not a volume": {args: []string{"-v", "x", "--", "/job", "exit", "0"}, code: 125, stderr: "--volume"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program("submit", append([]string{"--server", node.URL(), "run", "--image", image}, test.args...)...)
			var stdout, stderr strings.Builder
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(test.stdin), &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != test.code || stdout.String() != test.stdout || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d, %q, %q", code, &stdout, &stderr, test.code, test.stdout, test.stderr)
			}
		})
	}
	if text, err := os.ReadFile(filepath.Join(out, "file")); string(text) != "content\n" {
		t.Errorf("the file came as %q, %v", text, err)
	}
}

package subprocess_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func TestOutcome(t *testing.T) {
	tests := map[string]struct {
		script         string
		status         contracts.Status
		reason         contracts.Reason
		code           int
		stdout, stderr string
	}{
		"succeeds":           {"echo out; echo err >&2", contracts.StatusSucceeded, "", 0, "out\n", "err\n"},
		"exit code (E17)":    {"exit 3", contracts.StatusFailed, contracts.ReasonExit, 3, "", ""},
		"highest exit code":  {"exit 255", contracts.StatusFailed, contracts.ReasonExit, 255, "", ""},
		"signal (E17)":       {"kill -SEGV $$", contracts.StatusFailed, contracts.ReasonSignal, -11, "", ""},
		"kills itself (E17)": {"printf x; kill -KILL $$", contracts.StatusFailed, contracts.ReasonSignal, -9, "x", ""},
		"says 128+n itself":  {"exit 143", contracts.StatusFailed, contracts.ReasonExit, 143, "", ""},
		"stdin is empty":     {"cat; echo end", contracts.StatusSucceeded, "", 0, "end\n", ""}, // E16
		"own session (E18)":  {"test $(ps -o sid= -p $$) -eq $$", contracts.StatusSucceeded, "", 0, "", ""},
	}
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				outcome, sink := run(t, r, shell(t, test.script))
				if outcome.Status != test.status || outcome.Reason != test.reason || code(outcome) != test.code {
					t.Errorf("outcome = %s/%s %d, want %s/%s %d",
						outcome.Status, outcome.Reason, code(outcome), test.status, test.reason, test.code)
				}
				if outcome.Error != "" || outcome.Killed != "" || outcome.Warnings != nil {
					t.Errorf("outcome says %q, %q, %q, want nothing (E17)", outcome.Error, outcome.Killed, outcome.Warnings)
				}
				if sink.Stdout() != test.stdout || sink.Stderr() != test.stderr {
					t.Errorf("output = %q, %q, want %q, %q", sink.Stdout(), sink.Stderr(), test.stdout, test.stderr)
				}
			})
		}
	})
}

// A command that cannot be started is a result with the path that was looked up, not an error (E22, S12, T4, T6).
func TestCannotStart(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "#!/bin/sh\n", 0o644)
	orphan := write("orphan", "#!/no/such/interpreter\n", 0o755)
	text := write("text", "echo no first line\n", 0o755)

	tests := map[string]struct {
		command, path string
		reason        contracts.Reason
		code          int
		says          string
	}{
		"not in PATH":            {"no-such-command", "/usr/bin:/bin", contracts.ReasonNotFound, 127, "command not found: no-such-command: looked for in PATH /usr/bin:/bin"},
		"no such file":           {"/no/such/file", "", contracts.ReasonNotFound, 127, "/no/such/file"},
		"relative to workdir":    {"./missing", "", contracts.ReasonNotFound, 127, "missing"},
		"not executable":         {plain, "", contracts.ReasonNotExecutable, 126, plain},
		"in PATH, no permission": {"plain", dir, contracts.ReasonNotExecutable, 126, plain},
		"a directory":            {dir, "", contracts.ReasonNotExecutable, 126, "is a directory"},
		"no interpreter":         {orphan, "", contracts.ReasonNotExecutable, 126, "interpreter"},
		"no format":              {"text", dir, contracts.ReasonNotExecutable, 126, text},
	}
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				job := command(t, test.command)
				if test.path != "" {
					job.Environment = map[string]string{"PATH": test.path}
				}
				outcome, _ := run(t, r, job)
				if outcome.Status != contracts.StatusFailed || outcome.Reason != test.reason || code(outcome) != test.code {
					t.Errorf("outcome = %s/%s %d, want failed/%s %d", outcome.Status, outcome.Reason, code(outcome), test.reason, test.code)
				}
				if !strings.Contains(outcome.Error, test.says) {
					t.Errorf("error = %q, want it to name %q", outcome.Error, test.says)
				}
			})
		}
	})
}

// The PATH that counts is the job's, not the worker's, and its relative elements start in the working directory (T4).
func TestLooksUpOverTheJobsPath(t *testing.T) {
	r := open(t, subprocess.Config{})
	job := command(t, "mine", "arg with space", "$HOME", "*")
	job.Environment = map[string]string{"PATH": "bin"}
	if err := os.Mkdir(filepath.Join(job.Dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nfor a; do echo \"<$a>\"; done\n"
	if err := os.WriteFile(filepath.Join(job.Dir, "bin", "mine"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	outcome, sink := run(t, r, job)
	if want := "<arg with space>\n<$HOME>\n<*>\n"; code(outcome) != 0 || sink.Stdout() != want {
		t.Errorf("Run() = %d %q, want 0 %q: arguments go as they are (E16)", code(outcome), sink.Stdout(), want)
	}
}

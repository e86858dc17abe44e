package subprocess_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func TestWorkingDirectory(t *testing.T) { // E13, T29
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"allowed/inner", "other", "work/own/made", "work/neighbour"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"allowed/out": "../other", "into": "allowed/inner", "work/own/out": "../neighbour", "work/own/in": "made",
	} {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"allowed/file", "work/own/file"} {
		if err := os.WriteFile(filepath.Join(base, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing := "working directory does not exist: "

	tests := map[string]struct {
		dir    string // BASE stands for the base
		at     string // where it starts, below the base
		reason contracts.Reason
		says   string
	}{
		"none is the workspace":       {dir: "", at: "work/own"},
		"relative, made":              {dir: "new/deep", at: "work/own/new/deep"},
		"relative, there already":     {dir: "./made/../made", at: "work/own/made"},
		"relative, the workspace":     {dir: ".", at: "work/own"},
		"relative, link inside":       {dir: "in/x", at: "work/own/made/x"},
		"absolute, allowed":           {dir: "BASE/allowed", at: "allowed"},
		"absolute, below the allowed": {dir: "BASE/allowed/inner/", at: "allowed/inner"},
		"absolute, link to allowed":   {dir: "BASE/into", at: "allowed/inner"},
		"absolute, the workspace":     {dir: "BASE/work/own", reason: contracts.ReasonNotAllowed, says: "does not allow"},

		"relative, escapes":             {dir: "../neighbour", reason: contracts.ReasonBadInvocation, says: "leaves the workspace"},
		"relative, escapes deep":        {dir: "a/../../neighbour", reason: contracts.ReasonBadInvocation, says: "leaves the workspace"},
		"relative, escapes by a link":   {dir: "out", reason: contracts.ReasonBadInvocation, says: "leaves the workspace"},
		"relative, below such a link":   {dir: "out/x", reason: contracts.ReasonBadInvocation, says: "leaves the workspace"},
		"relative, a file":              {dir: "file", reason: contracts.ReasonBadInvocation, says: missing + base + "/work/own/file"},
		"relative, below a file":        {dir: "file/x", reason: contracts.ReasonBadInvocation, says: missing},
		"relative, NUL":                 {dir: "a\x00b", reason: contracts.ReasonBadInvocation, says: "NUL"},
		"absolute, NUL":                 {dir: "BASE/allowed/\x00", reason: contracts.ReasonBadInvocation, says: "NUL"},
		"absolute, missing":             {dir: "BASE/allowed/none", reason: contracts.ReasonBadInvocation, says: missing + base + "/allowed/none"},
		"absolute, a file":              {dir: "BASE/allowed/file", reason: contracts.ReasonBadInvocation, says: missing},
		"absolute, not allowed":         {dir: "BASE/other", reason: contracts.ReasonNotAllowed, says: base + "/other"},
		"absolute, dots out":            {dir: "BASE/allowed/../other", reason: contracts.ReasonNotAllowed, says: "does not allow"},
		"absolute, link out":            {dir: "BASE/allowed/out", reason: contracts.ReasonNotAllowed, says: "does not allow"},
		"absolute, missing below link":  {dir: "BASE/allowed/out/none", reason: contracts.ReasonNotAllowed, says: "does not allow"},
		"absolute, missing elsewhere":   {dir: "/no/such", reason: contracts.ReasonNotAllowed, says: "does not allow"},
		"absolute, name begins alike":   {dir: "BASE/allowed-not", reason: contracts.ReasonNotAllowed, says: "does not allow"},
		"absolute, another's workspace": {dir: "BASE/work/neighbour", reason: contracts.ReasonNotAllowed, says: "does not allow"},
	}
	r := open(t, subprocess.Config{WorkRoot: base + "/work", AllowWorkdir: []string{base + "/allowed", "/no/such/allowed"}})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			job := shell(t, "pwd -P")
			job.Dir = base + "/work/own"
			job.WorkingDirectory = strings.Replace(test.dir, "BASE", base, 1)
			sink := &runnertest.Sink{}
			_, err := r.Run(t.Context(), job, sink)
			if test.reason == "" {
				if want := filepath.Join(base, test.at) + "\n"; err != nil || sink.Stdout() != want {
					t.Errorf("Run() = %v, starts in %q, want %q", err, sink.Stdout(), want)
				}
				return
			}
			var rejection *runner.Rejection
			if !errors.As(err, &rejection) {
				t.Fatalf("Run() = %v, starts in %q, want a rejection", err, sink.Stdout())
			}
			if rejection.Reason != test.reason || !strings.Contains(rejection.Text, test.says) {
				t.Errorf("rejection = %s %q, want %s with %q", rejection.Reason, rejection.Text, test.reason, test.says)
			}
		})
	}
}

// The whole machine may be allowed; other runs' workspaces still are not.
func TestWorkRootIsNeverAllowed(t *testing.T) {
	work := t.TempDir()
	for _, dir := range []string{"own", "neighbour"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := open(t, subprocess.Config{WorkRoot: work, AllowWorkdir: []string{"/"}})
	for dir, allowed := range map[string]bool{"/": true, work + "/own": true, work + "/neighbour": false, work: false} {
		job := shell(t, "exit 0")
		job.Dir, job.WorkingDirectory = work+"/own", dir
		if _, err := r.Run(t.Context(), job, &runnertest.Sink{}); (err == nil) != allowed {
			t.Errorf("Run() in %s = %v, want allowed: %v", dir, err, allowed)
		}
	}
}

func TestRelativeAllowWorkdirIsRefused(t *testing.T) {
	if r, err := subprocess.New(subprocess.Config{AllowWorkdir: []string{"here"}}); err == nil {
		t.Errorf("New() = %v, want an error", r)
	}
}

package subprocess_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

// The worker of these tests has this; SECRET stands for what must not get out by itself (E15, S2).
var workerEnviron = []string{
	"PATH=/usr/bin:/bin", "LANG=C", "LC_ALL=C", "LC_TIME=C", "TZ=UTC", "HTTPS_PROXY=http://p:1", "no_proxy=localhost",
	"HOME=/root", "TMPDIR=/var/tmp", "PWD=/", "SHLVL=3", "SECRET=s3cret", "CI_JOB=7", "CI_TOKEN=t", "EMPTY=",
	"RUNNEL_TOKEN=worker", "RUNNEL_SERVER=nats://x", "TZ=second",
}

func TestEnvironment(t *testing.T) { // E15, T22–T24
	defaults := map[string]string{
		"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "LC_TIME": "C", "TZ": "UTC",
		"HTTPS_PROXY": "http://p:1", "no_proxy": "localhost", "HOME": "DIR", "TMPDIR": "DIR",
		"RUNNEL_INVOCATION_ID": "job", "RUNNEL_ATTEMPT": "3", "RUNNEL_WORKSPACE": "DIR", "RUNNEL_ARTIFACTS": "ART",
	}
	tests := map[string]struct {
		passEnv, denyEnv []string
		pass, deny       []string
		set              map[string]string
		more             map[string]string // over the defaults
		less             []string
	}{
		"defaults":                               {},
		"the worker passes more":                 {passEnv: []string{"CI_*"}, more: map[string]string{"CI_JOB": "7", "CI_TOKEN": "t"}},
		"the invocation passes more":             {pass: []string{"SECRET"}, more: map[string]string{"SECRET": "s3cret"}},
		"an empty value is passed":               {pass: []string{"EMPTY"}, more: map[string]string{"EMPTY": ""}},
		"case does not count (T24)":              {pass: []string{"ci_j?b"}, more: map[string]string{"CI_JOB": "7"}},
		"the worker's policy wins":               {denyEnv: []string{"*secret*", "ci_*"}, pass: []string{"*"}, more: map[string]string{"EMPTY": ""}},
		"the worker takes a default away":        {denyEnv: []string{"LC_*"}, less: []string{"LC_ALL", "LC_TIME"}},
		"the invocation takes away":              {deny: []string{"lc_*", "HOME"}, less: []string{"LC_ALL", "LC_TIME", "HOME"}},
		"denied after passed":                    {pass: []string{"CI_*"}, deny: []string{"*TOKEN"}, more: map[string]string{"CI_JOB": "7"}},
		"set after denied":                       {deny: []string{"*"}, set: map[string]string{"PATH": "/bin:/usr/bin", "A": "b"}, more: map[string]string{"PATH": "/bin:/usr/bin", "A": "b"}, less: []string{"LANG", "LC_ALL", "LC_TIME", "TZ", "HTTPS_PROXY", "no_proxy", "HOME", "TMPDIR"}},
		"set over passed, empty is empty":        {set: map[string]string{"LANG": "", "HOME": "/h"}, more: map[string]string{"LANG": "", "HOME": "/h"}},
		"a wildcard does not bring the home":     {passEnv: []string{"*"}, more: map[string]string{"SECRET": "s3cret", "CI_JOB": "7", "CI_TOKEN": "t", "EMPTY": ""}},
		"by name it does":                        {passEnv: []string{"home"}, pass: []string{"TMPDIR"}, more: map[string]string{"HOME": "/root", "TMPDIR": "/var/tmp"}},
		"the reserved names cannot be taken":     {set: map[string]string{"RUNNEL_ATTEMPT": "9", "RUNNEL_TREE": "x"}, deny: []string{"RUNNEL_*"}, more: map[string]string{"RUNNEL_TREE": "x"}},
		"nor the worker's own settings be asked": {passEnv: []string{"RUNNEL_*"}, pass: []string{"RUNNEL_TOKEN"}},
		"bytes go as they are":                   {set: map[string]string{"B": "\xff\n = $HOME", "é": "ü"}, more: map[string]string{"B": "\xff\n = $HOME", "é": "ü"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := open(t, subprocess.Config{PassEnv: test.passEnv, DenyEnv: test.denyEnv, Environ: workerEnviron})
			job := command(t, "/usr/bin/env", "-0")
			job.Attempt = 3
			job.EnvironmentPass, job.EnvironmentDeny, job.Environment = test.pass, test.deny, test.set
			_, sink := run(t, r, job)

			got := make(map[string]string)
			for entry := range strings.SplitSeq(strings.TrimSuffix(sink.Stdout(), "\x00"), "\x00") {
				key, value, _ := strings.Cut(entry, "=")
				if _, twice := got[key]; twice {
					t.Errorf("%s is there twice", key)
				}
				got[key] = value
			}
			want := maps.Clone(defaults)
			maps.Copy(want, test.more)
			for _, key := range test.less {
				delete(want, key)
			}
			for key, value := range want {
				if value == "DIR" {
					want[key] = job.Dir
				} else if value == "ART" {
					want[key] = job.Artifacts
				}
			}
			if strings.HasPrefix(r.Capabilities()["subprocess.kill"], subprocess.RungSubreaper) {
				// The rung marks what it starts, whatever the invocation sets.
				delete(got, "RUNNEL_TREE")
				delete(want, "RUNNEL_TREE")
			}
			if !maps.Equal(got, want) {
				t.Errorf("environment = %q\nwant %q", sorted(got), sorted(want))
			}
		})
	}
}

func sorted(env map[string]string) (list []string) {
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}

// The patterns of the worker are checked when it starts, those of an invocation reject it, by name and with a hint (T24).
func TestBadPatterns(t *testing.T) {
	for field, cfg := range map[string]subprocess.Config{
		"passed environment": {PassEnv: []string{"A B"}},
		"denied environment": {DenyEnv: []string{""}},
	} {
		if r, err := subprocess.New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New(%+v) = %v, %v, want an error that names %q", cfg, r, err, field)
		}
	}
	r := open(t, subprocess.Config{})
	for field, set := range map[string]func(*runner.Job){
		"environment_pass": func(job *runner.Job) { job.EnvironmentPass = []string{"A", "B\tC"} },
		"environment_deny": func(job *runner.Job) { job.EnvironmentDeny = []string{""} },
	} {
		job := shell(t, "exit 0")
		set(&job)
		_, err := r.Run(t.Context(), job, &runnertest.Sink{})
		var rejection *runner.Rejection
		if !errors.As(err, &rejection) || rejection.Reason != contracts.ReasonBadInvocation || !strings.Contains(rejection.Text, field) {
			t.Errorf("Run() = %v, want a rejection that names %q", err, field)
		}
	}
}

// The mark of the subreaper rung cannot be set by an invocation to another run's.
func TestMarkCannotBeForged(t *testing.T) {
	r := open(t, subprocess.Config{Ladder: rungs[len(rungs)-1]})
	job := shell(t, "tr '\\0' '\\n' < /proc/self/environ | grep -c '^RUNNEL_TREE=forged'")
	job.Environment = map[string]string{"RUNNEL_TREE": "forged"}
	if outcome, sink := run(t, r, job); sink.Stdout() != "0\n" {
		t.Errorf("a job has a mark of its own choice: %q (%d)", sink.Stdout(), code(outcome))
	}
}

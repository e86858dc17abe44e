package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// lastWord is what is shown of an invocation.
type lastWord struct {
	Status   string            `json:"status"`
	Reason   string            `json:"reason"`
	Error    string            `json:"error_summary"`
	Metadata map[string]string `json:"metadata"`
}

func (s *shop) show(id string, flags ...string) (r lastWord) {
	s.t.Helper()
	got := s.submit(nil, append(flags, "show", "--json", id)...)
	var whole struct{ Result lastWord }
	if err := json.Unmarshal([]byte(got.stdout), &whole); err != nil {
		s.t.Fatalf("show: %+v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || whole.Result.Status != "" {
		r = whole.Result
	}
	return r
}

// A sandbox that comes to its end by itself says how to the command that runs, to the next one and to who asks, and leaves its
// files and nothing else; its worker opens others.
func endedSandboxes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.worker()
	for name, test := range map[string]struct {
		open                         []string
		end                          func(t *testing.T, s *shop, id string)
		status, reason, says, waited string
		code                         int
	}{
		"by its time": {open: []string{"--timeout", "8", "--idle", "1h"}, status: "timed_out", reason: "timeout", says: "sandbox exceeded timeout of 8 seconds", code: 124},
		"its agent killed": {status: "failed", reason: "infra", says: "the sandbox ended by itself", code: 125, end: func(t *testing.T, s *shop, id string) {
			info, err := enginetest.Client(t).ContainerInspect(t.Context(), s.containers(id)[0])
			if err != nil {
				t.Fatal(err)
			}
			pid := info.State.Pid
			if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.HasPrefix(string(command), "/runnel/.agent") {
				t.Skipf("the engine's processes are not to be seen from here: %q, %v", command, err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := *s
			s.t = t
			id := s.open(test.open...)
			if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "leave", "file"); got.code != 0 {
				t.Errorf("leave: %+v", got)
			}
			if got := s.submit(nil, "sandbox", "ls"); !strings.Contains(got.stdout, id) {
				t.Errorf("ls: %+v, want %s", got, id)
			}
			caller := s.begin(id, "hang", "deaf")
			if test.end != nil {
				test.end(t, &s, id)
			}
			_ = caller.Wait()
			says := fmt.Sprintf("sandbox %s has ended: %s/%s: %s", id, test.status, test.reason, test.says)
			if code := caller.ProcessState.ExitCode(); code != 125 || !strings.Contains(fmt.Sprint(caller.Stderr), says) {
				t.Errorf("the command that ran ends with %d, %s; want 125 and %q", code, caller.Stderr, says)
			}
			if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "exit", "0"); got.code != 125 || !strings.Contains(got.stderr, says) {
				t.Errorf("the next command: %+v, want 125 and %q", got, says)
			}
			if got := s.submit(nil, "sandbox", "ls"); strings.Contains(got.stdout, id) {
				t.Errorf("ls: %+v, want %s gone", got, id)
			}
			if r := s.show(id); r.Status != test.status || r.Reason != test.reason || !strings.Contains(r.Error, test.says) {
				t.Errorf("show: %+v, want %s/%s", r, test.status, test.reason)
			}
			if got := s.submit(nil, "wait", id); got.code != test.code {
				t.Errorf("wait: %+v, want %d", got, test.code)
			}
			out := t.TempDir()
			if got := s.submit(nil, "sandbox", "close", id, "-o", out); got.code != 0 {
				t.Errorf("close: %+v", got)
			}
			if data, err := os.ReadFile(filepath.Join(out, "file")); err != nil || string(data) != "content\n" {
				t.Errorf("what it left came as %q, %v", data, err)
			}
			if left := s.containers(id); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			next := s.open()
			if got := s.submit(nil, "sandbox", "close", next); got.code != 0 {
				t.Errorf("close of the next: %+v", got)
			}
		})
	}
}

// Two tenants' sandboxes of one id on one worker are two: neither is seen, listed, called or closed by the other.
func tenantsSandboxes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.worker()
	as := func(tenant string, args ...string) said {
		return s.submit(nil, append([]string{"--tenant", tenant}, args...)...)
	}
	for _, tenant := range []string{"alice", "bob"} {
		for _, id := range []string{"same", "of-" + tenant} {
			if got := as(tenant, "sandbox", "open", "--image", s.image, "--id", id); got.code != 0 || got.stdout != id+"\n" {
				t.Fatalf("open: %+v", got)
			}
		}
	}
	if made := s.containers("same"); len(made) != 2 {
		t.Errorf("containers of one id in two tenants: %q", made)
	}
	if got := as("alice", "sandbox", "exec", "same", "--", "/job", "leave", "file", "workspace"); got.code != 0 {
		t.Errorf("leave: %+v", got)
	}
	if got := as("bob", "sandbox", "exec", "same", "--", "/job", "traces"); got.code != 0 || strings.Contains(got.stdout, "trace ") {
		t.Errorf("the other's files are seen: %+v", got)
	}
	for tenant, other := range map[string]string{"alice": "bob", "bob": "alice"} {
		if got := as(tenant, "sandbox", "ls"); strings.Count(got.stdout, "same") != 1 || !strings.Contains(got.stdout, "of-"+tenant) || strings.Contains(got.stdout, "of-"+other) {
			t.Errorf("ls of %s: %+v", tenant, got)
		}
		for _, args := range [][]string{
			{"sandbox", "exec", "of-" + other, "--", "/job", "exit", "0"}, {"sandbox", "close", "of-" + other}, {"show", "of-" + other}, {"cancel", "of-" + other}, {"logs", "of-" + other},
		} {
			if got := as(tenant, args...); got.code == 0 || !strings.Contains(got.stderr, "tenant "+tenant) && !strings.Contains(got.stderr, "not found") {
				t.Errorf("%s: %q: %+v, want that there is none", tenant, args, got)
			}
		}
	}
	if got := as("bob", "sandbox", "close", "same"); got.code != 0 {
		t.Errorf("close: %+v", got)
	}
	if got := as("alice", "sandbox", "exec", "same", "--", "/job", "look", "/runnel/workspace/made"); got.code != 0 || !strings.Contains(got.stdout, "made") {
		t.Errorf("after the other's end: %+v", got)
	}
	for _, args := range [][]string{{"alice", "same"}, {"alice", "of-alice"}, {"bob", "of-bob"}} {
		if got := as(args[0], "sandbox", "close", args[1]); got.code != 0 || !strings.Contains(got.stdout, "succeeded") {
			t.Errorf("close of %q: %+v", args, got)
		}
	}
}

// A setup of the command line is done once by the image's shell, and found again by the next run; one that fails says how.
func TestSetupFromTheCommandLine(t *testing.T) {
	s := newShop(t)
	s.image = enginetest.Shell(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		api := enginetest.Client(t)
		list, err := api.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.runnel.setup"))})
		for _, i := range list {
			if strings.HasPrefix(i.Labels["io.runnel.lock"], s.home+"/") && err == nil {
				_, err = api.ImageRemove(ctx, i.ID, image.RemoveOptions{Force: true})
			}
		}
		if err != nil {
			t.Error(err)
		}
		if err := enginetest.Remove(); err != nil {
			t.Error(err)
		}
	})
	s.worker()
	run := func(args ...string) said {
		return s.submit(nil, append([]string{"run", "--image", s.image}, args...)...)
	}
	both := []string{"--setup", "stamp /first", "--setup", "stamp /second", "--", "/job", "look", "/first", "/second"}
	first := run(append([]string{"--id", "first"}, both...)...)
	if first.code != 0 || strings.Count(first.stdout, " <nil>\n") != 2 || strings.Count(first.stderr, "stamped\n") != 2 {
		t.Errorf("the first: %+v", first)
	}
	again := run(append([]string{"--id", "again"}, both...)...)
	if again.code != 0 || !strings.HasSuffix(first.stdout, again.stdout) || again.stdout == "" || strings.Contains(again.stderr, "stamped") {
		t.Errorf("the second: %+v, the first said %q", again, first.stdout)
	}
	for id, cached := range map[string]string{"first": "false", "again": "true"} {
		if r := s.show(id); r.Metadata["container.setup.cached"] != cached || r.Metadata["container.setup.exit_code"] != "0" {
			t.Errorf("show %s: %+v, want cached %s", id, r, cached)
		}
	}
	for line, want := range map[string]said{
		"exit 3\nstamp /never": {code: 3, stderr: "the setup failed, so the command did not run: exit code 3"},
		"apt-get update":       {code: 127, stderr: "apt-get: not found"},
	} {
		if got := run("--setup", line, "--", "/job", "say", "ran", "ran"); got.code != want.code || got.stdout != "" || !strings.Contains(got.stderr, want.stderr) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

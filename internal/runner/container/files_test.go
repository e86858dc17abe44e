package container_test

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// What lies in the workspace is there, and belongs to whoever the work runs as.
func TestFilesGoIn(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	for user, who := range map[string]string{"": "1000 1000", "0": "0 0", "77:78": "77 78", "worker": "0 0", "worker:workers": "0 0"} {
		job := command(t, "look", "/runnel/workspace", "/runnel/artifacts", "in", "deep/er/script", "link", "made/here", "/etc/passwd")
		job.Container.User = user
		write(t, filepath.Join(job.Dir, "in"), "input", 0o600)
		write(t, filepath.Join(job.Dir, "deep/er/script"), "#!", 0o750)
		if err := os.Symlink("in", filepath.Join(job.Dir, "link")); err != nil {
			t.Fatal(err)
		}
		o, sink := run(t, r, job)
		if o.Status != contracts.StatusSucceeded {
			t.Fatalf("as %q: %+v\n%s", user, o, sink.Stderr())
		}
		dir, file := "drwx------", "-rw-------"
		if strings.HasPrefix(user, "worker") {
			dir, file = "drwxrwxrwx", "-rw-rw-rw-"
		}
		for _, want := range []string{
			"/runnel/workspace " + dir + " " + who, "/runnel/artifacts " + dir + " " + who, "in " + file + " " + who + ` "input" <nil>`,
			who + ` "#!" <nil>`, "link Lrwxrwxrwx ",
		} {
			if !strings.Contains(sink.Stdout(), want) {
				t.Errorf("as %q it sees\n%s\nwant %q", user, sink.Stdout(), want)
			}
		}
	}
}

// What the work finds around itself: nothing of the worker's.
func TestSurroundings(t *testing.T) {
	t.Setenv("WORKERS_SECRET", "secret")
	r := open(t, container.Config{})
	job := command(t, "env")
	job.ID, job.Attempt, job.WorkingDirectory = "some-id", 3, "a/b"
	job.Environment = map[string]string{"SET": "by the job", "IMAGE": "changed"}
	o, sink := run(t, r, job)
	if o.Status != contracts.StatusSucceeded {
		t.Fatalf("Run() = %+v\n%s", o, sink.Stderr())
	}
	for _, want := range []string{
		"dir /runnel/workspace/a/b <nil>\n", "ids 1000 1000 [1000] pid1 false\n", "env SET=by the job\n", "env IMAGE=changed\n", "env PATH=/\n",
		"env HOME=/runnel/workspace\n", "env RUNNEL_INVOCATION_ID=some-id\n", "env RUNNEL_ATTEMPT=3\n",
		"env RUNNEL_WORKSPACE=/runnel/workspace\n", "env RUNNEL_ARTIFACTS=/runnel/artifacts\n",
	} {
		if !strings.Contains(sink.Stdout(), want) {
			t.Errorf("it sees\n%s\nwant %q", sink.Stdout(), want)
		}
	}
	if strings.Contains(sink.Stdout(), "secret") {
		t.Errorf("it sees the worker's environment:\n%s", sink.Stdout())
	}
	job = command(t, "env")
	job.Container.User, job.Container.NoInit, job.WorkingDirectory = "worker:workers", true, "/tmp"
	if _, sink := run(t, r, job); !strings.Contains(sink.Stdout(), "dir /tmp <nil>\nids 1234 1235 [1235] pid1 true\n") {
		t.Errorf("as another user it sees\n%s", sink.Stdout())
	}
}

// Files come back with their modes; what is no file is refused by name, and leads nowhere.
func TestArtifactsComeBack(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	job := command(t, "leave", "file", "script", "secret", "deep", "symlink", "dirlink", "hardlink", "fifo", "socket", "workspace")
	job.ArtifactGlobs = []string{"made"}
	o, sink := run(t, r, job)
	if o.Status != contracts.StatusSucceeded {
		t.Fatalf("Run() = %+v\n%s", o, sink.Stdout())
	}
	want := map[string]string{"file": "content\n", "script": "#!/bin/sh\n", "secret": "secret\n", "deep/a/b/c": "deep\n", "hardlink": "content\n"}
	if got := tree(t, job.Artifacts); len(got) != len(want) {
		t.Errorf("artifacts are %v, want %v", got, want)
	} else {
		for name, content := range want {
			if got[name] != content {
				t.Errorf("%s is %q, want %q", name, got[name], content)
			}
		}
	}
	if info, err := os.Stat(filepath.Join(job.Artifacts, "script")); err != nil || info.Mode() != 0o755 {
		t.Errorf("script: %v, %v, want mode 0755", info, err)
	}
	if got := tree(t, job.Dir); got["made"] != "made\n" {
		t.Errorf("the workspace came back as %v", got)
	}
	for _, name := range []string{"symlink", "dirlink", "fifo"} {
		if !slices.ContainsFunc(o.Warnings, func(w string) bool { return strings.Contains(w, "artifacts/"+name+`"`) }) {
			t.Errorf("warnings %q do not name %s", o.Warnings, name)
		}
	}
}

func TestArtifactsBeyondTheCaps(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{MaxOut: mega, MaxOutFiles: 100, MaxFile: 4 * mega})
	for name, args := range map[string][]string{"bytes": {"leave", "file", "2000000"}, "files": {"files", "200"}} {
		o, _ := run(t, r, command(t, args...))
		if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonArtifacts || !strings.Contains(o.Error, "more files than this worker takes") {
			t.Errorf("%s: Run() = %+v, want failed/artifacts", name, o)
		}
	}
}

// A directory of the machine is seen where the policy lets it be, read-only unless it is said; the same source may
// be there twice (S21).
func TestMounts(t *testing.T) {
	t.Parallel()
	allowed := t.TempDir()
	write(t, filepath.Join(allowed, "data", "x"), "mounted", 0o644)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(allowed, "out")); err != nil {
		t.Fatal(err)
	}
	r := open(t, container.Config{AllowMount: []string{allowed}})
	job := command(t, "look", "/one/x", "/two/x")
	job.Container.User = "0"
	source := filepath.Join(allowed, "data")
	job.Container.Mounts = []contracts.Mount{{Source: source, Target: "/one"}, {Source: source, Target: "/two", Writable: true}}
	if o, sink := run(t, r, job); o.Status != contracts.StatusSucceeded || strings.Count(sink.Stdout(), `"mounted"`) != 2 {
		t.Errorf("Run() = %+v\n%s", o, sink.Stdout())
	}
	for _, source := range []string{outside, filepath.Join(allowed, "out"), "/", "/var/run/docker.sock"} {
		job := command(t, "exit", "0")
		job.Container.Mounts = []contracts.Mount{{Source: source, Target: "/one"}}
		if _, err := r.Run(t.Context(), job, &runnertest.Sink{}); err == nil || !strings.Contains(err.Error(), "does not allow") {
			t.Errorf("mounting %s: Run() = %v, want it refused", source, err)
		}
	}
}

// A published port can be reached on the engine's machine, and the result says where (S22).
func TestPorts(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	job := command(t, "serve", "8080")
	job.Container.Network, job.Container.Ports = "bridge", []string{"8080"}
	ctx, cancel := contextWithCause(t)
	answer := make(chan string, 1)
	sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
		go func() {
			defer cancel(runner.ErrCancelled)
			answer <- ask(t, job)
		}()
		return nil
	}}
	o, err := r.Run(ctx, job, sink)
	if err == nil || o.Metadata["container.port.8080/tcp"] == "" {
		t.Fatalf("Run() = %+v, %v, want the port's address", o, err)
	}
	if got := <-answer; !strings.HasSuffix(got, " hello\n") || !strings.HasPrefix(got, o.Metadata["container.port.8080/tcp"]+" ") {
		t.Errorf("asked at %s it answers %q", o.Metadata, got)
	}
}

// ask connects to the published port of a container that runs.
func ask(t testing.TB, job runner.Job) string {
	info, err := engineClient(t).ContainerInspect(background(t), "runnel-"+job.Run)
	if err != nil {
		return err.Error()
	}
	bindings := info.NetworkSettings.Ports["8080/tcp"]
	if len(bindings) != 1 {
		return fmt.Sprintf("it is published at %v", bindings)
	}
	at := net.JoinHostPort(bindings[0].HostIP, bindings[0].HostPort)
	c, err := net.Dial("tcp", at)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	text, _ := io.ReadAll(c)
	return at + " " + string(text)
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// tree returns every file below dir.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		data, err := os.ReadFile(path)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

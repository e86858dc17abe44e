package integration_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// shop is Runnel's own programs on a server of their own, and the engine of this machine.
type shop struct {
	t           testing.TB
	image, home string
	node        *queuetest.Node
	limit       time.Duration // of each program; 0 is 3 minutes
}

func newShop(t testing.TB) *shop {
	return &shop{t: t, image: enginetest.Image(t), home: t.TempDir(), node: queuetest.Server(t)}
}

func (s *shop) program(name string, args ...string) *exec.Cmd {
	// The test's own context ends before its worker is told to: that would be killed, and leave its warm containers behind.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), cmp.Or(s.limit, 3*time.Minute))
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, fleet.Program(s.t, name), args...)
	cmd.Env = append(os.Environ(), "HOME="+s.home, "XDG_STATE_HOME="+s.home, "XDG_CONFIG_HOME="+s.home, "DOCKER_CONFIG="+s.home, "RUNNEL_SERVER="+s.node.URL())
	return cmd
}

// worker starts one, and ends it when the test does.
func (s *shop) worker(args ...string) *exec.Cmd {
	s.t.Helper()
	w := s.program("worker", append([]string{"start", "--kinds", "container", "--slots", "4"}, args...)...)
	ready, err := w.StdoutPipe()
	if err == nil {
		err = w.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = w.Process.Signal(os.Interrupt)
		_ = w.Wait()
	})
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready ") {
		s.t.Fatalf("the worker says %q, %v", line, err)
	}
	return w
}

// said is how a command line ended.
type said struct {
	code           int
	stdout, stderr string
}

func (s *shop) submit(stdin io.Reader, args ...string) said {
	s.t.Helper()
	cmd := s.program("submit", args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (s *shop) open(args ...string) (id string) {
	s.t.Helper()
	got := s.submit(nil, append([]string{"sandbox", "open", "--image", s.image}, args...)...)
	id = strings.TrimSpace(got.stdout)
	if got.code != 0 || got.stdout != id+"\n" || len(id) != 16 {
		s.t.Fatalf("open: %+v, want an id and nothing else", got)
	}
	return id
}

// begin starts a command that writes ready, and returns once it has.
func (s *shop) begin(id string, args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := s.program("submit", append([]string{"sandbox", "exec", id, "--", "/job"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = &bytes.Buffer{}
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		s.t.Fatalf("%q: %q, %v, %s", args, line, err, cmd.Stderr)
	}
	return cmd
}

// containers returns those that were made for an invocation.
func (s *shop) containers(id string) (names []string) {
	s.t.Helper()
	list, err := enginetest.Client(s.t).ContainerList(s.t.Context(), container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", "io.runnel.invocation="+id)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range list {
		names = append(names, c.Names...)
	}
	return names
}

// gone waits until the engine has nothing of a sandbox any more. Nothing may be made of it meanwhile.
func (s *shop) gone(id string, made []string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeoutCause(s.t.Context(), 2*time.Minute, errors.New("not within 2 minutes"))
	defer cancel()
	heard, failed := enginetest.Client(s.t).Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("type", "container"), filters.Arg("event", "create"), filters.Arg("event", "destroy"), filters.Arg("label", "io.runnel.invocation="+id),
	)})
	for {
		left := s.containers(id)
		if slices.ContainsFunc(left, func(name string) bool { return !slices.Contains(made, name) }) {
			s.t.Fatalf("containers %v, made were %v: it was begun again", left, made)
		}
		if len(left) == 0 {
			return
		}
		select {
		case e := <-heard:
			if e.Action != events.ActionDestroy {
				s.t.Fatalf("%s of %s: it was begun again", e.Action, e.Actor.Attributes["name"])
			}
		case err := <-failed:
			s.t.Fatalf("what it left, %v, is not gone: %v, %v", left, err, context.Cause(ctx))
		}
	}
}

func TestSandboxes(t *testing.T) {
	enginetest.Image(t)
	t.Cleanup(func() {
		if err := enginetest.Remove(); err != nil {
			t.Error(err)
		}
	})
	t.Run("from the command line", commandLineSandbox)
	t.Run("lost with its worker", lostSandbox)
	t.Run("that end by themselves", endedSandboxes)
	t.Run("of two tenants", tenantsSandboxes)
}

func commandLineSandbox(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.worker()
	id := s.open("--idle", "5m", "--timeout", "1h", "-e", "FROM=sandbox", "-m", "128MiB")
	large := make([]byte, 1<<20)
	_, _ = rand.Read(large)
	for _, test := range []struct {
		args  []string
		stdin io.Reader
		want  said
	}{
		{[]string{"--", "/job", "leave", "file", "workspace"}, nil, said{}},
		{[]string{"--", "/job", "spawn"}, nil, said{}},
		{[]string{"--", "/job", "processes"}, nil, said{stdout: "2 <nil>\n"}},
		{[]string{"--", "/job", "say", "out", "err"}, nil, said{stdout: "out\n", stderr: "err\n"}},
		{[]string{"--", "/job", "exit", "7"}, nil, said{code: 7}},
		{[]string{"--", "/nowhere"}, nil, said{code: 127, stderr: "/nowhere"}},
		{[]string{"--", "/not-executable"}, nil, said{code: 126, stderr: "/not-executable"}},
		{[]string{"--", "/job", "signal", "15"}, nil, said{code: 143, stderr: "signal 15"}},
		{[]string{"--timeout", "0.5", "--grace", "0", "--", "/job", "hang"}, nil, said{code: 124, stdout: "ready\n", stderr: "exceeded timeout"}},
		{[]string{"--", "/job", "echo"}, bytes.NewReader(large), said{stdout: string(large)}},
		{[]string{"--stdin", "none", "--", "/job", "echo"}, strings.NewReader("x"), said{}},
	} {
		got := s.submit(test.stdin, append([]string{"sandbox", "exec", id[:6]}, test.args...)...)
		if got.code != test.want.code || got.stdout != test.want.stdout || !strings.Contains(got.stderr, test.want.stderr) {
			t.Errorf("%q: %d, %.80q, %q, want %d, %.80q, %q", test.args, got.code, got.stdout, got.stderr, test.want.code, test.want.stdout, test.want.stderr)
		}
	}
	if got := s.submit(nil, "--json", "sandbox", "exec", id, "-w", ".", "-e", "TOO=1", "--", "/job", "env"); !strings.Contains(got.stdout, `"status":"succeeded"`) ||
		!strings.Contains(got.stdout, "env TOO=1") || !strings.Contains(got.stdout, "env FROM=sandbox") {
		t.Errorf("exec --json: %+v", got)
	}
	if got := s.submit(nil, "sandbox", "ls"); !strings.Contains(got.stdout, id) || !strings.Contains(got.stdout, "running") {
		t.Errorf("ls: %+v, want %s", got, id)
	}
	// A server that starts again is a pause.
	s.node.Restart(t)
	if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "look", "/runnel/workspace/made"); got.code != 0 || !strings.Contains(got.stdout, "made") {
		t.Errorf("after a restart of the server: %+v, want the files", got)
	}
	// Ctrl-C stops a command and waits for that; who is killed cannot, and its command is stopped all the same.
	interrupted := s.begin(id, "hang", "well")
	if err := interrupted.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = interrupted.Wait()
	if code := interrupted.ProcessState.ExitCode(); code != 130 || !strings.Contains(fmt.Sprint(interrupted.Stderr), "TERM") {
		t.Errorf("exit code %d of an interrupted one, %s; want 130", code, interrupted.Stderr)
	}
	killed := s.begin(id, "hang", "well")
	_ = killed.Process.Kill()
	_ = killed.Wait()
	began := time.Now()
	if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "processes"); got.stdout != "2 <nil>\n" {
		t.Errorf("after a caller was killed: %+v, want that its command is gone", got)
	}
	t.Logf("the command of a killed caller was gone after %s", time.Since(began).Round(time.Millisecond))
	out := t.TempDir()
	if got := s.submit(nil, "sandbox", "close", id, "-o", out); got.code != 0 || !strings.Contains(got.stdout, "succeeded") {
		t.Errorf("close: %+v", got)
	}
	if data, err := os.ReadFile(filepath.Join(out, "file")); err != nil || string(data) != "content\n" {
		t.Errorf("what it left came as %q, %v", data, err)
	}
	if left := s.containers(id); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "exit", "0"); got.code != 125 || !strings.Contains(got.stderr, "has ended: succeeded") {
		t.Errorf("exec after the end: %+v, want 125 and the end", got)
	}
	if got := s.submit(nil, "sandbox", "ls"); strings.Contains(got.stdout, id) {
		t.Errorf("ls: %+v, want %s gone", got, id)
	}
}

// It dies with its worker: its callers hear that, the next worker says so in its result, and nothing begins again.
func lostSandbox(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first := s.worker()
	id := s.open()
	made := s.containers(id)
	caller := s.begin(id, "hang")
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_ = caller.Wait()
	if code := caller.ProcessState.ExitCode(); code != 125 || !strings.Contains(fmt.Sprint(caller.Stderr), "lost") {
		t.Errorf("the caller's exit code is %d: %s; want 125, and that it is lost", code, caller.Stderr)
	}
	t.Logf("the caller heard of its worker's death after %s", time.Since(began).Round(time.Millisecond))
	if got := s.submit(nil, "sandbox", "exec", id, "--", "/job", "exit", "0"); got.code != 125 || !strings.Contains(got.stderr, "lost") {
		t.Errorf("the next caller: %+v, want 125, and that it is lost", got)
	}
	s.worker()
	s.submit(nil, "wait", id)
	var shown struct {
		Status, Reason, Error string
	}
	got := s.submit(nil, "show", "--json", id)
	if err := json.Unmarshal([]byte(strings.ReplaceAll(got.stdout, `"error_summary"`, `"error"`)), &shown); err != nil {
		t.Fatalf("show: %+v, %v", got, err)
	}
	if shown.Status != "failed" || shown.Reason != "infra" || !strings.Contains(shown.Error, "lost with its worker") {
		t.Errorf("show: %+v, want failed/infra: lost", shown)
	}
	s.gone(id, made)
	t.Logf("all was over after %s", time.Since(began).Round(time.Millisecond))
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkSandbox runs the least that there is: in a sandbox through a worker of its own, by `docker exec` in a container
// that runs, and as a plain process. The job is the same program, which takes its own time to start.
func BenchmarkSandbox(b *testing.B) {
	s := newShop(b)
	b.Cleanup(func() { _ = enginetest.Remove() })
	s.worker()
	nc, err := nats.Connect(s.node.URL(), runnel.ConnectOptions("bench")...)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	box := client.Sandbox(s.open())
	name := strings.TrimPrefix(s.containers(box.ID())[0], "/")
	ways := map[string]func() error{
		"sandbox": func() error {
			r, err := box.Exec(b.Context(), runnel.ExecRequest{Command: []string{"/job", "exit", "0"}})
			if err == nil && r.Status != runnel.StatusSucceeded {
				err = fmt.Errorf("Exec() = %+v", r)
			}
			return err
		},
		"docker-exec": func() error {
			return exec.Command("docker", "exec", "-u", "1000:1000", name, "/job", "exit", "0").Run()
		},
		"process": func() error { return exec.Command("true").Run() },
	}
	took := map[string][]time.Duration{}
	for b.Loop() {
		for name, way := range ways {
			began := time.Now()
			if err := way(); err != nil {
				b.Fatal(name, err)
			}
			took[name] = append(took[name], time.Since(began))
		}
	}
	// And 100 MiB of output; as much goes to standard error, for nobody.
	const all = 100 << 20
	for name, way := range map[string]func(io.Writer) error{
		"sandbox": func(w io.Writer) error {
			_, err := box.Exec(b.Context(), runnel.ExecRequest{Command: []string{"/job", "writes", fmt.Sprint(all)}, Stdout: w})
			return err
		},
		"docker-exec": func(w io.Writer) error {
			cmd := exec.Command("docker", "exec", name, "/job", "writes", fmt.Sprint(all))
			cmd.Stdout = w
			return cmd.Run()
		},
	} {
		var n counter
		began := time.Now()
		if err := way(&n); err != nil || n != all {
			b.Fatal(name, n, err)
		}
		b.ReportMetric(all/(1<<20)/time.Since(began).Seconds(), name+"-MiB/s")
	}
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds()*1e3, name+"-p50-ms")
		b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, name+"-p99-ms")
	}
	if _, err := box.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-units"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := enginetest.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var owner = agent.Owner{UID: 1000, GID: 1000}

// open returns a session with the agent of a container of its own, whose output is read straight from its pipes if that can be.
func open(t testing.TB, change ...func(*container.HostConfig)) (*agent.Session, string) {
	t.Helper()
	s, id := relayed(t, change...)
	info, err := enginetest.Client(t).ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Near(info.State.Pid, info.ID); err != nil {
		t.Logf("output comes in frames: %v", err)
	}
	return s, id
}

// eachForm runs a test on output that is read straight from its pipes, and on what comes in frames.
func eachForm(t *testing.T, test func(t *testing.T, s *agent.Session)) {
	t.Parallel()
	for name, open := range map[string]func(testing.TB, ...func(*container.HostConfig)) (*agent.Session, string){"direct": open, "relayed": relayed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t)
			test(t, s)
		})
	}
}

// relayed returns a session whose output comes in frames.
func relayed(t testing.TB, change ...func(*container.HostConfig)) (*agent.Session, string) {
	t.Helper()
	api := enginetest.Client(t)
	image := enginetest.Image(t)
	info, err := api.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program, err := agent.Program(info.OSType, map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[info.Architecture])
	if err != nil {
		t.Skip(err)
	}
	pids := int64(64)
	host := &container.HostConfig{
		NetworkMode: "none", ReadonlyRootfs: true, CapDrop: []string{"ALL"}, CapAdd: agent.Capabilities,
		SecurityOpt: []string{"no-new-privileges"}, IpcMode: container.IPCModePrivate,
		Tmpfs:     map[string]string{"/tmp": "rw,nosuid,nodev,mode=1777,size=16m,nr_inodes=4096"},
		Resources: container.Resources{Memory: 64 << 20, MemorySwap: 64 << 20, PidsLimit: &pids, Ulimits: []*units.Ulimit{{Name: "fsize", Soft: 1 << 30, Hard: 1 << 30}}},
		LogConfig: container.LogConfig{Type: "none"},
	}
	for _, f := range change {
		f(host)
	}
	made, err := api.ContainerCreate(t.Context(), &container.Config{
		Image: image, Entrypoint: []string{agent.Path}, User: "0:0", WorkingDir: "/",
		AttachStdin: true, AttachStdout: true, AttachStderr: true, OpenStdin: true, StdinOnce: true,
		Volumes: map[string]struct{}{frame.Root: {}},
	}, host, nil, nil, "runnel-test-agent-"+contracts.NewRun())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := api.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			t.Error(err)
		}
	})
	if err := api.CopyToContainer(t.Context(), made.ID, frame.Root, bytes.NewReader(program), container.CopyToContainerOptions{}); err != nil {
		t.Fatal(err)
	}
	conn, err := api.ContainerAttach(t.Context(), made.ID, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), runnertest.Limit)
	defer cancel()
	s, err := agent.Open(ctx, agent.Attached(conn.Conn, conn.Reader))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Wipe(ctx, owner); err != nil {
		t.Fatal(err)
	}
	return s, made.ID
}

func command(args ...string) agent.Command {
	return agent.Command{
		Args: append([]string{enginetest.Job}, args...), Dir: frame.Root + "/" + frame.Workspace, UID: 1000, GID: 1000,
		Env: []string{"RUNNEL_ARTIFACTS=/runnel/artifacts", "RUNNEL_WORKSPACE=/runnel/workspace"},
	}
}

// run runs a command to its end.
func run(t testing.TB, s *agent.Session, c agent.Command) (e agent.Exit, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	e, failed := s.Run(t.Context(), c, &out, &err)
	if failed != nil {
		t.Fatalf("Run(%q) = %+v, %v", c.Args, e, failed)
	}
	return e, out.String(), err.String()
}

func TestExits(t *testing.T) { eachForm(t, exits) }

func exits(t *testing.T, s *agent.Session) {
	for name, test := range map[string]struct {
		args []string
		want frame.End
	}{
		"0":                   {[]string{"/job", "exit", "0"}, frame.End{}},
		"7":                   {[]string{"/job", "exit", "7"}, frame.End{Code: 7}},
		"in PATH":             {[]string{"job", "exit", "7"}, frame.End{Code: 7}},
		"killed":              {[]string{"/job", "signal", "9"}, frame.End{How: frame.Signalled, Code: 9}},
		"terminated":          {[]string{"/job", "signal", "15"}, frame.End{How: frame.Signalled, Code: 15}},
		"not there":           {[]string{"/nowhere"}, frame.End{How: frame.NotFound, Text: "/nowhere: no such file or directory"}},
		"not in PATH":         {[]string{"nowhere"}, frame.End{How: frame.NotFound, Text: "nowhere: no such file or directory"}},
		"not executable":      {[]string{"/not-executable"}, frame.End{How: frame.NotExec, Text: "/not-executable: permission denied"}},
		"its PATH not either": {[]string{"not-executable"}, frame.End{How: frame.NotExec, Text: "not-executable: permission denied"}},
		"a directory":         {[]string{"/etc"}, frame.End{How: frame.NotExec, Text: "/etc: permission denied"}},
	} {
		c := command()
		c.Args = test.args
		if e, out, err := run(t, s, c); e.End != test.want {
			t.Errorf("%s: Run() = %+v, want %+v; it says %q %q", name, e.End, test.want, out, err)
		}
	}
}

func TestStreams(t *testing.T) { eachForm(t, streams) }

func streams(t *testing.T, s *agent.Session) {
	for _, n := range []int{0, 1, 65537, 3 << 20} {
		want := string(runnertest.Pattern(n))
		if _, out, err := run(t, s, command("writes", strconv.Itoa(n))); out != want || err != want {
			t.Errorf("%d and %d bytes of %d", len(out), len(err), n)
		}
		c := command("echo")
		c.Stdin = strings.NewReader(want)
		if _, out, _ := run(t, s, c); out != want {
			t.Errorf("%d bytes of %d come back", len(out), n)
		}
		c = command("exit", "3") // reads nothing of it
		c.Stdin = strings.NewReader(want)
		if e, _, _ := run(t, s, c); e.Code != 3 {
			t.Errorf("Run() = %+v without its input being read", e)
		}
	}
}

func TestStops(t *testing.T) { eachForm(t, stops) }

func stops(t *testing.T, s *agent.Session) {
	enough, now := errors.New("enough"), fmt.Errorf("too much: %w", agent.ErrAtOnce)
	for name, test := range map[string]struct {
		how   string
		stop  []runner.StopStep
		cause error
		want  agent.Exit
	}{
		"by its handler": {"well", []runner.StopStep{{Signal: "TERM", Wait: time.Minute}}, enough, agent.Exit{End: frame.End{Code: 7}, Sent: []string{"TERM"}}},
		"deaf":           {"deaf", []runner.StopStep{{Signal: "TERM", Wait: 300 * time.Millisecond}}, enough, agent.Exit{End: frame.End{How: frame.Signalled, Code: 9}, Sent: []string{"TERM", "KILL"}}},
		"without a stop": {"well", nil, enough, agent.Exit{End: frame.End{How: frame.Signalled, Code: 9}, Sent: []string{"KILL"}}},
		"at once":        {"well", []runner.StopStep{{Signal: "TERM", Wait: time.Minute}}, now, agent.Exit{End: frame.End{How: frame.Signalled, Code: 9}, Sent: []string{"KILL"}}},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause, c := test.cause, command("hang", test.how)
		c.Stop = test.stop
		e, err := s.Run(ctx, c, writer(func(p []byte) error { cancel(cause); return nil }), io.Discard)
		if !errors.Is(err, cause) || fmt.Sprint(e) != fmt.Sprint(test.want) {
			t.Errorf("%s: Run() = %+v, %v, want %+v", name, e, err, test.want)
		}
		e, err = s.Run(t.Context(), c, writer(func(p []byte) error { return cause }), io.Discard)
		if !errors.Is(err, cause) || fmt.Sprint(e) != fmt.Sprint(test.want) {
			t.Errorf("%s: with nobody to hear Run() = %+v, %v, want %+v", name, e, err, test.want)
		}
	}
	if e, _, _ := run(t, s, command("exit", "0")); e.Code != 0 {
		t.Errorf("Run() = %+v after all that", e)
	}
}

type writer func([]byte) error

func (w writer) Write(p []byte) (int, error) { return len(p), w(p) }

// Files go in and come out, and stay from one command to the next until they are wiped.
func TestFiles(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	e, out, _ := run(t, s, command("leave", "file", "script", "secret", "deep", "symlink", "hardlink", "fifo", "workspace"))
	if e.Code != 0 || !e.Artifacts || !e.Workspace {
		t.Fatalf("Run() = %+v\n%s", e, out)
	}
	var copied bytes.Buffer
	if err := s.Fetch(t.Context(), frame.Artifacts, func(tar io.Reader) error { _, err := io.Copy(&copied, tar); return err }); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := run(t, s, command("look", "/runnel/workspace/made")); !strings.Contains(out, `"made\n" <nil>`) {
		t.Errorf("the next command sees\n%s", out)
	}
	if err := s.Wipe(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := run(t, s, command("look", "/runnel/workspace/made", "/runnel/artifacts/file")); strings.Count(out, "no such file") != 2 {
		t.Errorf("after a wipe it sees\n%s", out)
	}
	if e, _, _ := run(t, s, command("exit", "0")); e.Artifacts || e.Workspace {
		t.Errorf("after a wipe there is something: %+v", e)
	}
}

// When the connection ends the agent does, and whatever it runs.
func TestAgentEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	s, id := open(t)
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Run(t.Context(), command("hang", "deaf"), writer(func([]byte) error { close(begun); return nil }), io.Discard)
		ended <- err
	}()
	<-begun
	s.Close()
	if err := <-ended; !errors.Is(err, agent.ErrOver) {
		t.Errorf("Run() = %v, want ErrOver", err)
	}
	if _, err := s.Run(t.Context(), command("exit", "0"), io.Discard, io.Discard); !errors.Is(err, agent.ErrOver) {
		t.Errorf("Run() = %v when it is over, want ErrOver", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), runnertest.Limit)
	defer cancel()
	exits, fails := enginetest.Client(t).ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case <-exits:
	case err := <-fails:
		t.Errorf("the container runs on: %v", err)
	}
}

// What a command gave its output to outside of the container does not hold up its end, and costs none of it.
func TestOutsiderHoldsTheOutput(t *testing.T) {
	t.Parallel()
	s, id := relayed(t)
	info, err := enginetest.Client(t).ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Near(info.State.Pid, info.ID); err != nil {
		t.Skipf("output comes in frames: %v", err)
	}
	input, feed := io.Pipe()
	c := command("echo")
	c.Stdin = input
	var got bytes.Buffer
	var outsider *os.File
	want := string(runnertest.Pattern(50_000))
	go func() { _, _ = feed.Write([]byte("x")) }()
	e, err := s.Run(t.Context(), c, writer(func(p []byte) error {
		if got.Write(p); outsider != nil {
			return nil
		}
		var pids string
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", info.State.Pid))
		for _, name := range threads {
			children, _ := os.ReadFile(name)
			pids += string(children)
		}
		if err == nil {
			outsider, err = os.OpenFile(fmt.Sprintf("/proc/%s/fd/1", strings.TrimSpace(pids)), os.O_WRONLY, 0)
		}
		go func() {
			_, _ = io.WriteString(feed, want)
			feed.Close()
		}()
		return err
	}), io.Discard)
	if errors.Is(err, fs.ErrPermission) {
		t.Skip(err) // an outsider must be able to do what few may
	}
	if err != nil || e.End != (frame.End{}) || got.String() != "x"+want {
		t.Errorf("Run() = %+v, %v, with %d bytes of %d", e, err, got.Len(), 1+len(want))
	}
	if outsider == nil {
		t.Fatal("nobody held the output: the test has seen nothing")
	}
	outsider.Close()
	if e, out, _ := run(t, s, command("say", "a", "b")); e.End != (frame.End{}) || out != "a\n" {
		t.Errorf("Run() = %+v with %q after that", e, out)
	}
}

package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// desk is an exchange without messages: it has the open sandboxes at hand.
type desk struct{ open chan contracts.SandboxServer }

func newDesk() desk { return desk{make(chan contracts.SandboxServer, 1)} }

func (d desk) Serve(_, _ string, s contracts.SandboxServer) (func(), error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	served := &served{SandboxServer: s, ctx: ctx}
	d.open <- served
	return func() {
		cancel(io.ErrClosedPipe)
		served.all.Wait()
	}, nil
}

// served ends its commands with the sandbox, as the queue does.
type served struct {
	contracts.SandboxServer
	ctx context.Context
	all sync.WaitGroup
}

func (s *served) Exec(ctx context.Context, w contracts.SandboxWork) contracts.SandboxOutcome {
	s.all.Add(1)
	defer s.all.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	return s.SandboxServer.Exec(ctx, w)
}

// box is an open sandbox.
type box struct {
	contracts.SandboxServer
	t     testing.TB
	job   runner.Job
	ended chan struct{}
	o     contracts.Outcome
	err   error
}

// openBox opens a sandbox, and closes it when the test ends.
func openBox(t testing.TB, change ...func(*runner.Job)) *box {
	t.Helper()
	return formed(t, forms["direct"], change...)
}

// formed opens one whose output comes in that way.
func formed(t testing.TB, form func(container.Config) container.Config, change ...func(*runner.Job)) *box {
	t.Helper()
	d := newDesk()
	return boxOf(t, t.Context(), open(t, form(container.Config{Sandboxes: d})), d, change...)
}

// eachForm runs a test on sandboxes whose output comes in each way.
func eachForm(t *testing.T, test func(*testing.T, *box)) {
	t.Parallel()
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, formed(t, form))
		})
	}
}

func boxOf(t testing.TB, ctx context.Context, r runner.Runner, d desk, change ...func(*runner.Job)) *box {
	t.Helper()
	b := &box{t: t, job: command(t), ended: make(chan struct{})}
	b.job.Command, b.job.Container.Sandbox = nil, &contracts.Sandbox{}
	for _, f := range change {
		f(&b.job)
	}
	if err := b.job.Invocation.WithDefaults().Validate(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		b.o, b.err = r.Run(context.WithoutCancel(ctx), b.job, &runnertest.Sink{})
	}()
	select {
	case b.SandboxServer = <-d.open:
	case <-b.ended:
		t.Fatalf("Run() = %+v, %v, want an open sandbox", b.o, b.err)
	}
	t.Cleanup(func() {
		b.Close()
		<-b.ended
	})
	return b
}

// What a worker shows of itself says how many are open, and how many there can be.
func TestOpenSandboxesAreCounted(t *testing.T) {
	d := newDesk()
	r := open(t, container.Config{Sandboxes: d, Slots: 3})
	says := func(want string) {
		t.Helper()
		if got := r.Capabilities()["container.sandboxes"]; got != want {
			t.Errorf("Capabilities() says %q, want %q", got, want)
		}
	}
	says("0 open of 3")
	b := boxOf(t, t.Context(), r, d)
	says("1 open of 3")
	b.Close()
	b.end()
	says("0 open of 3")
}

// end waits for the end and returns the outcome.
func (b *box) end() contracts.Outcome {
	b.t.Helper()
	await(b.t, b.ended)
	if b.err != nil {
		b.t.Fatalf("Run() = %+v, %v", b.o, b.err)
	}
	return b.o
}

func call(args ...string) contracts.SandboxCall {
	return contracts.SandboxCall{Type: contracts.SandboxExec, Command: append([]string{enginetest.Job}, args...)}
}

// exec runs a command and returns its outcome and standard output.
func (b *box) exec(c contracts.SandboxCall, stdin ...byte) (contracts.SandboxOutcome, string) {
	b.t.Helper()
	var out bytes.Buffer
	c.More = len(stdin) > 0
	o := b.Exec(b.t.Context(), contracts.SandboxWork{Call: c, Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: io.Discard, Hush: func() {}})
	return o, out.String()
}

// Files stay from one command to the next, and processes do not (S5, S19).
func TestSandboxKeepsFiles(t *testing.T) {
	t.Parallel()
	b := openBox(t, func(job *runner.Job) {
		job.WorkingDirectory, job.Environment = "deep/er", map[string]string{"A": "1", "B": "2"}
	})
	for _, args := range [][]string{{"leave", "file", "workspace"}, {"spawn"}, {"exit", "0"}} {
		if o, out := b.exec(call(args...)); o.Status != contracts.StatusSucceeded || o.ExitCode == nil || *o.ExitCode != 0 {
			t.Fatalf("%q: %+v, %q", args, o, out)
		}
	}
	if o, out := b.exec(call("look", "/runnel/artifacts/file", "/runnel/workspace/made")); !strings.Contains(out, `"content\n"`) || !strings.Contains(out, `"made\n"`) {
		t.Errorf("%+v, %q, want the files of the first command", o, out)
	}
	if _, out := b.exec(call("processes")); out != "2 <nil>\n" {
		t.Errorf("processes %q, want the agent and the command: what another one left is dead", out)
	}
	c := call("env")
	c.Environment, c.WorkingDirectory = map[string]string{"B": "3", "C": ""}, "."
	_, out := b.exec(c)
	for _, want := range []string{"dir /runnel/workspace <nil>", "ids 1000 1000 [1000] pid1 false", "env A=1", "env B=3", "env C=", "env HOME=/runnel/workspace", "env IMAGE=yes", "env RUNNEL_INVOCATION_ID=" + b.job.ID} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("%s is not in %s", want, out)
		}
	}
	if _, out := b.exec(call("env")); !strings.Contains(out, "dir /runnel/workspace/deep/er <nil>\n") || !strings.Contains(out, "env B=2\n") {
		t.Errorf("%s, want the sandbox's own directory and variables", out)
	}
	b.Close()
	if o := b.end(); o.Status != contracts.StatusSucceeded || o.Reason != "" {
		t.Errorf("outcome %+v, want succeeded", o)
	}
	if data, err := os.ReadFile(filepath.Join(b.job.Artifacts, "file")); err != nil || string(data) != "content\n" {
		t.Errorf("artifact %q, %v", data, err)
	}
}

func TestSandboxCommands(t *testing.T) { eachForm(t, commands) }

func commands(t *testing.T, b *box) {
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	if o, out := b.exec(call("echo"), random...); o.Status != contracts.StatusSucceeded || out != string(random) {
		t.Errorf("echo of 1 MiB: %+v, %d bytes", o, len(out))
	}
	if o, out := b.exec(call("echo")); o.Status != contracts.StatusSucceeded || out != "" {
		t.Errorf("echo of nothing: %+v, %q", o, out)
	}
	missing, script, limited, deaf := call(), call(), call("hang", "well"), call("hang", "deaf")
	missing.Command, script.Command = []string{"no-such"}, []string{"/not-executable"}
	limited.TimeoutSeconds, deaf.TimeoutSeconds = 0.5, 0.5
	deaf.Stop = &contracts.Stop{GraceSeconds: new(0.2)}
	for what, test := range map[string]struct {
		call   contracts.SandboxCall
		status contracts.Status
		reason contracts.Reason
		code   int
		killed string
	}{
		"exit code":      {call("exit", "7"), contracts.StatusFailed, contracts.ReasonExit, 7, ""},
		"signal":         {call("signal", "15"), contracts.StatusFailed, contracts.ReasonSignal, -15, ""},
		"a shell's word": {call("exit", "143"), contracts.StatusFailed, contracts.ReasonSignal, -15, ""},
		"not found":      {missing, contracts.StatusFailed, contracts.ReasonNotFound, 127, ""},
		"not executable": {script, contracts.StatusFailed, contracts.ReasonNotExecutable, 126, ""},
		"timeout":        {limited, contracts.StatusTimedOut, contracts.ReasonTimeout, 7, "1 command (TERM)"},
		"deaf":           {deaf, contracts.StatusTimedOut, contracts.ReasonTimeout, -9, "1 command (TERM, then KILL)"},
	} {
		o, _ := b.exec(test.call)
		if o.Status != test.status || o.Reason != test.reason || o.ExitCode == nil || *o.ExitCode != test.code || o.Killed != test.killed {
			t.Errorf("%s: %+v, want %+v", what, o, test)
		}
	}
	if o, out := b.exec(call("refused")); o.Status != contracts.StatusSucceeded {
		t.Errorf("%+v\n%s", o, out)
	}
}

// A command that takes all memory, or all processes, ends, and the sandbox goes on: the agent's share is not the work's.
func TestSandboxOutOfMemory(t *testing.T) {
	t.Parallel()
	b := openBox(t, func(job *runner.Job) { job.Container.MemoryBytes, job.Container.PIDs = 64<<20, 16 })
	if o, out := b.exec(call("fork")); o.Status != contracts.StatusSucceeded {
		t.Errorf("a fork bomb: %+v, %s", o, out)
	}
	if o, _ := b.exec(call("eat", "200")); o.Reason != contracts.ReasonOOM || o.ExitCode == nil || *o.ExitCode != -9 {
		t.Errorf("%+v, want oom", o)
	}
	if o, _ := b.exec(call("exit", "0")); o.Status != contracts.StatusSucceeded {
		t.Errorf("the next command: %+v", o)
	}
}

// A sandbox that does not come up says why, and is not tried again and again.
func TestSandboxThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{Sandboxes: newDesk()})
	missing := command(t)
	missing.Command, missing.Container.Sandbox = nil, &contracts.Sandbox{}
	missing.Container.Image, missing.Container.Pull = "runnel.test/none", contracts.PullNever
	if o, err := r.Run(t.Context(), missing, &runnertest.Sink{}); err != nil || o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonImage {
		t.Errorf("Run() = %+v, %v, want failed/image", o, err)
	}
	job := command(t)
	job.Command, job.Container.Sandbox = nil, &contracts.Sandbox{}
	if _, err := open(t, container.Config{}).Run(t.Context(), job, &runnertest.Sink{}); !errors.Is(err, runner.ErrRejected) {
		t.Errorf("Run() without an exchange = %v, want it rejected", err)
	}
}

// A caller that does not read must not take the sandbox down with its command.
func TestSandboxOutlivesADeafCaller(t *testing.T) { eachForm(t, deafCaller) }

func deafCaller(t *testing.T, b *box) {
	from, to := io.Pipe()
	c := call("writes", "10000000")
	c.TimeoutSeconds, c.Stop = 0.5, &contracts.Stop{GraceSeconds: new(0.2)}
	o := b.Exec(t.Context(), contracts.SandboxWork{Call: c, Stdout: to, Stderr: io.Discard, Hush: func() { from.Close() }})
	if o.Status != contracts.StatusTimedOut {
		t.Errorf("%+v, want timed_out", o)
	}
	if o, _ := b.exec(call("exit", "0")); o.Status != contracts.StatusSucceeded {
		t.Errorf("the next command: %+v", o)
	}
}

// Whatever takes the container away, the sandbox says so.
func TestSandboxWhoseContainerDies(t *testing.T) {
	t.Parallel()
	b := openBox(t)
	ready := make(chan struct{})
	go func() {
		<-ready
		if err := enginetest.Client(t).ContainerKill(background(t), "runnel-"+b.job.Run, "KILL"); err != nil {
			t.Error(err)
		}
	}()
	o := b.Exec(t.Context(), contracts.SandboxWork{Call: call("hang"), Stdout: writes(func() { close(ready) }), Stderr: io.Discard, Hush: func() {}})
	if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonClosed {
		t.Errorf("the command's outcome is %+v, want failed/closed", o)
	}
	if o := b.end(); o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonInfra || o.Error == "" {
		t.Errorf("outcome %+v, want failed/infra", o)
	}
}

// writes calls a function at each write.
type writes func()

func (f writes) Write(p []byte) (int, error) { f(); return len(p), nil }

// A second command waits for the first, and is refused when that takes too long (S14).
func TestSandboxTakesTurns(t *testing.T) {
	t.Parallel()
	b := openBox(t, func(job *runner.Job) { job.Container.Sandbox.WaitSeconds = 0.3 })
	ctx, stop := context.WithCancelCause(t.Context())
	ready, first := make(chan struct{}), make(chan contracts.SandboxOutcome, 1)
	go func() {
		first <- b.Exec(ctx, contracts.SandboxWork{Call: call("hang"), Stdout: writes(func() { close(ready) }), Stderr: io.Discard, Hush: func() {}})
	}()
	await(t, ready)
	if o, _ := b.exec(call("exit", "0")); o.Status != contracts.StatusRejected || o.Reason != contracts.ReasonBusy || o.Error == "" {
		t.Errorf("the second: %+v, want rejected/busy", o)
	}
	stop(fmt.Errorf("enough"))
	if o := <-first; o.Status != contracts.StatusCancelled || o.Error != "enough" || o.Killed != "1 command (TERM)" {
		t.Errorf("the first: %+v, want cancelled", o)
	}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if o, _ := b.exec(call("exit", "0")); o.Status != contracts.StatusSucceeded {
				t.Errorf("one of five: %+v", o)
			}
		})
	}
	all.Wait()
}

func TestSandboxLimits(t *testing.T) {
	t.Parallel()
	idle := openBox(t, func(job *runner.Job) { job.Container.Sandbox.IdleSeconds = 0.5 })
	long := call("hang", "well")
	long.TimeoutSeconds = 1.5 // is not idle
	if o, _ := idle.exec(long); o.Status != contracts.StatusTimedOut {
		t.Errorf("%+v, want the command to be stopped, and not the sandbox", o)
	}
	if o := idle.end(); o.Status != contracts.StatusTimedOut || o.Reason != contracts.ReasonIdleTimeout {
		t.Errorf("outcome %+v, want timed_out/idle_timeout", o)
	}
	if o, _ := idle.exec(call("exit", "0")); o.Status != contracts.StatusRejected || o.Reason != contracts.ReasonClosed {
		t.Errorf("a command after the end: %+v, want rejected/closed", o)
	}
}

// A sandbox whose worker stops, or was lost, is not begun again with empty files.
func TestSandboxIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	d := newDesk()
	r := open(t, container.Config{Sandboxes: d})
	for what, cause := range map[string]error{"stopped": runner.ErrStopped, "cancelled": runner.ErrCancelled} {
		b := &box{t: t, job: command(t), ended: make(chan struct{})}
		b.job.Command, b.job.Container.Sandbox = nil, &contracts.Sandbox{}
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			defer close(b.ended)
			b.o, b.err = r.Run(ctx, b.job, &runnertest.Sink{})
		}()
		b.SandboxServer = <-d.open
		if o, _ := b.exec(call("leave", "file")); o.Status != contracts.StatusSucceeded {
			t.Errorf("%+v", o)
		}
		cancel(cause)
		await(t, b.ended)
		if what == "stopped" && (b.err != nil || b.o.Reason != contracts.ReasonInfra || !strings.Contains(b.o.Error, "lost")) {
			t.Errorf("%s: %+v, %v, want failed/infra", what, b.o, b.err)
		}
		if what == "cancelled" && (!errors.Is(b.err, cause) || b.o.Killed == "") {
			t.Errorf("%s: %+v, %v, want the cause", what, b.o, b.err)
		}
		if _, err := os.Stat(filepath.Join(b.job.Artifacts, "file")); err != nil {
			t.Errorf("%s: %v, want its files kept", what, err)
		}
	}
	job := command(t)
	job.Command, job.Container.Sandbox, job.Resume = nil, &contracts.Sandbox{}, []byte("open")
	o, err := r.Run(t.Context(), job, &runnertest.Sink{})
	if err != nil || o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonInfra || !strings.Contains(o.Error, "lost with its worker") {
		t.Errorf("Run() of a lost one = %+v, %v, want failed/infra", o, err)
	}
	if !r.Resumes(job.Invocation) || r.Resumes(command(t).Invocation) {
		t.Error("Resumes() is not that of sandboxes alone")
	}
}

// Output and input of a command are live.
func TestSandboxIsLive(t *testing.T) {
	t.Parallel()
	b := openBox(t)
	in, feed := io.Pipe()
	got := make(chan string, 1)
	done := make(chan contracts.SandboxOutcome, 1)
	c := call("echo")
	c.More = true
	go func() {
		done <- b.Exec(t.Context(), contracts.SandboxWork{Call: c, Stdin: in, Stderr: io.Discard, Stdout: textTo(got)})
	}()
	for _, text := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(feed, text); err != nil {
			t.Fatal(err)
		}
		select {
		case line := <-got:
			if line != text {
				t.Errorf("%q comes back as %q", text, line)
			}
		case <-time.After(runnertest.Limit):
			t.Fatalf("%q does not come back while the command runs", text)
		}
	}
	feed.Close()
	if o := <-done; o.Status != contracts.StatusSucceeded {
		t.Errorf("%+v", o)
	}
}

type textTo chan string

func (c textTo) Write(p []byte) (int, error) { c <- string(p); return len(p), nil }

func BenchmarkSandboxExec(b *testing.B) {
	box := openBox(b)
	for b.Loop() {
		if o, _ := box.exec(call("exit", "0")); o.Status != contracts.StatusSucceeded {
			b.Fatalf("%+v", o)
		}
	}
}

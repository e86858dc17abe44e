package container_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// pair returns the processes of a job that runs, and of the agent that has started it, or skips the test where they are not to be seen.
func pair(t testing.TB, job runner.Job) (work, agent int) {
	t.Helper()
	all := processes(t, job)
	if len(all) != 1 {
		t.Skipf("the engine's processes are not to be seen from here: %q", all)
	}
	text, _, _ := strings.Cut(all[0], " ")
	work, _ = strconv.Atoi(text)
	stat, err := os.ReadFile("/proc/" + text + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	agent, _ = strconv.Atoi(strings.Fields(string(after))[1])
	if !agentRuns(agent) {
		t.Fatalf("process %d, which has started %q, is no agent", agent, all[0])
	}
	return work, agent
}

// agentRuns reports whether a process is an agent.
func agentRuns(pid int) bool {
	command, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return bytes.HasPrefix(command, []byte("/runnel/.agent\x00"))
}

// prefer has the kernel kill an agent for want of memory, and not the work: it is the other way round without a word.
func prefer(t testing.TB, work, agent int) {
	t.Helper()
	for pid, score := range map[int]string{work: "0", agent: "1000"} {
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(score), 0); err != nil {
			t.Skipf("the kernel cannot be told whom to kill: %v", err)
		}
	}
}

// during runs a job, and does something once it has written its first output.
func during(t *testing.T, r runner.Runner, job runner.Job, do func()) (contracts.Outcome, error) {
	t.Helper()
	begun, ended := make(chan struct{}), make(chan struct{})
	var first sync.Once
	var o contracts.Outcome
	var err error
	ctx, cancel := contextWithCause(t)
	go func() {
		defer close(ended)
		o, err = r.Run(ctx, job, &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
			first.Do(func() { close(begun) })
			return nil
		}})
	}()
	defer func() {
		cancel(runner.ErrCancelled) // where do has given up
		<-ended
	}()
	select {
	case <-begun:
		do()
	case <-ended:
		t.Fatalf("Run() = %+v, %v before it was to end", o, err)
	}
	await(t, ended)
	return o, err
}

// end kills a process.
func end(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// A warm container whose agent is killed is destroyed with all that ran in it: its job is for another worker, and the next one is served.
func TestWarmAgentIsKilled(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := warmed(t, 1, container.Config{WorkRoot: root})
	job, agent := warm(t, "hang", "deaf"), 0
	o, err := during(t, r, job, func() {
		_, agent = pair(t, job)
		end(t, agent)
	})
	if err == nil || errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), "the agent is gone") || o.Metadata["container.warm"] != "hit" {
		t.Errorf("Run() = %+v, %v, want an error that another worker may mend", o, err)
	}
	over(t, job)
	if agentRuns(agent) {
		t.Error("the agent runs")
	}
	// Nor is one used that was killed while it waited for work.
	idle(t, r, 1)
	for name, waiting := range agents(t, root) {
		end(t, waiting)
		until(t, "the container of a killed agent is gone", func() bool {
			return !slices.ContainsFunc(containers(t, root), func(c string) bool { return strings.HasPrefix(c, name) })
		})
	}
	idle(t, r, 1)
	if _, sink := hit(t, r, warm(t, "traces")); strings.Contains(sink.Stdout(), "trace ") {
		t.Errorf("the next finds\n%s", sink.Stdout())
	}
}

// agents returns the processes 1 of the containers of the runners that work in root, by the containers' names.
func agents(t testing.TB, root string) map[string]int {
	t.Helper()
	pids := map[string]int{}
	for _, c := range containers(t, root) {
		name, _, _ := strings.Cut(c, " ")
		if info, err := engineClient(t).ContainerInspect(background(t), name); err == nil && info.State.Pid > 0 {
			pids[name] = info.State.Pid
		}
	}
	return pids
}

// Where memory runs out and the kernel ends the agent for it, that is the work's doing.
func TestWarmAgentRunsOutOfMemory(t *testing.T) {
	t.Parallel()
	r := warmed(t, 1, container.Config{Memory: 64 * mega})
	for try := 1; ; try++ {
		idle(t, r, 1)
		job, agent := warm(t, "eat", "200", "late"), 0
		in, enough := io.Pipe()
		job.Stdin = in
		o, err := during(t, r, job, func() {
			defer enough.Close()
			var work int
			work, agent = pair(t, job)
			prefer(t, work, agent)
		})
		over(t, job)
		if err == nil && o.Reason == contracts.ReasonOOM && code(o) == -9 && o.Metadata["container.oom_killed"] == "true" && !agentRuns(agent) {
			t.Logf("figure: the engine knew of it in try %d", try)
			break
		}
		// A busy engine on cgroup v1 loses the kernel's word at times: then it is for another worker.
		if try == 10 || err == nil || !strings.Contains(err.Error(), "the agent is gone") {
			t.Fatalf("Run() = %+v (%d), %v, want failed/oom", o, code(o), err)
		}
	}
	idle(t, r, 1)
	hit(t, r, warm(t, "exit", "0"))
}

// killed runs a command in a sandbox until its agent is killed by what do does, and returns how both ended.
func killed(t *testing.T, args []string, do func(work, agent int)) (contracts.SandboxOutcome, contracts.Outcome) {
	t.Helper()
	b := openBox(t, func(job *runner.Job) { job.Container.MemoryBytes = 64 * mega })
	if o, _ := b.exec(call("leave", "file")); o.Status != contracts.StatusSucceeded {
		t.Fatalf("leave: %+v", o)
	}
	in, enough := io.Pipe()
	defer enough.Close()
	c, begun, ended := call(args...), make(chan struct{}), make(chan contracts.SandboxOutcome, 1)
	c.More = true
	var first sync.Once
	go func() {
		ended <- b.Exec(t.Context(), contracts.SandboxWork{
			Call: c, Stdin: in, Stdout: writes(func() { first.Do(func() { close(begun) }) }), Stderr: io.Discard, Hush: func() {},
		})
	}()
	await(t, begun)
	work, agent := pair(t, b.job)
	do(work, agent)
	enough.Close()
	o := <-ended
	all := b.end()
	over(t, b.job)
	if agentRuns(agent) {
		t.Error("the agent runs")
	}
	if data, err := os.ReadFile(filepath.Join(b.job.Artifacts, "file")); err != nil || string(data) != "content\n" {
		t.Errorf("what it had left came as %q, %v", data, err)
	}
	return o, all
}

// A sandbox whose agent is killed ends, and says whether memory had run out in it; so does its command.
func TestSandboxAgentIsKilled(t *testing.T) {
	t.Parallel()
	o, all := killed(t, []string{"hang", "deaf"}, func(_, agent int) { end(t, agent) })
	if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonClosed || o.ExitCode != nil {
		t.Errorf("the command's outcome is %+v, want failed/closed", o)
	}
	if all.Status != contracts.StatusFailed || all.Reason != contracts.ReasonInfra || !strings.Contains(all.Error, "ended by itself") {
		t.Errorf("the sandbox's outcome is %+v, want failed/infra", all)
	}
}

func TestSandboxAgentRunsOutOfMemory(t *testing.T) {
	t.Parallel()
	for try := 1; ; try++ {
		o, all := killed(t, []string{"eat", "200", "late"}, func(work, agent int) { prefer(t, work, agent) })
		if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonClosed || o.ExitCode != nil {
			t.Errorf("the command's outcome is %+v, want failed/closed", o)
		}
		if all.Reason == contracts.ReasonOOM && strings.Contains(all.Error, "container.memory_bytes") {
			t.Logf("figure: the engine knew of it in try %d", try)
			return
		}
		// A busy engine on cgroup v1 loses the kernel's word at times.
		if try == 10 || all.Reason != contracts.ReasonInfra {
			t.Fatalf("the sandbox's outcome is %+v, want failed/oom", all)
		}
	}
}

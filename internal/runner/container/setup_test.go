package container_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// setups returns the images that setups of runners in root left.
func setups(t testing.TB, root string) (ids []string) {
	t.Helper()
	list, err := enginetest.Client(t).ImageList(background(t), image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.runnel.setup"))})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if filepath.Dir(i.Labels["io.runnel.lock"]) == root {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

func removeSetups(t testing.TB, root string) {
	t.Helper()
	for _, id := range setups(t, root) {
		if _, err := enginetest.Client(t).ImageRemove(background(t), id, image.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}

// beside returns a second runner that works where another does.
func beside(t testing.TB, cfg container.Config) *container.Runner {
	t.Helper()
	r, err := container.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return r
}

// prepared returns a job whose setup is of the same program.
func prepared(t testing.TB, setup []string, args ...string) runner.Job {
	t.Helper()
	job := command(t, args...)
	job.Tenant = "alice"
	job.Container.Setup = &contracts.Setup{Command: append([]string{enginetest.Job}, setup...)}
	return job
}

// said returns what a phase wrote to a stream.
func said(sink *runnertest.Sink, stream contracts.Stream, phase contracts.Phase) string {
	var b bytes.Buffer
	for _, p := range sink.Pieces() {
		if p.Stream == stream && p.Phase == phase {
			b.Write(p.Data)
		}
	}
	return b.String()
}

// A setup has its own output, exit code and container; what it leaves is there for the command, and for the next job with
// the same setup, which does not run it (S7, S8, S25).
func TestSetupIsKept(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	first := prepared(t, []string{"stamp", "/made"}, "look", "/made")
	o, sink := run(t, r, first)
	text, ok := strings.CutPrefix(said(sink, contracts.Stdout, contracts.PhaseSetup), "stamped ")
	if text = strings.TrimSpace(text); !ok || said(sink, contracts.Stderr, contracts.PhaseSetup) != "stamped\n" {
		t.Fatalf("the setup says %v", sink.Pieces())
	}
	sees := "/made -rw-r--r-- 0 0 \"" + text + "\" <nil>\n"
	if got := said(sink, contracts.Stdout, contracts.PhaseMain); o.Status != contracts.StatusSucceeded || got != sees {
		t.Errorf("Run() = %+v with %q, want %q", o, got, sees)
	}
	if o.Metadata["container.setup.exit_code"] != "0" || o.Metadata["container.setup.cached"] != "false" {
		t.Errorf("metadata = %v", o.Metadata)
	}

	// The same once more, by another worker of the machine as well: another command, another user and workspace, the same setup.
	for _, r := range []*container.Runner{r, beside(t, container.Config{WorkRoot: root})} {
		again := prepared(t, []string{"stamp", "/made"}, "look", "/made")
		again.Container.User, again.Environment = "0:0", map[string]string{"A": "b"}
		write(t, filepath.Join(again.Dir, "file"), "text", 0o600)
		o, sink = run(t, r, again)
		if got := sink.Stdout(); got != sees || sink.Stderr() != "" || o.Metadata["container.setup.cached"] != "true" || o.Metadata["container.setup.exit_code"] != "0" {
			t.Errorf("Run() again = %+v with %q, want %q from before", o, got, sees)
		}
	}

	// Another tenant's is done anew.
	other := prepared(t, []string{"stamp", "/made"}, "look", "/made")
	other.Tenant = "bob"
	if o, sink := run(t, r, other); o.Metadata["container.setup.cached"] != "false" || said(sink, contracts.Stdout, contracts.PhaseMain) == sees {
		t.Errorf("Run() of another tenant = %+v with %q", o, sink.Stdout())
	}
	if n := len(setups(t, root)); n != 2 {
		t.Errorf("%d images are kept, want 2", n)
	}

	// Nobody gets at it by naming the image.
	for _, id := range setups(t, root) {
		thief := command(t, "look", "/made")
		thief.Tenant, thief.Container.Image = "eve", id
		if o, sink := run(t, r, thief); o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonImage || sink.Stdout() != "" {
			t.Errorf("Run() of image %s = %+v with %q", id, o, sink.Stdout())
		}
	}
}

// A setup that does not end well has the command not run, and leaves nothing (T26).
func TestSetupFails(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root, MaxSetupBytes: mega})
	tests := map[string]struct {
		setup  []string
		change func(*runner.Job)
		code   int
		says   string
	}{
		"exit 3":    {setup: []string{"exit", "3"}, code: 3, says: "exit code 3"},
		"signal":    {setup: []string{"signal", "9"}, code: -9, says: "signal 9"},
		"not found": {change: func(j *runner.Job) { j.Container.Setup.Command = []string{"/nowhere"} }, code: 127, says: "/nowhere"},
		"not an ordinary user's to write": {setup: []string{"stamp", "/made"}, code: 1, says: "exit code 1",
			change: func(j *runner.Job) { j.Container.Setup.User = "1000:1000" }},
		"too much": {setup: []string{"fill", "/made", "2000000"}, code: 0, says: "bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := prepared(t, test.setup, "say", "RAN", "RAN")
			if test.change != nil {
				test.change(&job)
			}
			o, sink := run(t, r, job)
			if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonSetup || code(o) != test.code ||
				!strings.Contains(o.Error, "the setup") || !strings.Contains(o.Error, test.says) || !strings.Contains(o.Error, "did not run") {
				t.Errorf("Run() = %+v, want failed/setup with code %d and %q", o, test.code, test.says)
			}
			if o.Metadata["container.setup.exit_code"] == "" || o.Metadata["container.setup.cached"] != "false" || strings.Contains(sink.Stdout(), "RAN") {
				t.Errorf("metadata = %v, output %q", o.Metadata, sink.Stdout())
			}
		})
	}
	t.Cleanup(func() {
		if left := setups(t, root); len(left) > 0 {
			t.Errorf("images are kept: %v", left)
		}
	})
}

// A setup that takes too long is ended, and has the exit code of its end; where it had not begun yet it has none (S9).
func TestSetupTakesTooLong(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	job := prepared(t, []string{"hang", "well"}, "say", "RAN", "RAN")
	job.Container.Setup.TimeoutSeconds = 2
	o, sink := run(t, r, job)
	if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonSetup || o.Error != "the setup exceeded its timeout of 2 seconds, so the command did not run" {
		t.Errorf("Run() = %+v", o)
	}
	begun := said(sink, contracts.Stdout, contracts.PhaseSetup)
	switch begun {
	case "":
	case "ready\nbye\n":
		if code(o) != 7 || o.Metadata["container.setup.exit_code"] != "7" || o.Killed != "1 container (TERM)" {
			t.Errorf("Run() = %+v, want code 7 and what was killed", o)
		}
	default:
		t.Errorf("it says %q", begun)
	}
	if left := append(containers(t, root), setups(t, root)...); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// The policy of the command is that of its setup, also where it would not be run.
func TestSetupIsUnderThePolicy(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root, AllowNetwork: []string{"host"}})
	job := func() runner.Job {
		job := prepared(t, []string{"stamp", "/made"}, "exit", "0")
		job.Container.Setup.Network = "host"
		return job
	}
	if o, _ := run(t, r, job()); o.Status != contracts.StatusSucceeded {
		t.Fatalf("Run() = %+v where it is allowed", o)
	}
	var rejection *runner.Rejection
	strict := beside(t, container.Config{WorkRoot: root})
	if _, err := strict.Run(t.Context(), job(), &runnertest.Sink{}); !errors.As(err, &rejection) || rejection.Reason != contracts.ReasonNotAllowed {
		t.Errorf("Run() = %v where it is not, want rejected/not_allowed", err)
	}
	// It is held as the command is: no capabilities, no way up, no devices.
	job2 := prepared(t, []string{"refused"}, "exit", "0")
	o, sink := run(t, strict, job2)
	got := said(sink, contracts.Stdout, contracts.PhaseSetup)
	for _, may := range []string{"become root", "write to the image", "write over the job", "write to /etc", "100 GB file"} {
		got = strings.ReplaceAll(got, "NOT REFUSED "+may+"\n", "")
	}
	if strings.Contains(got, "NOT REFUSED") || strings.Count(got, "efused ") < 15 {
		t.Errorf("Run() = %+v:\n%s", o, got)
	}
}

// The setup sees nothing of the job, and neither the job's variables nor its own get into the image for the next to find.
func TestSetupKeepsNoSecrets(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	job := prepared(t, []string{"env"}, "env")
	job.Environment = map[string]string{"PASSWORD": "hunter2-of-the-job"}
	job.Container.Setup.Environment = map[string]string{"INDEX": "where-to-look", "PATH": "/bin"}
	write(t, filepath.Join(job.Dir, "secret"), "text", 0o600)
	_, sink := run(t, r, job)
	setup, main := said(sink, contracts.Stdout, contracts.PhaseSetup), said(sink, contracts.Stdout, contracts.PhaseMain)
	for _, want := range []string{"env INDEX=where-to-look\n", "env PATH=/bin\n", "env IMAGE=yes\n", "dir / ", "ids 0 0 "} {
		if !strings.Contains(setup, want) {
			t.Errorf("the setup has no %q:\n%s", want, setup)
		}
	}
	for _, bad := range []string{"PASSWORD", "RUNNEL_", "/runnel"} {
		if strings.Contains(setup, bad) {
			t.Errorf("the setup has %q:\n%s", bad, setup)
		}
	}
	if strings.Contains(main, "INDEX") || !strings.Contains(main, "env PATH=/\n") || !strings.Contains(main, "env IMAGE=yes\n") || !strings.Contains(main, "PASSWORD=hunter2") {
		t.Errorf("the command has\n%s", main)
	}
	ids := setups(t, root)
	if len(ids) != 1 {
		t.Fatalf("images kept: %v", ids)
	}
	var raw bytes.Buffer
	info, err := enginetest.Client(t).ImageInspect(background(t), ids[0], client.ImageInspectWithRawResponse(&raw))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(raw.String(), "hunter2") || strings.Contains(raw.String(), "PASSWORD") || strings.Contains(raw.String(), "RUNNEL_") {
		t.Errorf("the image holds the job's environment:\n%s", raw.String())
	}
	base, err := enginetest.Client(t).ImageInspect(background(t), job.Container.Image)
	if err != nil {
		t.Fatal(err)
	}
	if c, b := info.Config, base.Config; len(c.Cmd) != len(b.Cmd) || len(c.Entrypoint) != len(b.Entrypoint) || c.WorkingDir != b.WorkingDir || len(c.Volumes) != 0 {
		t.Errorf("the image is configured as %+v, was %+v", c, b)
	}
	if strings.Contains(strings.Join(info.Config.Env, "\n"), "where-to-look") {
		t.Errorf("the image's variables are %q", info.Config.Env)
	}
}

// Jobs that want the same setup at once share one run of it, and each sees what it says.
func TestSetupIsShared(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	var mu sync.Mutex
	stamps, waited := map[string]int{}, 0
	var all sync.WaitGroup
	const jobs = 4
	for range jobs {
		job := prepared(t, []string{"stamp", "/made"}, "look", "/made")
		all.Go(func() {
			o, sink := run(t, r, job)
			mu.Lock()
			defer mu.Unlock()
			stamps[said(sink, contracts.Stdout, contracts.PhaseMain)]++
			if strings.Contains(said(sink, contracts.Stderr, contracts.PhaseSetup), "waiting for the setup") {
				waited++
			}
			if o.Metadata["container.setup.cached"] == "false" && !strings.Contains(said(sink, contracts.Stdout, contracts.PhaseSetup), "stamped ") {
				t.Errorf("one of them was not told what the setup said: %v", sink.Pieces())
			}
		})
	}
	all.Wait()
	if len(stamps) != 1 || len(setups(t, root)) != 1 {
		t.Errorf("%d jobs saw %v, and %d images are kept", jobs, stamps, len(setups(t, root)))
	}
	t.Logf("figure: %d jobs at once, 1 setup, %d waited for it", jobs, waited)
}

// Who leaves a shared setup leaves it to the others; with the last it ends.
func TestSetupIsStoppedByTheLast(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	var cancels []context.CancelCauseFunc
	var ends []chan error
	outcomes := make([]contracts.Outcome, 2)
	for i := range 2 {
		ctx, cancel := contextWithCause(t)
		begun, end := make(chan struct{}), make(chan error, 1)
		var once sync.Once
		go func() {
			var err error
			outcomes[i], err = r.Run(ctx, prepared(t, []string{"hang", "well"}, "exit", "0"), &runnertest.Sink{OnWrite: func(s contracts.Stream, _ contracts.Phase, _ []byte) error {
				if s == contracts.Stdout {
					once.Do(func() { close(begun) })
				}
				return nil
			}})
			end <- err
		}()
		await(t, begun)
		cancels, ends = append(cancels, cancel), append(ends, end)
	}
	if n := len(containers(t, root)); n != 1 {
		t.Errorf("%d containers are there, want the one of the setup", n)
	}
	cancels[0](runner.ErrCancelled)
	if err := <-ends[0]; !errors.Is(err, runner.ErrCancelled) || outcomes[0].Killed != "" {
		t.Errorf("Run() of the first = %+v, %v, want cancelled and nothing killed", outcomes[0], err)
	}
	if n := len(containers(t, root)); n != 1 {
		t.Errorf("%d containers are left for the other, want 1", n)
	}
	cancels[1](runner.ErrTimeout)
	if err := <-ends[1]; !errors.Is(err, runner.ErrTimeout) || outcomes[1].Killed != "1 container (TERM)" {
		t.Errorf("Run() of the last = %+v, %v, want timed out and its container killed", outcomes[1], err)
	}
	if left := containers(t, root); len(left) > 0 {
		t.Errorf("containers left: %v", left)
	}
}

package container_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childImage) != "" {
		os.Exit(child())
	}
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

// open returns a runner, or skips the test where no engine answers. At its end nothing of it may be left.
func open(t testing.TB, cfg container.Config) *container.Runner {
	t.Helper()
	enginetest.Client(t)
	if cfg.WorkRoot == "" {
		cfg.WorkRoot = t.TempDir()
	}
	r, err := container.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		nothingLeft(t, cfg.WorkRoot)
		removeSetups(t, cfg.WorkRoot)
	})
	return r
}

// nothingLeft fails the test if anything of the runner is there: a container, volume or network, or its lock.
func nothingLeft(t testing.TB, root string) {
	t.Helper()
	if left := things(t, root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if locks, _ := filepath.Glob(filepath.Join(root, ".containers-*.lock")); len(locks) > 0 {
		t.Errorf("locks left: %v", locks)
	}
}

// things returns what is on the engine of the runners that work in root: containers, volumes and networks.
func things(t testing.TB, root string) []string {
	t.Helper()
	api := enginetest.Client(t)
	found := containers(t, root)
	ours := func(kind, name string, labels map[string]string) {
		if filepath.Dir(labels["io.runnel.lock"]) == root {
			found = append(found, kind+" "+name)
		}
	}
	owned := filters.NewArgs(filters.Arg("label", "io.runnel.owner"))
	volumes, err := api.VolumeList(background(t), volume.ListOptions{Filters: owned})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes.Volumes {
		ours("volume", v.Name, v.Labels)
	}
	networks, err := api.NetworkList(background(t), network.ListOptions{Filters: owned})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range networks {
		ours("network", n.ID, n.Labels)
	}
	return found
}

// processes returns what runs on this machine with the variable of a job in its environment: "PID COMMAND". One that has ended,
// and waits for somebody to ask how, does not run.
func processes(t testing.TB, job runner.Job) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(data, []byte("RUNNEL_INVOCATION_ID="+job.ID+"\x00")) {
			continue
		}
		dir := filepath.Dir(file)
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if _, after, ok := bytes.Cut(stat, []byte(") ")); err != nil || !ok || after[0] == 'Z' || after[0] == 'X' {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found = append(found, filepath.Base(dir)+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
	}
	return found
}

// containers returns what is on the engine of the runners that work in root: "NAME STATE".
func containers(t testing.TB, root string) (found []string) {
	t.Helper()
	api := enginetest.Client(t)
	list, err := api.ContainerList(background(t), containertypes.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", "io.runnel.owner")),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if filepath.Dir(c.Labels["io.runnel.lock"]) == root {
			found = append(found, c.Names[0]+" "+c.State)
		}
	}
	return found
}

// command returns a job with a workspace.
func command(t testing.TB, args ...string) runner.Job {
	t.Helper()
	return runner.Job{
		Invocation: contracts.Invocation{
			ID: "job-" + contracts.NewRun(), Kind: contracts.KindContainer, Command: append([]string{enginetest.Job}, args...),
			Container: &contracts.Container{Image: enginetest.Image(t)},
		},
		Attempt: 1, Run: contracts.NewRun(), Dir: t.TempDir(), Artifacts: t.TempDir(),
	}
}

// run runs the job to its end and fails the test if there is an error.
func run(t testing.TB, r runner.Runner, job runner.Job) (contracts.Outcome, *runnertest.Sink) {
	t.Helper()
	sink := &runnertest.Sink{}
	outcome, err := r.Run(t.Context(), job, sink)
	if err != nil {
		t.Fatalf("Run(%q) = %+v, %v", job.Command, outcome, err)
	}
	over(t, job)
	return outcome, sink
}

// over fails the test if anything of a job is left whose Run has returned.
func over(t testing.TB, job runner.Job) {
	t.Helper()
	if left := processes(t, job); len(left) > 0 {
		t.Errorf("processes of the job are left: %v", left)
	}
	api := enginetest.Client(t)
	list, err := api.ContainerList(background(t), containertypes.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", "io.runnel.invocation="+job.ID)),
	})
	if err != nil || len(list) > 0 {
		t.Errorf("containers of the job are left: %v, %v", list, err)
	}
	volumes, err := api.VolumeList(background(t), volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.runnel.invocation="+job.ID))})
	if err != nil || len(volumes.Volumes) > 0 {
		t.Errorf("volumes of the job are left: %v, %v", volumes.Volumes, err)
	}
}

func code(o contracts.Outcome) int {
	if o.ExitCode == nil {
		return -1000
	}
	return *o.ExitCode
}

func TestRunner(t *testing.T) {
	t.Parallel()
	enginetest.Image(t)
	runnertest.Run(t, func(t *testing.T) runner.Runner { return open(t, container.Config{}) }, runnertest.Options{
		Quick:  func(t testing.TB) runner.Job { return command(t, "exit", "0") },
		Fails:  func(t testing.TB) runner.Job { return command(t, "exit", "3") },
		Writes: func(t testing.TB, n int) runner.Job { return command(t, "writes", strconv.Itoa(n)) },
		Echo:   func(t testing.TB) runner.Job { return command(t, "echo") },
		Hangs: func(t testing.TB) (runner.Job, func() bool) {
			job := command(t, "hang")
			return job, func() bool { return alive(t, job) }
		},
		Rejected: map[string]func(testing.TB) runner.Job{
			"no container": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.Container = nil
				return job
			},
			"the worker's environment": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.EnvironmentPass = []string{"*"}
				return job
			},
			"a directory of the machine": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.Container.Mounts = []contracts.Mount{{Source: "/etc", Target: "/host"}}
				return job
			},
			"the machine's network": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.Container.Network = "host"
				return job
			},
			"more memory than there is": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.Container.MemoryBytes = 1 << 60
				return job
			},
			"no command at all": func(t testing.TB) runner.Job {
				job := command(t)
				job.Command = nil
				return job
			},
			"a directory above": func(t testing.TB) runner.Job {
				job := command(t, "exit", "0")
				job.WorkingDirectory = "../.."
				return job
			},
		},
	})
}

// alive reports whether the container of the job is there.
func alive(t testing.TB, job runner.Job) bool {
	t.Helper()
	api := enginetest.Client(t)
	info, err := api.ContainerInspect(background(t), "runnel-"+job.Run)
	return err == nil && info.State.Running
}

func TestReportsWhatThereIs(t *testing.T) {
	r := open(t, container.Config{})
	found := r.Capabilities()
	for _, name := range []string{"container.engine", "container.storage", "container.cgroup", "container.limits"} {
		if found[name] == "" {
			t.Errorf("Capabilities() = %v, want %s among them", found, name)
		}
	}
	if !strings.HasPrefix(found["container.engine"], "engine ") || !r.Available() {
		t.Errorf("Capabilities() = %v, available %v", found, r.Available())
	}
}

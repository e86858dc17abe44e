package container_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// warmed returns a runner that keeps n containers of the test's image, once they are there.
func warmed(t testing.TB, n int, cfg container.Config) *container.Runner {
	t.Helper()
	cfg.Warm = []container.Warm{{Image: enginetest.Image(t), N: n}}
	r := open(t, cfg)
	idle(t, r, n)
	return r
}

// idle waits until a runner has n containers that wait for work.
func idle(t testing.TB, r *container.Runner, n int) {
	t.Helper()
	until(t, strconv.Itoa(n)+" containers are idle", func() bool {
		said := r.Capabilities()["container.warm"]
		_, said, _ = strings.Cut(said, ": ")
		text, _, _ := strings.Cut(said, " idle")
		got, _ := strconv.Atoi(text)
		return got >= n
	})
}

// warm returns a job that asks for a warm container.
func warm(t testing.TB, args ...string) runner.Job {
	t.Helper()
	job := command(t, args...)
	job.Container.Warm, job.Tenant = true, "tenant"
	return job
}

// hit runs the job and fails the test unless it was in a warm container.
func hit(t testing.TB, r runner.Runner, job runner.Job) (contracts.Outcome, *runnertest.Sink) {
	t.Helper()
	o, sink := run(t, r, job)
	if o.Metadata["container.warm"] != "hit" {
		t.Fatalf("Run(%q) = %+v, want a hit", job.Command, o)
	}
	return o, sink
}

// within reports whether a command runs in a container of the runner in root.
func within(t testing.TB, root, word string) bool {
	t.Helper()
	api := engineClient(t)
	list, err := api.ContainerList(background(t), containertypes.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.runnel.lock"))})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if !strings.HasPrefix(c.Labels["io.runnel.lock"], root+"/") {
			continue
		}
		top, err := api.ContainerTop(background(t), c.ID, nil)
		if err != nil {
			continue // it has gone
		}
		for _, process := range top.Processes {
			if slices.ContainsFunc(process, func(field string) bool { return strings.Contains(field, word) }) {
				return true
			}
		}
	}
	return false
}

// forms are the ways that output may come. Where it cannot be read straight from its pipes there is one.
var forms = map[string]func(container.Config) container.Config{
	"direct":  func(cfg container.Config) container.Config { return cfg },
	"relayed": container.Relayed,
}

func TestWarmRunner(t *testing.T) {
	t.Parallel()
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			warmRunner(t, form)
		})
	}
}

func warmRunner(t *testing.T, form func(container.Config) container.Config) {
	root := t.TempDir()
	r := warmed(t, 2, form(container.Config{WorkRoot: root}))
	runnertest.Run(t, func(t *testing.T) runner.Runner {
		if strings.HasSuffix(t.Name(), "CloseTwice") {
			return warmed(t, 1, form(container.Config{}))
		}
		idle(t, r, 1)
		return r
	}, runnertest.Options{
		Quick:  func(t testing.TB) runner.Job { return warm(t, "exit", "0") },
		Fails:  func(t testing.TB) runner.Job { return warm(t, "exit", "3") },
		Writes: func(t testing.TB, n int) runner.Job { return warm(t, "writes", strconv.Itoa(n)) },
		Echo:   func(t testing.TB) runner.Job { return warm(t, "echo") },
		Hangs: func(t testing.TB) (runner.Job, func() bool) {
			return warm(t, "hang"), func() bool { return within(t, root, "hang") }
		},
		Rejected: map[string]func(testing.TB) runner.Job{
			"the worker's environment": func(t testing.TB) runner.Job {
				job := warm(t, "exit", "0")
				job.EnvironmentPass = []string{"*"}
				return job
			},
			"more memory than there is": func(t testing.TB) runner.Job {
				job := warm(t, "exit", "0")
				job.Container.MemoryBytes = 1 << 60
				return job
			},
			"no command at all": func(t testing.TB) runner.Job {
				job := warm(t)
				job.Command = nil
				return job
			},
			"a directory above": func(t testing.TB) runner.Job {
				job := warm(t, "exit", "0")
				job.WorkingDirectory = "../.."
				return job
			},
		},
	})
}

// A warm container does what a fresh one does: the same ends, and the same surroundings.
func TestWarmIsAsFresh(t *testing.T) {
	t.Parallel()
	r := warmed(t, 2, container.Config{})
	relayed := warmed(t, 2, container.Relayed(container.Config{}))
	tests := map[string]func(*runner.Job){
		"exit 0":         func(j *runner.Job) {},
		"exit 7":         func(j *runner.Job) { j.Command = []string{"/job", "exit", "7"} },
		"exit 137":       func(j *runner.Job) { j.Command = []string{"/job", "exit", "137"} },
		"in PATH":        func(j *runner.Job) { j.Command = []string{"job", "exit", "3"} },
		"signal":         func(j *runner.Job) { j.Command = []string{"/job", "signal", "15"} },
		"not found":      func(j *runner.Job) { j.Command = []string{"/nowhere"} },
		"not in PATH":    func(j *runner.Job) { j.Command = []string{"nowhere"} },
		"not executable": func(j *runner.Job) { j.Command = []string{"/not-executable"} },
		"out of memory":  func(j *runner.Job) { j.Command = []string{"/job", "eat", "700"} },
		"a child of it":  func(j *runner.Job) { j.Command = []string{"/job", "feed", "700"} },
		"entrypoint":     func(j *runner.Job) { j.Container.Entrypoint, j.Command = []string{"/job", "exit"}, []string{"5"} },
		"surroundings": func(j *runner.Job) {
			j.Command, j.WorkingDirectory, j.Attempt = []string{"/job", "env"}, "a/b", 3
			j.Environment = map[string]string{"SET": "by the job", "IMAGE": "changed"}
		},
		"files": func(j *runner.Job) {
			j.Command = []string{"/job", "look", "/runnel/workspace", "/runnel/artifacts", "in", "deep/script", "link"}
			write(t, j.Dir+"/in", "input", 0o600)
			write(t, j.Dir+"/deep/script", "#!", 0o750)
			if err := os.Symlink("in", j.Dir+"/link"); err != nil {
				t.Fatal(err)
			}
		},
		"artifacts": func(j *runner.Job) {
			j.Command = []string{"/job", "leave", "file", "script", "secret", "deep", "symlink", "dirlink", "hardlink", "fifo", "workspace"}
			j.ArtifactGlobs = []string{"made"}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			fresh := command(t, "exit", "0")
			change(&fresh)
			want, wantSink := run(t, r, fresh)
			for try := 1; try < 10 && strings.Contains(name, "memory") && want.Metadata["container.oom_killed"] == ""; try++ {
				want, wantSink = run(t, r, fresh)
			}
			for form, r := range map[string]*container.Runner{"direct": r, "relayed": relayed} {
				same := warm(t, "exit", "0")
				same.Tenant, same.ID = fresh.Tenant, fresh.ID
				change(&same)
				same.Container.Warm = true
				idle(t, r, 1)
				got, gotSink := hit(t, r, same)
				delete(got.Metadata, "container.warm")
				for _, o := range []*contracts.Outcome{&got, &want} {
					if slices.Sort(o.Warnings); len(o.Warnings) == 0 {
						o.Warnings = nil
					}
					if len(o.Metadata) == 0 {
						o.Metadata = nil
					}
				}
				host := regexp.MustCompile("HOSTNAME=.*\n")
				gotOut, wantOut := host.ReplaceAllString(gotSink.Stdout(), ""), host.ReplaceAllString(wantSink.Stdout(), "")
				if name == "a child of it" && want.Metadata == nil {
					want.Metadata = got.Metadata // a busy engine loses the kernel's word at times
				}
				if !reflect.DeepEqual(got, want) || gotOut != wantOut {
					t.Errorf("warm, %s: %+v\n%s\nfresh: %+v\n%s", form, got, gotOut, want, wantOut)
				}
				if got, want := tree(t, same.Artifacts), tree(t, fresh.Artifacts); !reflect.DeepEqual(got, want) {
					t.Errorf("warm, %s, leaves %v, fresh %v", form, got, want)
				}
				if got, want := tree(t, same.Dir), tree(t, fresh.Dir); !reflect.DeepEqual(got, want) {
					t.Errorf("warm, %s, leaves in the workspace %v, fresh %v", form, got, want)
				}
			}
		})
	}
}

// Work that no warm container is fit for gets a fresh one, and says why.
func TestWarmMisses(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	r := warmed(t, 1, container.Config{AllowMount: []string{mount}})
	for want, change := range map[string]func(*contracts.Container){
		"root":                   func(c *contracts.Container) { c.User = "0:0" },
		"UID:GID":                func(c *contracts.Container) { c.User = "worker" },
		"writes to the image":    func(c *contracts.Container) { c.WritableRoot = true },
		"a network":              func(c *contracts.Container) { c.Network = "bridge" },
		"process 1 itself":       func(c *contracts.Container) { c.NoInit = true },
		"directories of the":     func(c *contracts.Container) { c.Mounts = []contracts.Mount{{Source: mount, Target: "/in"}} },
		"with what it asks for":  func(c *contracts.Container) { c.MemoryBytes = 96 << 20 },
		"with what it asks for ": func(c *contracts.Container) { c.Tmpfs = []contracts.Tmpfs{{Path: "/more"}} },
	} {
		job := warm(t, "exit", "0")
		change(job.Container)
		o, _ := run(t, r, job)
		if got := o.Metadata["container.warm"]; !strings.HasPrefix(got, "miss: ") || !strings.Contains(got, strings.TrimSpace(want)) || o.Status != contracts.StatusSucceeded {
			t.Errorf("%s: Run() = %+v", want, o)
		}
	}
	// One was made for it meanwhile, for its tenant alone.
	job := warm(t, "exit", "0")
	job.Container.MemoryBytes = 96 << 20
	until(t, "a container of that shape is there", func() bool {
		o, _ := run(t, r, job)
		return o.Metadata["container.warm"] == "hit"
	})
	job.Tenant = "other"
	if o, _ := run(t, r, job); o.Metadata["container.warm"] == "hit" {
		t.Error("another tenant has it")
	}
	none := open(t, container.Config{})
	if o, _ := run(t, none, warm(t, "exit", "0")); !strings.HasPrefix(o.Metadata["container.warm"], "miss: this worker keeps none of ") {
		t.Errorf("Run() of a worker that keeps none = %+v", o)
	}
}

// A container runs so many jobs, and lives so long; then there is another.
func TestWarmContainersAreReplaced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, cfg := range map[string]container.Config{"by jobs": {WarmJobs: 3}, "by age": {WarmAge: 3 * time.Second}} {
		cfg.WorkRoot = filepath.Join(root, strings.ReplaceAll(name, " ", "-"))
		r := warmed(t, 1, cfg)
		seen := map[string]bool{}
		until(t, "there are others, "+name, func() bool {
			idle(t, r, 1)
			job := warm(t, "env")
			o, sink := run(t, r, job)
			if o.Metadata["container.warm"] == "hit" {
				seen[regexp.MustCompile("HOSTNAME=.*").FindString(sink.Stdout())] = true
			}
			return len(seen) > 2
		})
	}
}

// The warm containers of a killed worker end by themselves, and are removed by the next one.
func TestKilledWorkersWarmContainersGo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childImage+"="+enginetest.Image(t), childRoot+"="+root, childID+"="+command(t).ID, childWarm+"=yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the other worker's job says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	began := time.Now()
	until(t, "they have ended", func() bool {
		return !strings.Contains(strings.Join(containers(t, root), "\n"), "running") // another test's runner may remove them already
	})
	ended := time.Since(began)
	began = time.Now()
	r, err := container.New(container.Config{WorkRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "they are gone", func() bool { return len(containers(t, root)) == 0 })
	t.Logf("figure: a killed worker's warm containers have ended after %s, and are gone %s after the next worker's start",
		ended.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// An engine that goes takes the containers with it, and one that comes back has others.
func TestWarmEngineGoesAndComes(t *testing.T) {
	t.Parallel()
	image := enginetest.Image(t)
	door := newDoor(t)
	root := t.TempDir()
	r, err := container.New(container.Config{Host: "unix://" + door.path, WorkRoot: root, Warm: []container.Warm{{Image: image, N: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		nothingLeft(t, root)
	})
	idle(t, r, 2)
	before := containers(t, root)
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), warm(t, "hang"), &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
			close(begun)
			return nil
		}})
		ended <- err
	}()
	await(t, begun)
	door.shut()
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, runner.ErrRejected) {
			t.Errorf("Run() = %v, want an error that another worker may mend", err)
		}
	case <-time.After(runnertest.Limit):
		t.Fatal("Run() does not end without its engine")
	}
	until(t, "the kind is withdrawn", func() bool { return !r.Available() })
	door.open(t)
	until(t, "the kind is served again", r.Available)
	idle(t, r, 2)
	until(t, "those from before are gone", func() bool {
		return !slices.ContainsFunc(containers(t, root), func(c string) bool { return slices.Contains(before, c) })
	})
	hit(t, r, warm(t, "exit", "0"))
}

// Work in a warm container may keep no more on the disk than in a fresh one, and leaves nothing of it there.
func TestWarmDiskIsBounded(t *testing.T) {
	t.Parallel()
	r := warmed(t, 1, container.Config{MaxDisk: 64 * mega})
	if !strings.Contains(r.Capabilities()["container.limits"], "disk (watched)") {
		t.Skipf("the engine's disk is not to be seen from here: %q", r.Capabilities())
	}
	o, _ := hit(t, r, warm(t, "flood", contracts.ContainerWorkspace))
	if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonDisk || code(o) != -9 || o.Killed != "1 command in a warm container (KILL)" || !strings.Contains(o.Error, "may keep 67108864") {
		t.Errorf("Run() = %+v (%d), want failed/disk", o, code(o))
	}
	idle(t, r, 1)
	if _, sink := hit(t, r, warm(t, "traces")); strings.Contains(sink.Stdout(), "trace ") {
		t.Errorf("the next finds\n%s", sink.Stdout())
	}
}

// Where the engine's processes may be looked into, output does not come through the engine; where they may not, it says so.
func TestOutputIsDirect(t *testing.T) {
	t.Parallel()
	r := warmed(t, 1, container.Config{})
	switch said := r.Capabilities()["container.output"]; {
	case said == "direct":
	case strings.HasPrefix(said, "through the engine: "):
		t.Skip(said)
	default:
		t.Errorf("it says %q", said)
	}
}

package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// ways are how the same program is run: in a fresh container, in a warm one, and as a process. The server, the worker and the submitter
// are processes of their own.
type ways struct {
	client *runnel.Client
	image  string
	job    string // the image's program, on this machine
}

// benchWays starts a worker that keeps so many warm containers.
func benchWays(b *testing.B, warm int) *ways {
	b.Helper()
	w := &ways{image: enginetest.Image(b), job: filepath.Join(b.TempDir(), "job")}
	b.Cleanup(func() {
		if err := enginetest.Remove(); err != nil {
			b.Error(err)
		}
	})
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", w.job, "github.com/runnel-project/runnel/internal/runner/container/enginetest/job")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	servers := queuetest.Process(b)
	nc := servers.Connect(b)
	follow := servers.Connect(b)
	client, err := runnel.New(nc, runnel.WithFollowConn(follow))
	if err != nil {
		b.Fatal(err)
	}
	w.client = client
	home := b.TempDir()
	worker := exec.Command(fleet.Program(b, "worker"), "start", "--server", servers.URL(), "--kinds", "container,subprocess", "--slots", "8",
		"--warm", w.image+"="+strconv.Itoa(warm), "--log-level", "error")
	worker.Env = append(os.Environ(), "HOME="+home, "XDG_STATE_HOME="+home, "XDG_CONFIG_HOME="+home)
	worker.Stderr = os.Stderr
	ready, err := worker.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = worker.Process.Signal(os.Interrupt)
		_ = worker.Wait()
	})
	if _, err := ready.Read(make([]byte, 256)); err != nil {
		b.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ; {
		if r := w.run(b, "warm", "exit", "0"); r.Metadata["container.warm"] == "hit" {
			return w
		} else if time.Now().After(until) {
			b.Fatalf("no container is warm: %v", r.Metadata)
		}
	}
}

// run runs the program in one of the ways, to its result.
func (w *ways) run(b *testing.B, way string, args ...string) runnel.Result {
	inv := runnel.Invocation{Kind: runnel.KindContainer, Command: append([]string{enginetest.Job}, args...), OutputLimitBytes: 256 << 20}
	if way == "subprocess" {
		inv.Kind, inv.Command[0] = runnel.KindSubprocess, w.job
	} else {
		inv.Container = &runnel.Container{Image: w.image, Warm: way == "warm"}
	}
	r, err := w.client.Run(context.Background(), inv, runnel.RunOptions{})
	if err != nil || r.Status != runnel.StatusSucceeded {
		b.Fatalf("%s: %+v, %v", way, r, err)
	}
	return r
}

// BenchmarkContainerTrue runs the least that there is in turn as the docker command does it, in a fresh container, in a warm one and as a
// process of the worker's, each from its submission to its result.
func BenchmarkContainerTrue(b *testing.B) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		b.Skip(err)
	}
	w := benchWays(b, 2)
	names := []string{"docker", "fresh", "warm", "subprocess"}
	took := map[string][]time.Duration{}
	misses := 0
	for b.Loop() {
		for _, name := range names {
			began := time.Now()
			if name == "docker" {
				if out, err := exec.Command(docker, "run", "--rm", "--network", "none", w.image, enginetest.Job, "exit", "0").CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			} else if r := w.run(b, name, "exit", "0"); name == "warm" && r.Metadata["container.warm"] != "hit" {
				misses++
			}
			took[name] = append(took[name], time.Since(began))
		}
	}
	p := func(name string, q float64) float64 {
		return took[name][int(q*float64(len(took[name])-1))].Seconds() * 1e3
	}
	for _, name := range names {
		slices.Sort(took[name])
		b.ReportMetric(p(name, 0.5), name+"-p50-ms")
		b.ReportMetric(p(name, 0.99), name+"-p99-ms")
	}
	b.ReportMetric(p("fresh", 0.5)/p("docker", 0.5), "fresh/docker")
	b.ReportMetric(p("docker", 0.5)/p("warm", 0.5), "docker/warm")
	b.ReportMetric(p("warm", 0.5)-p("subprocess", 0.5), "warm-subprocess-ms")
	b.ReportMetric(float64(misses), "misses")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkContainerOutput writes 100 MiB, half of it to each stream, in turn in a warm container and as a process.
func BenchmarkContainerOutput(b *testing.B) {
	w := benchWays(b, 2)
	const half = 50 << 20
	var ratios []float64
	for b.Loop() {
		took := map[string]time.Duration{}
		for _, name := range []string{"warm", "subprocess"} {
			began := time.Now()
			if r := w.run(b, name, "writes", strconv.Itoa(half)); r.StdoutBytes != half || r.StderrBytes != half {
				b.Fatalf("%s: %d and %d bytes", name, r.StdoutBytes, r.StderrBytes)
			}
			took[name] = time.Since(began)
		}
		ratios = append(ratios, took["subprocess"].Seconds()/took["warm"].Seconds())
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "warm/subprocess")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkContainerJobs runs so many at once, in fresh containers and in warm ones.
func BenchmarkContainerJobs(b *testing.B) {
	w := benchWays(b, 8)
	for _, way := range []string{"fresh", "warm"} {
		for _, open := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("%s-%d", way, open), func(b *testing.B) {
				var left, misses atomic.Int64
				left.Store(int64(b.N))
				var all sync.WaitGroup
				for range open {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if r := w.run(b, way, "exit", "0"); strings.HasPrefix(r.Metadata["container.warm"], "miss") {
								misses.Add(1)
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
				b.ReportMetric(float64(misses.Load()), "misses")
			})
		}
	}
}

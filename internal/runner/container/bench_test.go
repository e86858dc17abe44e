package container_test

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

// BenchmarkTrue runs the least that there is, in turn as the `docker` command does it, in a fresh container and as a
// subprocess. The ratio to the first is what counts: all three share whatever else the machine does.
func BenchmarkTrue(b *testing.B) {
	image := enginetest.Image(b)
	docker, err := exec.LookPath("docker")
	if err != nil {
		b.Skip(err)
	}
	fresh := open(b, container.Config{})
	plain, err := subprocess.New(subprocess.Config{})
	if err != nil {
		b.Skip(err)
	}
	defer plain.Close()
	ways := map[string]func() error{
		"docker": func() error {
			return exec.Command(docker, "run", "--rm", "--network", "none", image, "/job", "exit", "0").Run()
		},
		"fresh": func() error {
			_, err := fresh.Run(b.Context(), command(b, "exit", "0"), &runnertest.Sink{})
			return err
		},
		"subprocess": func() error {
			_, err := plain.Run(b.Context(), runner.Job{
				Invocation: contracts.Invocation{ID: "job", Kind: contracts.KindSubprocess, Command: []string{"true"}}, Dir: b.TempDir(), Artifacts: b.TempDir(),
			}, &runnertest.Sink{})
			return err
		},
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
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds()*1e3, name+"-p50-ms")
		b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, name+"-p99-ms")
	}
	half := func(name string) float64 { return took[name][len(took[name])/2].Seconds() }
	b.ReportMetric(half("fresh")/half("docker"), "fresh/docker")
}

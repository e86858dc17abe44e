package subprocess_test

import (
	"bytes"
	"os/exec"
	"sync"
	"testing"

	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

const benchConcurrency = 8

// BenchmarkRun is one `sh -c 'echo hi'` with code and output, eight at once: os/exec alone, and on each rung.
func BenchmarkRun(b *testing.B) {
	b.Run("exec", func(b *testing.B) {
		eight(b, func(b *testing.B) {
			cmd := exec.Command("sh", "-c", "echo hi")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil || out.String() != "hi\n" {
				b.Errorf("Run() = %q, %v", out.String(), err)
			}
		})
	})
	for _, rung := range rungs {
		b.Run(rung, func(b *testing.B) {
			r := open(b, subprocess.Config{Ladder: rung})
			job := shell(b, "echo hi")
			eight(b, func(b *testing.B) {
				sink := &runnertest.Sink{}
				if outcome, err := r.Run(b.Context(), job, sink); err != nil || code(outcome) != 0 || sink.Stdout() != "hi\n" {
					b.Errorf("Run() = %+v, %q, %v", outcome, sink.Stdout(), err)
				}
			})
		})
	}
}

// eight does b.N rounds of do, eight at once.
func eight(b *testing.B, do func(*testing.B)) {
	b.ReportAllocs()
	rounds := make(chan struct{})
	var wait sync.WaitGroup
	for range benchConcurrency {
		wait.Go(func() {
			for range rounds {
				do(b)
			}
		})
	}
	for b.Loop() {
		rounds <- struct{}{}
	}
	close(rounds)
	wait.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
}

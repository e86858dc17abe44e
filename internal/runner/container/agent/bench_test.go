package agent_test

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

// BenchmarkRun runs the least that there is, one after another in one container.
func BenchmarkRun(b *testing.B) {
	b.Run("direct", func(b *testing.B) {
		s, _ := open(b)
		benchRun(b, s)
	})
	b.Run("relayed", func(b *testing.B) {
		s, _ := relayed(b)
		benchRun(b, s)
	})
}

func benchRun(b *testing.B, s *agent.Session) {
	c := command("exit", "0")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := s.Run(b.Context(), c, io.Discard, io.Discard); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
}

// BenchmarkWipe wipes a container in which nothing was left.
func BenchmarkWipe(b *testing.B) {
	s, _ := open(b)
	for b.Loop() {
		if err := s.Wipe(b.Context(), owner); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOutput writes 8 MiB, half of it to each stream.
func BenchmarkOutput(b *testing.B) {
	b.Run("direct", func(b *testing.B) {
		s, _ := open(b)
		benchOutput(b, s)
	})
	b.Run("relayed", func(b *testing.B) {
		s, _ := relayed(b)
		benchOutput(b, s)
	})
}

func benchOutput(b *testing.B, s *agent.Session) {
	c := command("writes", "4194304")
	b.SetBytes(8 << 20)
	for b.Loop() {
		if _, err := s.Run(b.Context(), c, io.Discard, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

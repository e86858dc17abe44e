//go:build unix

package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// A bench says what it measured in one line, and leaves nothing behind. Its figures are its own business.
func TestBench(t *testing.T) {
	for _, work := range []string{"noop", "latency", "exec"} {
		t.Run(work, func(t *testing.T) {
			a := newAccount(t)
			out := a.want(0, "bench", work, "--jobs", "40", "--rounds", "1", "--limit", "--json")
			var line struct {
				Work      string  `json:"work"`
				N         int     `json:"n"`
				Seconds   float64 `json:"seconds"`
				PerSecond float64 `json:"per_s"`
				P50       float64 `json:"p50_us"`
				P99       float64 `json:"p99_us"`
				Ratio     float64 `json:"ratio"`
				Limit     *struct {
					PerSecond float64 `json:"per_s"`
				} `json:"limit"`
			}
			if err := json.Unmarshal([]byte(out), &line); err != nil || strings.Count(out, "\n") != 1 {
				t.Fatalf("%v in %q", err, out)
			}
			if line.Work != work || line.N != 40 || line.Seconds <= 0 || line.PerSecond <= 0 || line.P50 <= 0 || line.P99 < line.P50 ||
				line.Ratio <= 0 || line.Limit == nil || line.Limit.PerSecond <= 0 {
				t.Errorf("the line is %s", out)
			}
			empty(t, a.file("tmp"))
		})
	}
}

func TestBenchOnAServerWithWorkers(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	out := a.want(0, "bench", "noop", "--jobs", "40")
	if !strings.HasPrefix(out, `{"work":"noop","n":40,`) {
		t.Errorf("the line is %s", out)
	}
}

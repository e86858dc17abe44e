//go:build unix

package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// A bench says what it measured in one line, and leaves nothing behind. Its figures are its own business.
func TestBench(t *testing.T) {
	for _, work := range []string{"noop", "latency", "manual", "exec"} {
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

// Where it is bytes that count, a line says how many; of a large file and of many small ones there are two.
func TestBenchOfBytes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string
		n     []int
		bytes []int64
	}{
		"stream":         {[]string{"stream", "--bytes", "1000001"}, []int{1}, []int64{1000001}},
		"artifact":       {[]string{"artifact", "--bytes", "9MiB", "--files", "60"}, []int{1, 60}, []int64{9 << 20, 60 * 4096}},
		"artifact, none": {[]string{"artifact", "--bytes", "0", "--files", "1"}, []int{1}, []int64{4096}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t)
			out := a.want(0, append(append([]string{"bench"}, test.args...), "--rounds", "1", "--limit", "--json")...)
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			if len(lines) != len(test.n) {
				t.Fatalf("%d lines, want %d: %s", len(lines), len(test.n), out)
			}
			for i, text := range lines {
				var line struct {
					Work      string  `json:"work"`
					N         int     `json:"n"`
					Bytes     int64   `json:"bytes"`
					PerSecond float64 `json:"per_s"`
					Ratio     float64 `json:"ratio"`
					Limit     *struct {
						PerSecond float64 `json:"per_s"`
					} `json:"limit"`
					FencedRatio float64 `json:"ratio_fenced"`
				}
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatalf("%v in %q", err, text)
				}
				if line.Work != test.args[0] || line.N != test.n[i] || line.Bytes != test.bytes[i] || line.PerSecond <= 0 ||
					line.Ratio <= 0 || line.Limit == nil || line.Limit.PerSecond <= 0 || line.Work == "stream" && line.FencedRatio <= 0 {
					t.Errorf("the line is %s", text)
				}
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

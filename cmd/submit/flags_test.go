package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestInvocationOfFlags(t *testing.T) {
	t.Setenv("TAKEN", "from here")
	for name, c := range map[string]struct {
		env     []string
		retries int
		delay   string
		on      []string
		want    string // of %+v, a part
		err     string
	}{
		"set":              {env: []string{"A=1=2", "B="}, want: "Environment:map[A:1=2 B:]"},
		"taken":            {env: []string{"TAKEN"}, want: "Environment:map[TAKEN:from here]"},
		"denied":           {env: []string{"!AWS_*"}, want: "EnvironmentDeny:[AWS_*]"},
		"denied with sign": {env: []string{"!A=1"}, err: "!KEY"},
		"no name":          {env: []string{"=1"}, err: "KEY=VALUE"},
		"not set":          {env: []string{"NO_SUCH_VARIABLE"}, err: "NO_SUCH_VARIABLE"},
		"retries":          {retries: 2, delay: "1.5s", on: []string{"failed", "timed_out"}, want: "Retry"},
		"negative":         {retries: -1, err: "--retries -1"},
		"delay alone":      {delay: "1s", err: "--retries"},
	} {
		t.Run(name, func(t *testing.T) {
			f := runFlags{env: c.env, retries: c.retries, retryOn: c.on}
			if c.delay != "" {
				if err := f.retryDelay.Set(c.delay); err != nil {
					t.Fatal(err)
				}
			}
			inv, err := f.invocation([]string{"true"})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("invocation() = %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%+v", inv); !strings.Contains(got, c.want) {
				t.Errorf("invocation() = %s, want %s in it", got, c.want)
			}
			if c.retries > 0 && (inv.Retry.Attempts != 3 || inv.Retry.DelaySeconds != 1.5 || len(inv.Retry.On) != 2) {
				t.Errorf("retry is %+v", inv.Retry)
			}
		})
	}
}

func TestNoGraceIsNotTheDefault(t *testing.T) {
	var f runFlags
	if inv, _ := f.invocation(nil); inv.Stop != nil {
		t.Errorf("without --grace Stop = %+v, want none", inv.Stop)
	}
	if err := f.grace.Set("0"); err != nil {
		t.Fatal(err)
	}
	if inv, _ := f.invocation(nil); inv.Stop == nil || inv.Stop.GraceSeconds == nil || *inv.Stop.GraceSeconds != 0 {
		t.Errorf("with --grace 0 Stop = %+v, want a grace of 0", inv.Stop)
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]float64{"90": 90, "1.5": 1.5, "2m30s": 150, "100ms": 0.1, "0": 0} {
		var s seconds
		if err := s.Set(text); err != nil || s.value != want || !s.set {
			t.Errorf("Set(%q) = %v and %v, want %v", text, err, s.value, want)
		}
	}
	for _, text := range []string{"", "soon", "-1", "-1s", "NaN", "Inf", "1e999"} {
		var s seconds
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) = %v, want an error", text, s.value)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 2*time.Hour + 5*time.Minute: "2h05m", 72 * time.Hour: "3d",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %q, want %q", d, got, want)
		}
	}
}

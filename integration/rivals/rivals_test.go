package main

import (
	"slices"
	"testing"
)

func TestCheckFindsWhatIsLostOrTwice(t *testing.T) {
	zero, one := 0, 1
	good := func(n int) held { return held{N: n, Code: &zero, Out: "hi\n"} }
	for name, c := range map[string]struct {
		held []held
		ok   bool
	}{
		"all":           {[]held{good(1), good(0)}, true},
		"one lost":      {[]held{good(0)}, false},
		"one twice":     {[]held{good(0), good(0)}, false},
		"a stranger":    {[]held{good(0), good(2)}, false},
		"no number":     {[]held{good(0), good(-1)}, false},
		"no exit code":  {[]held{good(0), {N: 1, Out: "hi\n"}}, false},
		"another code":  {[]held{good(0), {N: 1, Code: &one, Out: "hi\n"}}, false},
		"no output":     {[]held{good(0), {N: 1, Code: &zero}}, false},
		"a failed one":  {[]held{good(0), {N: 1, Code: &zero, Out: "hi\n", Err: "x"}}, false},
		"more than all": {[]held{good(0), good(1), good(1)}, false},
	} {
		if err := (measurement{Held: c.held}).check(workExec, 2); (err == nil) != c.ok {
			t.Errorf("%s: check() = %v, want ok %v", name, err, c.ok)
		}
	}
}

func TestPayloadIs64BytesWithItsNumber(t *testing.T) {
	for _, n := range []int{0, 7, 99999999} {
		p := payload(n)
		if got, err := numberOf(p); err != nil || got != n || len(p) != 64 {
			t.Errorf("numberOf(payload(%d)) = %d, %v of %d bytes", n, got, err, len(p))
		}
	}
	if _, err := numberOf("1"); err == nil {
		t.Error("numberOf takes a payload of one byte")
	}
}

func TestFigureComparesRoundByRound(t *testing.T) {
	at := func(values ...float64) (all []sample) {
		for _, v := range values {
			all = append(all, sample{perSecond: v, jobs: 10, cpu: 1})
		}
		return all
	}
	f := figureOf("other", workNoop, at(10, 30, 20), at(40, 30, 10))
	if f.PerSecond != 20 || f.Times != 1 || !slices.Equal(f.Rounds, []float64{4, 1, 0.5}) || f.CPU != 100000 {
		t.Errorf("figureOf() = %+v", f)
	}
	slow := []sample{{p50: 200, perSecond: 1, jobs: 1}}
	if f := figureOf("other", workLatency, slow, []sample{{p50: 100, perSecond: 1, jobs: 1}}); f.Times != 2 || f.PerSecond != 0 {
		t.Errorf("of latency figureOf() = %+v, want twice", f)
	}
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
)

// sample is one round of one work.
type sample struct {
	perSecond, p50, p99 float64 // p50 and p99 in microseconds, of latency
	cpu                 float64 // seconds of all its processes
	jobs                int
}

// figure is a line of the output: the median round of a work on a system.
type figure struct {
	System    string    `json:"system"`
	Work      string    `json:"work"`
	Jobs      int       `json:"jobs"` // of a round
	Slots     int       `json:"concurrency"`
	PerSecond float64   `json:"per_s,omitempty"`
	P50       float64   `json:"p50_us,omitempty"`
	P99       float64   `json:"p99_us,omitempty"`
	CPU       float64   `json:"cpu_us_per_job"` // processor time of server, worker and submitter
	Times     float64   `json:"runnel_times,omitempty"`
	Rounds    []float64 `json:"rounds,omitempty"` // Times, round by round
	Error     string    `json:"error,omitempty"`
}

// measureAll measures every work on every system, in turns. What fails is not measured again, and says so in its figures.
func measureAll(ctx context.Context, o options, all []*system, chatter io.Writer) []figure {
	samples := map[string]map[string][]sample{}
	failed := map[string]error{}
	for r := range o.rounds {
		for i := range all {
			s := all[(i+r)%len(all)] // nobody always follows the same one
			if failed[s.name] != nil || ctx.Err() != nil {
				continue
			}
			round, err := s.round(ctx, o.jobs)
			if err != nil {
				failed[s.name] = fmt.Errorf("round %d: %w", r+1, err)
				fmt.Fprintf(chatter, "%s: %v\n", s.name, failed[s.name])
				continue
			}
			if samples[s.name] == nil {
				samples[s.name] = map[string][]sample{}
			}
			for work, m := range round {
				samples[s.name][work] = append(samples[s.name][work], m)
			}
			fmt.Fprintf(chatter, "round %d of %d: %s\n", r+1, o.rounds, s.name)
		}
	}
	var figures []figure
	for _, work := range []string{workNoop, workLatency, workExec} {
		for _, s := range all {
			if err := failed[s.name]; err != nil {
				figures = append(figures, figure{System: s.name, Work: work, Error: err.Error()})
			} else if mine := samples[s.name][work]; len(mine) > 0 {
				figures = append(figures, figureOf(s.name, work, mine, samples["runnel"][work]))
			}
		}
	}
	return figures
}

// round measures each work once, after some of it to warm up.
func (s *system) round(ctx context.Context, jobs map[string]int) (_ map[string]sample, err error) {
	if s.marks, err = makeMarks(s.dir); err != nil {
		return nil, err
	}
	a, err := s.start(ctx, slotsOf[workNoop])
	if err != nil {
		return nil, err
	}
	defer a.end()
	round := map[string]sample{}
	for _, work := range []string{workNoop, workLatency, workExec} {
		if slices.Contains(s.lacks, work) {
			continue
		}
		if work == workExec {
			a.stopWork()
			if err := s.work(ctx, a, slotsOf[work]); err != nil {
				return nil, err
			}
		}
		n := jobs[work]
		if work == workNoop {
			n = max(1, n/s.fewer)
		}
		if round[work], err = a.sample(ctx, work, n); err != nil {
			return nil, fmt.Errorf("%s: %w", work, err)
		}
	}
	return round, nil
}

func (a *alive) sample(ctx context.Context, work string, n int) (sample, error) {
	few := max(n/10, 10*slotsOf[work]) // every slot has had some
	warm, err := a.submit.ask(ctx, work, few)
	if err == nil {
		err = warm.check(work, few)
	}
	if err != nil {
		return sample{}, fmt.Errorf("to warm up: %w", err)
	}
	before := a.processorTime()
	m, err := a.submit.ask(ctx, work, n)
	if err == nil {
		err = m.check(work, n)
	}
	if err != nil {
		return sample{}, err
	}
	taken := sample{jobs: n, perSecond: float64(n) / m.Seconds, cpu: a.processorTime() - before}
	if work == workLatency {
		var each []float64
		for _, h := range m.Held {
			each = append(each, h.US)
		}
		slices.Sort(each)
		taken.p50, taken.p99 = each[(n-1)/2], each[(n-1)*99/100]
	}
	return taken, nil
}

// value is what a round is judged by: jobs per second, or for latency its p50.
func (s sample) value() float64 { return cmp.Or(s.p50, s.perSecond) }

// figureOf takes the median round, and compares each with Runnel's of the same turn: how many times as fast that was.
func figureOf(system, work string, mine, runnel []sample) figure {
	sorted := slices.SortedFunc(slices.Values(mine), func(a, b sample) int { return cmp.Compare(a.value(), b.value()) })
	m := sorted[len(sorted)/2]
	f := figure{
		System: system, Work: work, Jobs: m.jobs, Slots: slotsOf[work],
		P50: rounded(m.p50, 1), P99: rounded(m.p99, 1), CPU: rounded(m.cpu/float64(m.jobs)*1e6, 1),
	}
	if work != workLatency {
		f.PerSecond = rounded(m.perSecond, 1)
	}
	if system == "runnel" {
		return f
	}
	for i := range min(len(mine), len(runnel)) {
		times := runnel[i].value() / mine[i].value()
		if work == workLatency {
			times = 1 / times
		}
		f.Rounds = append(f.Rounds, rounded(times, 2))
	}
	if len(f.Rounds) > 0 {
		ordered := slices.Sorted(slices.Values(f.Rounds))
		f.Times = ordered[len(ordered)/2]
	}
	return f
}

func rounded(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// figure is one line of bench. With a limit, the numbers are those of the median round.
type figure struct {
	Work         string  `json:"work"`
	N            int     `json:"n"`               // jobs, or files
	Bytes        int64   `json:"bytes,omitempty"` // of all of them, where it is bytes that count
	Seconds      float64 `json:"seconds"`
	PerSecond    float64 `json:"per_s"`
	MiBPerSecond float64 `json:"mib_per_s,omitempty"`
	P50          float64 `json:"p50_us,omitempty"`
	P99          float64 `json:"p99_us,omitempty"`
	Concurrency  int     `json:"concurrency,omitempty"`
	// CPU is the processor time of a round, for stream.
	CPU *cpuTime `json:"cpu_s,omitempty"`

	// Limit is what the parts can do without Runnel, measured in turns with it.
	Limit *limitFigure `json:"limit,omitempty"`
	// Ratio compares with it: of throughput, more is better; of latency, less is.
	Ratio float64 `json:"ratio,omitempty"`
	// Fenced is the limit with the settings of Runnel's streams: one message a subject, and copies of what is stored.
	Fenced      *limitFigure `json:"limit_fenced,omitempty"`
	FencedRatio float64      `json:"ratio_fenced,omitempty"`
	// Noop is Runnel's own job that does nothing, and a request beside it: for manual, in place of Fenced.
	Noop      *limitFigure `json:"limit_noop,omitempty"`
	NoopRatio float64      `json:"ratio_noop,omitempty"`
	Rounds    []float64    `json:"rounds,omitempty"` // the ratio of each
}

type limitFigure struct {
	PerSecond    float64  `json:"per_s"`
	MiBPerSecond float64  `json:"mib_per_s,omitempty"`
	P50          float64  `json:"p50_us,omitempty"`
	P99          float64  `json:"p99_us,omitempty"`
	CPU          *cpuTime `json:"cpu_s,omitempty"`
}

// measurement is what one round of something took.
type measurement struct {
	n       int
	bytes   int64
	elapsed time.Duration
	each    []time.Duration // from submission to result
	cpu     *cpuTime
}

func (m measurement) perSecond() float64 { return float64(m.n) / m.elapsed.Seconds() }

func (m measurement) mibPerSecond() float64 {
	return rounded(float64(m.bytes)/(1<<20)/m.elapsed.Seconds(), 1)
}

// quantile is in microseconds.
func (m measurement) quantile(q float64) float64 {
	if len(m.each) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(m.each))
	return rounded(float64(sorted[int(q*float64(len(sorted)-1))].Nanoseconds())/1e3, 1)
}

// value is what measurements are compared by: throughput, or for one job at a time the median.
func (m measurement) value(latency bool) float64 {
	if latency {
		return m.quantile(0.5)
	}
	return m.perSecond()
}

func rounded(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}

// benchWork is a kind of bench: its name, and what it takes unless told otherwise.
type benchWork struct {
	name        string
	short       string
	jobs        int
	concurrency int
	latency     bool // one at a time: compared by the median
}

var benchWorks = []benchWork{
	{name: "noop", short: "Throughput of jobs that do nothing: first submission to last result", jobs: 10000, concurrency: 16},
	{name: "latency", short: "One job that does nothing at a time: submission to result", jobs: 1000, concurrency: 16, latency: true},
	{name: "manual", short: "One job that a responder does at a time: submission to result", jobs: 1000, concurrency: 16, latency: true},
	{name: "exec", short: "Throughput of sh -c 'echo hi', with code and output in the result", jobs: 1500, concurrency: 8},
}

// benchFlags are the flags of every bench.
type benchFlags struct {
	jobs, concurrency, rounds int
	limit                     bool
}

func newBench(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure, beside the limit that the machine sets",
		Long: `bench measures and prints one line of JSON. Unless --server names one, it starts a server
and a worker as processes of their own, with their data in a temporary directory, and ends them.

With --limit it measures in turns what NATS, or the system, can do without Runnel on the
same server, and prints the ratio: the median of several rounds.`,
	}
	for _, w := range benchWorks {
		cmd.AddCommand(newBenchWork(a, w))
	}
	cmd.AddCommand(newBenchStream(a), newBenchArtifact(a))
	cmd.AddCommand(benchChildren()...)
	return cmd
}

func newBenchWork(a *app, w benchWork) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   w.name,
		Short: w.short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.jobs < 1 || f.concurrency < 1 || f.rounds < 0 {
				return errors.New("bench: --jobs, --concurrency and --rounds must be at least 1")
			}
			ctx, done := leaving(cmd.Context())
			defer done()
			line, err := a.bench(ctx, w, f)
			if err != nil {
				return cmp.Or(context.Cause(ctx), err)
			}
			return a.object(line)
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.jobs, "jobs", w.jobs, "jobs of a round: `N`")
	fs.IntVar(&f.concurrency, "concurrency", w.concurrency, "slots of the worker: `C`")
	f.common(fs)
	return cmd
}

// common adds the flags that every bench has.
func (f *benchFlags) common(fs *pflag.FlagSet) {
	fs.IntVar(&f.rounds, "rounds", 0, "how often to measure: `R` (default 1, with --limit 5)")
	fs.BoolVar(&f.limit, "limit", false, "measure the limit, too, in turns")
}

// leg is one side of a bench: it measures one round of n jobs or files.
type leg func(ctx context.Context, n int) (measurement, error)

// turns runs every leg once to warm up, with warm jobs or files, and then each in turn. It returns what the rounds of each leg took.
func (f benchFlags) turns(ctx context.Context, n, warm int, legs ...leg) ([][]measurement, error) {
	rounds := f.rounds
	if rounds == 0 && f.limit {
		rounds = 5
	}
	all := make([][]measurement, len(legs))
	for r := -1; r < max(rounds, 1); r++ {
		n := n
		if r < 0 {
			n = warm
		}
		for i, leg := range legs {
			m, err := leg(ctx, n)
			if err != nil {
				return nil, err
			}
			if r >= 0 {
				all[i] = append(all[i], m)
			}
		}
	}
	return all, nil
}

func (a *app) bench(ctx context.Context, w benchWork, f benchFlags) (figure, error) {
	fleet, err := a.benchFleet(ctx, f)
	if err != nil {
		return figure{}, err
	}
	defer fleet.close()
	if w.name == "manual" {
		if _, err := fleet.start(ctx, "respond", "--slots", strconv.Itoa(f.concurrency)); err != nil {
			return figure{}, err
		}
	}
	legs := []leg{fleet.measured(w)}
	if f.limit {
		limits, err := fleet.limits(w, f.concurrency)
		if err != nil {
			return figure{}, err
		}
		legs = append(legs, limits...)
	}
	warm := max(1, f.jobs/10)
	if w.latency { // where jobs go one by one a tenth is a moment, and warms nothing up
		warm = f.jobs
	}
	rounds, err := f.turns(ctx, f.jobs, warm, legs...)
	if err != nil {
		return figure{}, fmt.Errorf("bench %s: %w", w.name, err)
	}
	return line(w, f, rounds), nil
}

// line makes the figure of rounds: of Runnel's, of the limit's, of the limit's with Runnel's streams.
func line(w benchWork, f benchFlags, rounds [][]measurement) figure {
	ours := median(rounds[0], w.latency)
	fig := figure{
		Work: w.name, N: ours.n, Bytes: ours.bytes, MiBPerSecond: ours.mibPerSecond(), Seconds: rounded(ours.elapsed.Seconds(), 3), PerSecond: rounded(ours.perSecond(), 1),
		P50: ours.quantile(0.5), P99: ours.quantile(0.99), Concurrency: f.concurrency, CPU: ours.cpu,
	}
	if len(rounds) > 1 {
		fig.Limit, fig.Ratio, fig.Rounds = against(rounds[0], rounds[1], w.latency)
	}
	if len(rounds) > 2 && w.name == "manual" {
		fig.Noop, fig.NoopRatio, _ = against(rounds[0], rounds[2], w.latency)
	} else if len(rounds) > 2 {
		fig.Fenced, fig.FencedRatio, _ = against(rounds[0], rounds[2], w.latency)
	}
	return fig
}

func against(ours, limits []measurement, latency bool) (*limitFigure, float64, []float64) {
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, rounded(ours[i].value(latency)/limits[i].value(latency), 3))
	}
	m := median(limits, latency)
	sorted := slices.Sorted(slices.Values(ratios))
	return &limitFigure{PerSecond: rounded(m.perSecond(), 1), MiBPerSecond: m.mibPerSecond(), P50: m.quantile(0.5), P99: m.quantile(0.99), CPU: m.cpu}, sorted[len(sorted)/2], ratios
}

func median(all []measurement, latency bool) measurement {
	sorted := slices.SortedFunc(slices.Values(all), func(x, y measurement) int {
		return cmp.Compare(x.value(latency), y.value(latency))
	})
	return sorted[len(sorted)/2]
}

// Command rivals runs the same work on Runnel and on other job queues, in turns, and prints what each took and its ratio to
// Runnel: `make bench-rivals`, or here `go run . -h`. docs/performance.md says what is timed and how each is set up.
//
// It is a module of its own, so that Runnel does not depend on what it is measured beside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what the flags say.
type options struct {
	rounds  int
	jobs    map[string]int // per work
	only    []string
	json    string
	killed  bool
	patient time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		err = childMain(context.Background(), os.Args[2:])
	} else {
		runtime.LockOSThread() // a child is told of the end of the thread that started it
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rivals:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, chatter io.Writer) error {
	o, err := parse(args, chatter)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "runnel-rivals-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	var ready []*system
	skipped := []string{"asyncjobs: not measured, the module proxy refused github.com/choria-io/asyncjobs (403) when this was written"}
	for _, s := range systems() {
		if len(o.only) > 0 && !slices.Contains(o.only, s.name) {
			continue
		}
		s.dir = filepath.Join(dir, s.name)
		if err := os.Mkdir(s.dir, 0o700); err != nil {
			return err
		}
		defer s.tidy()
		if err := s.prepare(ctx, s); err != nil {
			if missing := (*missingError)(nil); errors.As(err, &missing) {
				skipped = append(skipped, s.name+": "+missing.Error())
				continue
			}
			return fmt.Errorf("prepare %s: %w", s.name, err)
		}
		ready = append(ready, s)
	}
	if len(ready) == 0 {
		return errors.New("nothing to measure: " + strings.Join(skipped[1:], "; "))
	}
	rep := &report{at: time.Now(), rounds: o.rounds, skipped: skipped, systems: ready}
	if o.rounds > 0 {
		rep.figures = measureAll(ctx, o, ready, chatter)
	}
	if o.killed && ctx.Err() == nil {
		rep.killed = killAll(ctx, ready, o.patient, chatter)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	rep.table(out)
	return errors.Join(rep.lines(out, o.json), rep.failures())
}

func parse(args []string, chatter io.Writer) (options, error) {
	o := options{jobs: map[string]int{}}
	fs := flag.NewFlagSet("rivals", flag.ContinueOnError)
	fs.SetOutput(chatter)
	fs.IntVar(&o.rounds, "rounds", 3, "how often each is measured, in turns; 0 leaves out all but -killed")
	noop := fs.Int("noop", 5000, "jobs of a round of noop")
	latency := fs.Int("latency", 300, "jobs of a round of latency")
	execs := fs.Int("exec", 500, "jobs of a round of exec")
	only := fs.String("only", "", "systems to measure, with commas (default all)")
	fs.StringVar(&o.json, "json", "", "write the JSON lines to this `file` (default: below the table)")
	fs.BoolVar(&o.killed, "killed", true, "measure a killed worker, too")
	fs.DurationVar(&o.patient, "patience", 2*time.Minute, "how long a killed worker's jobs are waited for")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag: see -h", fs.Arg(0))
	}
	if o.rounds < 0 || *noop < 1 || *latency < 1 || *execs < 1 || o.patient <= 0 {
		return o, errors.New("-rounds must not be negative, and -noop, -latency, -exec and -patience must be above 0")
	}
	o.jobs[workNoop], o.jobs[workLatency], o.jobs[workExec] = *noop, *latency, *execs
	if *only != "" {
		o.only = strings.Split(*only, ",")
		for _, name := range o.only {
			if !slices.ContainsFunc(systems(), func(s *system) bool { return s.name == name }) {
				return o, fmt.Errorf("-only: %q is none of %s", name, names(systems()))
			}
		}
	}
	return o, nil
}

func names(all []*system) string {
	var list []string
	for _, s := range all {
		list = append(list, s.name)
	}
	return strings.Join(list, ", ")
}

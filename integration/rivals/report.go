package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a run of this program found.
type report struct {
	at      time.Time
	rounds  int
	skipped []string
	systems []*system
	figures []figure
	killed  []killedFigure
}

// setup is a line of the output: what a system is, and how it is set up.
type setup struct {
	System   string   `json:"system"`
	Versions string   `json:"versions"`
	Settings []string `json:"settings"`
	At       string   `json:"at"`
	Cores    int      `json:"cores"`
	Go       string   `json:"go"`
}

// table prints what people read.
func (r *report) table(out io.Writer) {
	fmt.Fprintf(out, "%s, %d cores, %s, median of %d rounds in turns; \"Runnel\" is how many times as fast Runnel was, round by round in brackets\n\n",
		r.at.Format("2006-01-02 15:04"), runtime.NumCPU(), runtime.Version(), r.rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(r.figures) > 0 {
		fmt.Fprintln(w, "work\tsystem\tfigure\tRunnel\tprocessor time a job")
	}
	for _, f := range r.figures {
		if f.Error != "" {
			fmt.Fprintf(w, "%s\t%s\tfailed: %s\t\t\n", f.Work, f.System, firstLine(f.Error))
			continue
		}
		what := fmt.Sprintf("%.0f/s", f.PerSecond)
		if f.Work == workLatency {
			what = fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", f.P50/1e3, f.P99/1e3)
		}
		times := ""
		if f.Times > 0 {
			times = fmt.Sprintf("%.2f %v", f.Times, f.Rounds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f ms\n", f.Work, f.System, what, times, f.CPU/1e3)
	}
	w.Flush()
	if len(r.killed) > 0 {
		fmt.Fprintf(out, "\nworker killed with %d jobs of %d s running, another started at once: until all results are held\n\n", napJobs, napSeconds)
		for _, f := range r.killed {
			what := "not within the patience"
			if f.Seconds > 0 {
				what = fmt.Sprintf("%.1f s", f.Seconds)
			}
			if f.Error != "" {
				what = "failed: " + firstLine(f.Error)
			}
			fmt.Fprintf(w, "%s\t%s\t%d starts\t%s\n", f.System, what, f.Starts, f.By)
		}
		w.Flush()
	}
	fmt.Fprintln(out)
	for _, s := range r.systems {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.name, s.versions, strings.Join(s.settings, "; "))
	}
	w.Flush()
	fmt.Fprintln(out, "all: payload 64 bytes, each result checked for its job's number; worker and submitter in processes of their own, those in Go at GOGC=400")
	for _, s := range r.skipped {
		fmt.Fprintln(out, s)
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// lines writes what programs read: below the table, or to a file.
func (r *report) lines(out io.Writer, path string) (err error) {
	if path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer func() { err = cmp.Or(f.Close(), err) }()
		out = f
	} else {
		fmt.Fprintln(out)
	}
	enc := json.NewEncoder(out)
	for _, s := range r.systems {
		err = errors.Join(err, enc.Encode(setup{s.name, s.versions, s.settings, r.at.Format(time.RFC3339), runtime.NumCPU(), runtime.Version()}))
	}
	for _, f := range r.figures {
		err = errors.Join(err, enc.Encode(f))
	}
	for _, f := range r.killed {
		err = errors.Join(err, enc.Encode(f))
	}
	return err
}

// failures is the error of what could not be measured, in full.
func (r *report) failures() (err error) {
	told := map[string]bool{}
	for _, f := range r.figures {
		if f.Error != "" && !told[f.System] {
			told[f.System] = true
			err = errors.Join(err, fmt.Errorf("%s: %s", f.System, f.Error))
		}
	}
	for _, f := range r.killed {
		if f.Error != "" {
			err = errors.Join(err, fmt.Errorf("%s, killed: %s", f.System, f.Error))
		}
	}
	return err
}

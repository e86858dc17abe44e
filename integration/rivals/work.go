package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The works, as submitters are asked for them. A latency job is a noop job, one at a time; a nap is for killed workers.
const (
	workNoop    = "noop"
	workLatency = "latency"
	workExec    = "exec"
	workNap     = "nap"
)

// slotsOf says how many jobs of a work a worker has at once.
var slotsOf = map[string]int{workNoop: 16, workLatency: 16, workExec: 8, workNap: 8}

// napSeconds is how long a job of the killed worker takes.
const napSeconds = 5

// payload is the 64 bytes that a job carries: its number first.
func payload(n int) string { return fmt.Sprintf("%08d", n) + strings.Repeat("x", 56) }

// numberOf reads a payload's number.
func numberOf(payload string) (int, error) {
	if len(payload) != 64 {
		return 0, fmt.Errorf("a payload of %d bytes, want 64", len(payload))
	}
	return strconv.Atoi(payload[:8])
}

// held is one result as its submitter holds it. The Python submitter writes the same fields.
type held struct {
	N    int     `json:"n"`             // the number that the worker found in the payload
	Code *int    `json:"code"`          // exit code, where there was a command
	Out  string  `json:"out"`           // what it said
	US   float64 `json:"us"`            // from submission to result, where jobs go one at a time
	Err  string  `json:"err,omitempty"` // the job failed
}

// perform does a job in a worker of the systems whose work is a Go function.
func perform(ctx context.Context, work, payload, marks string) (held, error) {
	n, err := numberOf(payload)
	if err != nil {
		return held{}, err
	}
	h := held{N: n}
	switch work {
	case workNoop, workLatency:
		return h, nil
	case workExec:
		return command(ctx, h, "echo hi")
	case workNap:
		return command(ctx, h, napScript(marks, n))
	}
	return h, fmt.Errorf("%q is no work", work)
}

func command(ctx context.Context, h held, script string) (held, error) {
	out, err := exec.CommandContext(ctx, "sh", "-c", script).Output()
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		return h, err
	}
	h.Code, h.Out = &code, string(out)
	return h, nil
}

// napScript leaves a mark for every start, and sleeps.
func napScript(marks string, n int) string {
	return fmt.Sprintf("mktemp -p '%s' %d.XXXXXXXX >/dev/null && exec sleep %d", marks, n, napSeconds)
}

// starts counts the marks of naps.
func starts(marks string) int {
	found, _ := filepath.Glob(filepath.Join(marks, "*"))
	return len(found)
}

// measurement is what a submitter says of a round.
type measurement struct {
	Seconds float64 `json:"seconds"`
	Held    []held  `json:"held"`
	Err     string  `json:"err,omitempty"`
}

// check says whether every job of a round has exactly one result, and the right one.
func (m measurement) check(work string, jobs int) error {
	if m.Err != "" {
		return errors.New(m.Err)
	}
	seen := make([]bool, jobs)
	for _, h := range m.Held {
		switch {
		case h.Err != "":
			return fmt.Errorf("job %d failed: %s", h.N, h.Err)
		case h.N < 0 || h.N >= jobs:
			return fmt.Errorf("a result of job %d, which was not submitted", h.N)
		case seen[h.N]:
			return fmt.Errorf("two results of job %d", h.N)
		case work == workExec && (h.Code == nil || *h.Code != 0 || h.Out != "hi\n"):
			return fmt.Errorf("job %d: exit code and output %q in its result, want 0 and \"hi\\n\"", h.N, h.Out)
		}
		seen[h.N] = true
	}
	if len(m.Held) != jobs {
		return fmt.Errorf("%d results for %d jobs", len(m.Held), jobs)
	}
	return nil
}

// submitter hands in jobs and waits for their results: its system's client.
type submitter interface {
	// many hands in jobs 0 to n-1 as fast as it may, and returns when all results are held.
	many(ctx context.Context, work string, n int) ([]held, error)
	// one hands in job n and returns its result.
	one(ctx context.Context, work string, n int) (held, error)
}

// measure is a round, in the submitter's process.
func measure(ctx context.Context, s submitter, work string, n int) (m measurement) {
	var err error
	start := time.Now()
	if work == workLatency {
		for i := 0; i < n && err == nil; i++ {
			var h held
			began := time.Now()
			h, err = s.one(ctx, work, i)
			h.US = float64(time.Since(began).Nanoseconds()) / 1e3
			m.Held = append(m.Held, h)
		}
	} else {
		m.Held, err = s.many(ctx, work, n)
	}
	m.Seconds = time.Since(start).Seconds()
	if err != nil {
		m.Err = err.Error()
	}
	return m
}

// makeMarks makes the directory that naps leave their marks in.
func makeMarks(dir string) (string, error) {
	marks := filepath.Join(dir, "marks")
	return marks, os.MkdirAll(marks, 0o700)
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/runnel-project/runnel"
)

// benchPayload is what every job of a bench carries.
var benchPayload = bytes.Repeat([]byte("0123456789abcdef"), 4)

// measured returns what measures Runnel.
func (fl *fleet) measured(w benchWork) leg {
	inv := runnel.Invocation{Kind: runnel.KindNoop, Stdin: &runnel.Input{Data: benchPayload}}
	check := succeeded
	if w.name == "exec" {
		inv = runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", "echo hi"}}
		check = saidHi
	}
	if w.name == "manual" {
		inv.Kind, inv.Name = runnel.KindManual, benchName
	}
	return func(ctx context.Context, n int) (measurement, error) {
		// Any number of slots is fed; one at a time, the next is submitted when the last one's result is held.
		open := 0
		if w.latency {
			open = 1
		}
		return runMany(ctx, fl.client, inv, n, open, check)
	}
}

// runMany runs inv n times, with at most open of them at once (0 is as many as the client has), and checks every result.
func runMany(ctx context.Context, c *runnel.Client, inv runnel.Invocation, n, open int, check func(runnel.Result) error) (measurement, error) {
	began := make([]time.Time, n)
	places := make(chan struct{}, max(open, 1))
	over := make(chan struct{})
	var invs iter.Seq[runnel.Invocation] = func(yield func(runnel.Invocation) bool) {
		for i := range n {
			if open > 0 {
				select {
				case places <- struct{}{}:
				case <-over:
					return
				}
			}
			next := inv
			if inv.Kind == runnel.KindManual {
				next.Labels = map[string]string{"n": strconv.Itoa(i)} // the name says who is asked
			} else {
				next.Name = strconv.Itoa(i) // comes back in the result
			}
			began[i] = time.Now()
			if !yield(next) {
				return
			}
		}
	}
	m := measurement{each: make([]time.Duration, 0, n)}
	start := time.Now()
	defer close(over)
	for r, err := range c.RunAll(ctx, invs) {
		if err != nil {
			return m, err
		}
		if err := check(r); err != nil {
			return m, err
		}
		number := cmp.Or(r.Labels["n"], r.Name)
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= n {
			return m, fmt.Errorf("a result of job %q, which was not submitted", number)
		}
		m.each = append(m.each, time.Since(began[i]))
		if open > 0 {
			<-places
		}
	}
	m.n, m.elapsed = len(m.each), time.Since(start)
	if m.n != n {
		return m, fmt.Errorf("%d results for %d jobs", m.n, n)
	}
	return m, nil
}

func succeeded(r runnel.Result) error {
	if r.Status != runnel.StatusSucceeded {
		return errors.New(verdict(r))
	}
	return nil
}

func saidHi(r runnel.Result) error {
	if err := succeeded(r); err != nil {
		return err
	}
	said := ""
	for _, piece := range r.Tail {
		said += string(piece.Data)
	}
	// On a machine that is busy, what was said may have been stored ahead of the result.
	if r.ExitCode == nil || *r.ExitCode != 0 || r.StdoutBytes != 3 || said != "hi\n" && r.Chunks == 0 {
		return fmt.Errorf("%s: exit code %v and output %q in its result, want 0 and hi", r.ID, r.ExitCode, said)
	}
	return nil
}

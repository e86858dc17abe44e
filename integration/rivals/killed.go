package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// napJobs is how many jobs run when their worker is killed: one for each slot.
const napJobs = 8

// killedFigure is a line of the output: a worker killed with napJobs jobs running, and another one started at once.
type killedFigure struct {
	System  string  `json:"system"`
	Work    string  `json:"work"`
	Jobs    int     `json:"jobs"`
	Seconds float64 `json:"seconds,omitempty"` // from the kill to the last result held; 0 is not within the patience
	Starts  int     `json:"starts"`            // of all jobs, both workers
	By      string  `json:"by"`
	Error   string  `json:"error,omitempty"`
}

// killAll kills a worker of every system. They wait more than they work, so all do it at once.
func killAll(ctx context.Context, all []*system, patience time.Duration, chatter io.Writer) []killedFigure {
	var figures []killedFigure
	var each sync.WaitGroup
	var mu sync.Mutex
	for _, s := range all {
		if slices.Contains(s.lacks, workNap) {
			continue
		}
		each.Go(func() {
			f := killedFigure{System: s.name, Work: "killed", Jobs: napJobs, By: s.recovery}
			if err := s.killed(ctx, &f, patience); err != nil {
				f.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			figures = append(figures, f)
			fmt.Fprintf(chatter, "killed worker: %s\n", s.name)
		})
	}
	each.Wait()
	order := func(f killedFigure) int {
		return slices.IndexFunc(all, func(s *system) bool { return s.name == f.System })
	}
	slices.SortFunc(figures, func(a, b killedFigure) int { return order(a) - order(b) })
	return figures
}

func (s *system) killed(ctx context.Context, f *killedFigure, patience time.Duration) (err error) {
	if s.marks, err = makeMarks(s.dir); err != nil {
		return err
	}
	a, err := s.start(ctx, slotsOf[workNap])
	if err != nil {
		return err
	}
	defer a.end()
	type answer struct {
		m   measurement
		err error
	}
	asked, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	got := make(chan answer, 1)
	go func() {
		m, err := a.submit.ask(asked, workNap, napJobs)
		got <- answer{m, err}
	}()
	defer func() { // the submitter is nobody else's before that
		cancel(errors.New("not within the patience"))
		if got != nil {
			<-got
		}
	}()
	if err := s.allStarted(ctx); err != nil {
		return err
	}
	for _, w := range a.workers {
		w.kill()
	}
	killed := time.Now()
	a.stopWork()
	if err := s.work(ctx, a, slotsOf[workNap]); err != nil {
		return err
	}
	defer func() { f.Starts = starts(s.marks) }()
	select {
	case r := <-got:
		got = nil
		f.Seconds = rounded(time.Since(killed).Seconds(), 1)
		return errors.Join(r.err, r.m.check(workNap, napJobs))
	case <-time.After(patience):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// allStarted waits until every job has left its mark.
func (s *system) allStarted(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the jobs did not all start within a minute"))
	defer cancel()
	for starts(s.marks) < napJobs {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/runnel-project/runnel"
)

// errLeft is the cause of a context that ends because the user wants out.
var errLeft = errors.New("interrupted")

// leaving returns a context that ends with errLeft at the first interrupt: for
// commands that only look on.
func leaving(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel(errLeft)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// onSession connects with open or reach for do, which an interrupt ends.
func (a *app) onSession(ctx context.Context, connect func(context.Context) (*session, error), do func(context.Context, *session) error) error {
	ctx, done := leaving(ctx)
	defer done()
	s, err := connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return do(ctx, s)
}

// onInvocation is onSession for a command about one invocation, whose id it resolves.
func (a *app) onInvocation(ctx context.Context, given string, do func(context.Context, *session, string) error) error {
	return a.onSession(ctx, a.open, func(ctx context.Context, s *session) error {
		id, err := a.resolve(ctx, s, given)
		if err != nil {
			return err
		}
		return do(ctx, s, id)
	})
}

// broken turns the error of writing our output into an exit code of its own:
// that nobody reads any more is not a failure to be told.
func broken(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return &exitError{code: exitPipe}
	}
	if err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// printer writes what a follower hears: the work's output as it is, everything else as notes.
type printer struct {
	app            *app
	stdout, stderr io.Writer
	// heard is called at the first event, once; before with every event, before it is printed.
	heard  func()
	before func(runnel.Event)

	result *runnel.Result
	shown  bool // output of the run that is shown was printed
}

func (a *app) printer() *printer {
	return &printer{app: a, stdout: a.stdout, stderr: a.stderr, heard: func() {}, before: func(runnel.Event) {}}
}

// follow prints events until the result, which it returns, or until there are no more: nil.
func (p *printer) follow(events iter.Seq2[runnel.Event, error]) (*runnel.Result, error) {
	first := true
	for e, err := range events {
		if err != nil {
			return nil, err
		}
		if first {
			first = false
			p.heard()
		}
		if err := p.event(e); err != nil {
			return nil, err
		}
	}
	return p.result, nil
}

func (p *printer) event(e runnel.Event) error {
	p.before(e)
	switch e.Type {
	case runnel.EventOutput:
		return p.output(e.Output)
	case runnel.EventEnded:
		p.ended(e.End)
	case runnel.EventRestarted:
		if p.shown {
			p.app.note("the output so far does not count; that of run %s does, and follows", e.Run)
			p.shown = false
		}
	case runnel.EventGap:
		p.app.note("output is missing here: chunks %d to %d are not stored", e.Gap.From, e.Gap.To)
	case runnel.EventResult:
		p.result = e.Result
	}
	return nil
}

func (p *printer) output(piece *runnel.Piece) error {
	if piece.Cut > 0 {
		p.app.note("%d bytes of %s are left out here: more than the output limit", piece.Cut, piece.Stream)
	}
	if len(piece.Data) == 0 {
		return nil
	}
	p.shown = true
	w := p.stdout
	if piece.Stream == runnel.Stderr {
		w = p.stderr
	}
	_, err := w.Write(piece.Data)
	return broken(err)
}

// ended tells of a run that was not the last: what follows is another run's output.
func (p *printer) ended(end *runnel.End) {
	if end == nil || end.Status == runnel.StatusCancelled {
		return
	}
	how := string(end.Status)
	if end.Reason != "" {
		how += ", " + string(end.Reason)
	}
	if end.ExitCode != nil {
		how += fmt.Sprintf(", exit code %d", *end.ExitCode)
	}
	if end.Error != "" {
		how += ": " + oneLine(end.Error)
	}
	next := "it runs again"
	if wait := time.Until(end.NotBefore); wait > 0 {
		next = fmt.Sprintf("it runs again in %s", wait.Round(100*time.Millisecond))
	}
	p.app.note("attempt %d ended (%s): %s", end.Attempt, how, next)
}

// attachment says how to stay with an invocation until it ends.
type attachment struct {
	inv runnel.Invocation
	// failUnserved withdraws it when no worker is there that could take it.
	failUnserved bool
	// folder is where its artifacts go; "" leaves them.
	folder string
}

// attach prints what becomes of an invocation that this command submitted, cancels it at the
// first interrupt, and ends with its exit code.
func (a *app) attach(ctx context.Context, s *session, id string, at attachment) error {
	p := a.printer()
	var catch *capture
	if a.json {
		catch = &capture{}
		p.stdout, p.stderr = catch.of(runnel.Stdout), catch.of(runnel.Stderr)
	}
	result, err := a.stay(ctx, s, id, at.inv, p)
	if err != nil {
		return err
	}
	if at.folder != "" && result.ArtifactCount > 0 {
		if _, err := a.fetch(ctx, s, id, at.folder); err != nil {
			return err
		}
	}
	return a.conclude(*result, catch)
}

// fetch puts the files that an invocation left into a folder.
func (a *app) fetch(ctx context.Context, s *session, id, folder string) ([]runnel.Artifact, error) {
	ctx, done := leaving(ctx)
	defer done()
	files, err := s.Download(ctx, id, folder)
	if err != nil {
		return nil, fmt.Errorf("artifacts of %s: %w", id, cmp.Or(context.Cause(ctx), err))
	}
	return files, nil
}

// stay follows an invocation to its end with p, and cancels it at the first interrupt.
func (a *app) stay(ctx context.Context, s *session, id string, inv runnel.Invocation, p *printer) (*runnel.Result, error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	var background sync.WaitGroup
	defer background.Wait()
	defer leave(nil) // before the wait for what runs beside

	heard := make(chan struct{})
	p.heard = func() { close(heard) }
	background.Go(func() { a.cancelOnInterrupt(ctx, s, id, leave) })
	background.Go(func() { a.watchForWorkers(ctx, s, id, inv, heard) })

	result, err := p.follow(s.Watch(ctx, id))
	var pipe *exitError
	if errors.As(err, &pipe) && pipe.code == exitPipe {
		// As a process is ended that writes to nobody.
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, err := s.Cancel(bye, id); err != nil && !errors.Is(err, runnel.ErrNotFound) {
			a.say("cancel %s: %v", id, err)
		}
		return nil, err
	}
	if cause := context.Cause(ctx); cause != nil && result == nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// conclude prints what is to be said of a result and ends with its exit code.
func (a *app) conclude(r runnel.Result, catch *capture) error {
	if a.json {
		if err := a.object(reportOf(r, catch)); err != nil {
			return err
		}
	}
	return a.leave(r)
}

// leave says on standard error what a result has to say, and ends with its exit code.
func (a *app) leave(r runnel.Result) error {
	for _, w := range r.Warnings {
		a.note("%s: warning: %s", r.ID, oneLine(w))
	}
	code, text := codeOf(r), verdict(r)
	if code == 0 && text == "" {
		return nil
	}
	return &exitError{code: code, text: text}
}

// sameSignal is how soon a second signal is still the first one: a terminal sends it to a whole group, and
// what started us may pass it on as well.
const sameSignal = 200 * time.Millisecond

// cancelOnInterrupt cancels at the first interrupt, and leaves at the second.
func (a *app) cancelOnInterrupt(ctx context.Context, s *session, id string, leave context.CancelCauseFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	select {
	case <-ctx.Done():
		return
	case <-signals:
	}
	first := time.Now()
	a.note("cancelling %s (once more leaves it as it is)", id)
	cancelled := make(chan error, 1)
	go func() {
		_, err := s.Cancel(ctx, id)
		cancelled <- err
	}()
	for {
		select {
		case err := <-cancelled:
			if err != nil && ctx.Err() == nil {
				leave(fmt.Errorf("cancel %s: %w", id, err))
				return
			}
			// The result is on its way to the follower.
			cancelled = nil
		case <-signals:
			if time.Since(first) < sameSignal {
				continue
			}
			leave(&exitError{code: exitInterrupted, text: fmt.Sprintf("left: `submit show %s` says what became of it", id)})
			return
		case <-ctx.Done():
			return
		}
	}
}

// watchForWorkers says so when no worker is there that could take the invocation.
func (a *app) watchForWorkers(ctx context.Context, s *session, id string, inv runnel.Invocation, heard <-chan struct{}) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-heard:
		return
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	// What the server does not answer the follower waits for, too.
	if served, err := s.Served(ctx, inv.Kind, inv.Pool); err == nil && !served {
		a.note("%s: %s waits for one (`worker start` starts one, Ctrl-C cancels)", unserved(inv), id)
	}
}

// withdrawUnserved takes the invocation back if no worker is there that could take it, and says so in its error.
func (a *app) withdrawUnserved(ctx context.Context, s *session, id string, inv runnel.Invocation) error {
	served, err := s.Served(ctx, inv.Kind, inv.Pool)
	if err != nil || served {
		return nil
	}
	if err := s.Withdraw(ctx, id); err != nil {
		// A worker was quicker: it runs, or has ended.
		if ctx.Err() == nil {
			a.note("%s is not withdrawn: %v", id, err)
		}
		return nil
	}
	return fmt.Errorf("%s: %s is withdrawn (without --no-wait-worker it waits for one; `worker start` starts one)", unserved(inv), id)
}

func unserved(inv runnel.Invocation) string {
	return fmt.Sprintf("no worker serves kind %q in pool %q", inv.Kind, cmp.Or(inv.Pool, runnel.DefaultPool))
}

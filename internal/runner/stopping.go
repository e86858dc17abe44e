package runner

import (
	"context"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// DefaultGrace is the wait between TERM and KILL where an invocation says nothing.
const DefaultGrace = 5 * time.Second

// StopStep is a signal, INT or TERM, and the wait for the work to end by it.
type StopStep struct {
	Signal string
	Wait   time.Duration
}

// StopOrder returns what is tried before the hard kill (E19, T14).
func StopOrder(stop *contracts.Stop) []StopStep {
	interrupt, grace := time.Duration(0), DefaultGrace
	if stop != nil {
		interrupt = seconds(stop.InterruptSeconds)
		if stop.GraceSeconds != nil {
			grace = seconds(*stop.GraceSeconds)
		}
	}
	var steps []StopStep
	if interrupt > 0 {
		steps = append(steps, StopStep{"INT", interrupt})
	}
	if grace > 0 {
		steps = append(steps, StopStep{"TERM", grace})
	}
	return steps
}

// seconds turns a number of an invocation into a duration, without overflow.
func seconds(s float64) time.Duration {
	const most = float64(365 * 24 * time.Hour / time.Second)
	if !(s > 0) {
		return 0
	}
	return time.Duration(min(s, most) * float64(time.Second))
}

// Stopping is how a run is stopped, as Runner.Run owes it: once, for the first cause that there is, and not when it has
// ended by itself. Its user calls Watch once the work can be stopped, and Exited when the work has ended; what else
// stops it calls Fail or Unheard, from any goroutine.
type Stopping struct {
	stop    func()
	exited  chan struct{}
	stops   sync.WaitGroup // what stops the run; none is added once ended is set
	unwatch func() bool

	mu      sync.Mutex
	ended   bool
	cause   error // what it was stopped for; the first one counts
	sinkErr error // the first failed write to the sink
}

// NewStopping returns the Stopping of a run that stop stops: stop is called once at most, and returns when the work has
// ended or nothing more can be done about it.
func NewStopping(stop func()) *Stopping {
	return &Stopping{stop: stop, exited: make(chan struct{})}
}

// Watch stops the run when ctx ends, until Exited.
func (s *Stopping) Watch(ctx context.Context) {
	s.stops.Add(1)
	s.unwatch = context.AfterFunc(ctx, func() {
		defer s.stops.Done()
		s.halt(context.Cause(ctx))
	})
}

// Fail stops the run because its output or its input cannot be carried on. It does not wait.
func (s *Stopping) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && s.cause == nil {
		s.stops.Go(func() { s.halt(err) })
	}
}

// Unheard stops the run because of a failed write to its sink.
func (s *Stopping) Unheard(err error) {
	s.mu.Lock()
	if s.sinkErr == nil {
		s.sinkErr = err
	}
	s.mu.Unlock()
	s.Fail(err)
}

// Deaf reports whether a write to the sink has failed: what follows is read for nobody, so that the work is not held
// up while it is being stopped.
func (s *Stopping) Deaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sinkErr != nil
}

func (s *Stopping) halt(cause error) {
	s.mu.Lock()
	if s.ended || s.cause != nil {
		s.mu.Unlock()
		return
	}
	s.cause = cause
	s.mu.Unlock()
	s.stop()
}

// Exited notes that the work has ended, or that nobody can tell, and returns when nothing stops it any more.
func (s *Stopping) Exited() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	close(s.exited)
	if s.unwatch != nil && s.unwatch() {
		s.stops.Done()
	}
	s.stops.Wait()
}

// Done is closed by Exited.
func (s *Stopping) Done() <-chan struct{} { return s.exited }

// Await reports whether the work has ended, at once or within wait.
func (s *Stopping) Await(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-s.exited:
		return true
	case <-timer.C:
		return false
	}
}

// Why returns what the run was stopped for, if it was. ctx is that of Watch.
func (s *Stopping) Why(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cause != nil:
		return s.cause
	case s.sinkErr != nil && ctx.Err() != nil:
		// It ended by itself; then its last output was not wanted any more, most likely for this.
		return context.Cause(ctx)
	default:
		return s.sinkErr
	}
}

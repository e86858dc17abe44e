//go:build linux || darwin

package subprocess

import (
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// defaultGrace is the wait between TERM and KILL where the invocation says nothing.
const defaultGrace = 5 * time.Second

// step is a signal and the wait for the work to end by it.
type step struct {
	name   string
	signal syscall.Signal
	wait   time.Duration
}

// stopOrder returns what is tried before the hard kill (E19, T14).
func stopOrder(stop *contracts.Stop) []step {
	interrupt, grace := time.Duration(0), defaultGrace
	if stop != nil {
		interrupt = seconds(stop.InterruptSeconds)
		if stop.GraceSeconds != nil {
			grace = seconds(*stop.GraceSeconds)
		}
	}
	var steps []step
	if interrupt > 0 {
		steps = append(steps, step{"INT", syscall.SIGINT, interrupt})
	}
	if grace > 0 {
		steps = append(steps, step{"TERM", syscall.SIGTERM, grace})
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

// fail stops the run because its output or its input cannot be carried on.
func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && p.cause == nil {
		p.stops.Go(func() { p.end(err) })
	}
}

// end stops the run for cause in the order of its steps, and returns when nothing of it is left.
// It does nothing to a run that has ended or is being stopped.
func (p *process) end(cause error) {
	p.mu.Lock()
	if p.ended || p.cause != nil {
		p.mu.Unlock()
		return
	}
	p.cause = cause
	p.mu.Unlock()

	p.count = p.hold.count()
	for _, step := range p.steps {
		p.sent = append(p.sent, step.name)
		// What cannot be signalled is killed all the same.
		_ = p.hold.signal(step.signal)
		if p.await(step.wait) {
			return
		}
	}
	p.sent = append(p.sent, "KILL")
	var n int
	n, p.endErr = p.hold.kill()
	p.count = max(p.count, n)
}

// await waits until the leader has ended and nothing else of the run is left, or for as long as wait.
// What outlives a leader that died of the signal may still be at its own last work.
func (p *process) await(wait time.Duration) bool {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	select {
	case <-p.exited:
	case <-deadline.C:
		return false
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		if empty, err := p.hold.empty(); empty || err != nil {
			return empty
		}
		select {
		case <-look.C:
		case <-deadline.C:
			return false
		}
	}
}

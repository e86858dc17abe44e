//go:build linux || darwin

package subprocess

import (
	"syscall"
	"time"
)

var signals = map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}

// stop ends the run in the order of its steps, and returns when nothing of it is left.
func (p *process) stop() {
	p.count = p.hold.count()
	for _, step := range p.steps {
		p.sent = append(p.sent, step.Signal)
		// What cannot be signalled is killed all the same.
		_ = p.hold.signal(signals[step.Signal])
		if p.await(step.Wait) {
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
	case <-p.stopping.Done():
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

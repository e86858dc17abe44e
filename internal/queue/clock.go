package queue

import (
	"sync"
	"sync/atomic"
	"time"
)

// clockSamples is how many writes are remembered: 24 s at one every 3 s, in
// which two good clocks part by microseconds.
const clockSamples = 8

// clockStep is how far the wall clock may part from another before it counts as
// set, or the machine as having slept: samples from before are worth nothing then.
const clockStep = 250 * time.Millisecond

// serverClock tells the server's time from when it was seen last, by a clock
// that nobody sets: a wall clock that was put forward by ten minutes ended jobs
// that had waited for seconds, until the next write.
type serverClock struct {
	mu      sync.Mutex
	samples []clockSample
	best    atomic.Pointer[clockSample] // the quickest of them
}

// clockSample is the middle of a write, by four clocks.
type clockSample struct {
	wall   time.Time     // may be set
	run    time.Time     // Go's own, read without a system call: stands still while the machine sleeps
	steady time.Duration // goes on then
	server time.Time
	took   time.Duration
}

func (c *serverClock) record(s clockSample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.samples); n > 0 {
		last := c.samples[n-1]
		if parted(s.wall.Sub(last.wall), s.steady-last.steady) {
			c.samples = nil
		}
	}
	if len(c.samples) == clockSamples {
		c.samples = append(c.samples[:0], c.samples[1:]...)
	}
	c.samples = append(c.samples, s)
	best := s
	for _, s := range c.samples {
		if s.took < best.took {
			best = s
		}
	}
	c.best.Store(&best)
}

// at returns the server's time; wall before anything is known of it. Only where
// the wall clock and Go's own have parted, since one was set or the machine
// slept, is the steady one asked: that is a system call, and each job asks five
// times what time it is.
func (c *serverClock) at(wall, run time.Time, steady func() time.Duration) time.Time {
	best := c.best.Load()
	if best == nil {
		return wall
	}
	since := run.Sub(best.run)
	if parted(wall.Sub(best.wall), since) {
		since = steady() - best.steady
	}
	return best.server.Add(since)
}

func parted(x, y time.Duration) bool { return x-y > clockStep || y-x > clockStep }

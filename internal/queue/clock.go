package queue

import (
	"sync"
	"time"
)

// clockSamples is how many writes are remembered: 24 s at one every 3 s, in
// which two good clocks part by microseconds.
const clockSamples = 8

// clockStep is how far the wall clock may part from the steady one between two
// samples before the older ones are worth nothing: where the steady one stands
// still while the machine sleeps, it slept.
const clockStep = 250 * time.Millisecond

// serverClock tells the server's time from when it was seen last, by a clock
// that nobody sets: a wall clock that was put forward by ten minutes ended jobs
// that had waited for seconds, until the next write.
type serverClock struct {
	mu      sync.Mutex
	samples []clockSample
}

// clockSample is the middle of a write, by three clocks.
type clockSample struct {
	wall   time.Time
	steady time.Duration
	server time.Time
	took   time.Duration
}

func (c *serverClock) record(wall time.Time, steady, took time.Duration, server time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.samples); n > 0 {
		last := c.samples[n-1]
		if d := wall.Sub(last.wall) - (steady - last.steady); d > clockStep || d < -clockStep {
			c.samples = nil
		}
	}
	if len(c.samples) == clockSamples {
		c.samples = append(c.samples[:0], c.samples[1:]...)
	}
	c.samples = append(c.samples, clockSample{wall: wall, steady: steady, server: server, took: took})
}

// at returns the server's time; wall before anything is known of it.
func (c *serverClock) at(wall time.Time, steady time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.samples) == 0 {
		return wall
	}
	best := c.samples[0]
	for _, s := range c.samples {
		if s.took < best.took {
			best = s
		}
	}
	return best.server.Add(steady - best.steady)
}

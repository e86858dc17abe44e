package queue

import (
	"testing"
	"time"
)

// Inside the package: no test can set the clock of the machine.
func TestServerClock(t *testing.T) {
	var c serverClock
	wall, steady := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Hour
	run := wall // Go's own clock
	pass := func(d time.Duration) { wall, run, steady = wall.Add(d), run.Add(d), steady+d }
	add := func(offset, took time.Duration) {
		pass(5 * time.Second)
		c.record(clockSample{wall: wall, run: run, steady: steady, took: took, server: wall.Add(offset)})
	}
	asked := 0
	check := func(when string, want time.Duration, asks int) {
		t.Helper()
		asked = 0
		if got := c.at(wall, run, func() time.Duration { asked++; return steady }).Sub(wall); got != want || asked != asks {
			t.Errorf("at() %s is %v off and asked the system %d times, want %v and %d", when, got, asked, want, asks)
		}
	}
	check("before the first write", 0, 0)
	add(10*time.Second, 100*time.Millisecond)
	add(11*time.Second, time.Millisecond)
	add(12*time.Second, 50*time.Millisecond)
	check("after three writes, the second the quickest", 11*time.Second, 0)
	pass(time.Minute)
	check("a minute later", 11*time.Second, 0)
	for range clockSamples {
		add(13*time.Second, 30*time.Millisecond)
	}
	check("after the quickest was forgotten", 13*time.Second, 0)

	wall = wall.Add(-time.Hour) // set back
	check("at once when the clock was set", time.Hour+13*time.Second, 1)
	add(time.Hour, 40*time.Millisecond)
	check("after the clock was set", time.Hour, 0)

	// Slept: Go's own clock stood still.
	wall, steady = wall.Add(10*time.Minute), steady+10*time.Minute
	check("at once after a sleep", time.Hour, 1)
	wall = wall.Add(20 * time.Minute) // and on a system where every other clock did
	add(-time.Second, 60*time.Millisecond)
	check("after a suspend", -time.Second, 0)
}

package queue

import (
	"testing"
	"time"
)

// Inside the package: no test can set the clock of the machine.
func TestServerClock(t *testing.T) {
	var c serverClock
	wall, steady := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Hour
	add := func(offset, took time.Duration) {
		wall, steady = wall.Add(5*time.Second), steady+5*time.Second
		c.record(wall, steady, took, wall.Add(offset))
	}
	check := func(when string, want time.Duration) {
		t.Helper()
		if got := c.at(wall, steady).Sub(wall); got != want {
			t.Errorf("at() %s is %v off, want %v", when, got, want)
		}
	}
	check("before the first write", 0)
	add(10*time.Second, 100*time.Millisecond)
	add(11*time.Second, time.Millisecond)
	add(12*time.Second, 50*time.Millisecond)
	check("after three writes, the second the quickest", 11*time.Second)
	for range clockSamples {
		add(13*time.Second, 30*time.Millisecond)
	}
	check("after the quickest was forgotten", 13*time.Second)

	wall = wall.Add(-time.Hour) // set back
	check("at once when the clock was set", time.Hour+13*time.Second)
	add(time.Hour, 40*time.Millisecond)
	check("after the clock was set", time.Hour)

	wall = wall.Add(10 * time.Minute) // slept, and the steady clock stood still
	add(-time.Second, 60*time.Millisecond)
	check("after a suspend", -time.Second)
}

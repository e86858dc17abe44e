package tree

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// KillAll kills what find returns, again and again until it returns nothing, and
// returns how many processes it was. find may be called many times and leaves out zombies.
func KillAll(find func() ([]Proc, error), wait time.Duration) (int, error) {
	type name struct {
		pid   int
		start uint64
	}
	seen := make(map[name]bool)
	deadline := time.Now().Add(wait)
	for {
		procs, err := find()
		if err != nil || len(procs) == 0 {
			return len(seen), err
		}
		var errs []error
		for _, p := range procs {
			seen[name{p.PID, p.Start}] = true
			if err := p.Signal(unix.SIGKILL); err != nil {
				errs = append(errs, err)
			}
		}
		if !time.Now().Before(deadline) {
			errs = append(errs, fmt.Errorf("%d processes do not end within %v of their kill", len(procs), wait))
			return len(seen), errors.Join(errs...)
		}
		WaitGone(procs, min(time.Until(deadline), 50*time.Millisecond))
	}
}

// Now returns the time in the unit of Proc.Start: clock ticks since the machine started.
func Now() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	const ticks = 100 // USER_HZ: the unit of what /proc shows, the same on every architecture that Go has
	return uint64(ts.Nano()) / (uint64(time.Second) / ticks)
}

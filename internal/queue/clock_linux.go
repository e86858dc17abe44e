package queue

import (
	"time"

	"golang.org/x/sys/unix"
)

// steady is the time since the machine booted, with what it slept. Go's own monotonic clock stands still then.
func steady() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Since(steadyStart)
	}
	return time.Duration(now.Nano())
}

var steadyStart = time.Now()

//go:build !linux

package queue

import "time"

// steady is a clock that nobody sets.
func steady() time.Duration { return time.Since(steadyStart) }

var steadyStart = time.Now()

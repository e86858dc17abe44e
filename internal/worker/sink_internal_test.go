package worker

import (
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// A chunk holds more for as long as chunks are filled fast, up to its cap, and 64 KiB again after one that was not.
func TestChunksGrow(t *testing.T) {
	const kib = 1 << 10
	s := sink{full: 64 * kib}
	for _, step := range []struct {
		size int
		took time.Duration
		want int
	}{
		{64 * kib, 0, 128 * kib},
		{128 * kib, 0, 256 * kib},
		{256 * kib, 0, 256 * kib},
		{256 * kib, time.Second, 64 * kib},
		{64 * kib, time.Second, 64 * kib},
		{64 * kib, 0, 128 * kib},
		{30 * kib, 0, 64 * kib}, // full of pieces
	} {
		s.size, s.began = step.size, time.Now().Add(-step.took)
		if s.fit(); s.full != step.want {
			t.Errorf("after %d bytes in %s a chunk is full with %d, want %d", step.size, step.took, s.full, step.want)
		}
	}
	if s.full > contracts.MaxFloodChunkBytes {
		t.Errorf("a chunk may hold %d bytes", s.full)
	}
}

package artifacts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// What is larger than a part is sent before its name is known. It is stored once all the same, whoever stores it.
func TestALargeFileIsStoredOnce(t *testing.T) {
	t.Parallel()
	now := startClock(time.Hour) // so that no epoch ends in the middle
	node := queuetest.Server(t)
	js := stream(t, node)
	dir := write(t, map[string]entry{"large": {0o644, random(artifacts.PartBytes + 5)}})
	const inChunks = artifacts.PartBytes/(128<<10) + 1
	config := artifacts.Config{TTL: time.Hour, Now: now.now}
	check := func(what string, stored int64) {
		t.Helper()
		if b, c := len(blobs(t, js, bucket)), chunks(t, js, bucket); stored != 0 || b != 1 || c != inChunks {
			t.Errorf("%s: %d bytes stored anew, and there are %d blobs and %d chunks, want 0, 1 and %d", what, stored, b, c, inChunks)
		}
	}

	var wg sync.WaitGroup
	var stored atomic.Int64
	for range 4 {
		s := openOn(t, stream(t, node), config)
		wg.Go(func() {
			c, err := s.Collect(t.Context(), dir)
			if err != nil {
				t.Errorf("Collect() = %v", err)
				return
			}
			stored.Add(c.Stored)
			if err := drain(s, t.Context(), c.Artifacts[0]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check("four at once", stored.Load()-artifacts.PartBytes-5)
	s := openOn(t, js, config)
	first := collect(t, s, dir)
	check("a store that has not seen it", first.Stored)

	st, err := js.Stream(t.Context(), "OBJ_"+bucket)
	must(t, err)
	full := st.CachedInfo().Config
	info, err := st.Info(t.Context())
	must(t, err)
	full.MaxBytes = int64(info.State.Bytes)
	_, err = js.UpdateStream(t.Context(), full)
	must(t, err)
	check("a store without room", collect(t, openOn(t, js, config), dir).Stored)
	other := write(t, map[string]entry{"large": {0o644, random(artifacts.PartBytes + 6)}})
	_, err = s.Collect(t.Context(), other)
	says(t, "Collect() of what is not there", err, artifacts.ErrFull)
	check("what found no room", 0)
	full.MaxBytes = -1
	_, err = js.UpdateStream(t.Context(), full)
	must(t, err)

	// One that looks the same, and is not.
	twin := filepath.Join(dir, "large")
	data, err := os.ReadFile(twin)
	must(t, err)
	data[len(data)-1]++
	must(t, os.WriteFile(twin, data, 0o644))
	c := collect(t, s, dir)
	if c.Stored != int64(len(data)) || readAll(t, s, c.Artifacts[0]) != string(data) {
		t.Errorf("its twin: %d bytes stored, want %d, and the same ones", c.Stored, len(data))
	}
	must(t, drain(s, t.Context(), first.Artifacts[0]))
}

// A file that outgrows what a run may leave is left out, and what was sent of it is taken back.
func TestALargeFileOutgrowsTheLimit(t *testing.T) {
	t.Parallel()
	files := map[string]entry{"a": {0o644, random(artifacts.PartBytes + 1)}, "b": {0o644, random(artifacts.PartBytes + 2)}}
	dir := write(t, files)
	// The clock is asked when a is stored: b was looked at by then, and not read.
	var grow sync.Once
	s, js := open(t, artifacts.Config{MaxRunBytes: 20 << 20, Now: func() time.Time {
		grow.Do(func() { must(t, os.Truncate(filepath.Join(dir, "b"), 30<<20)) })
		return time.Now()
	}})
	c := collect(t, s, dir)
	if paths(c) != "a" || !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, `"b" left out: it grew while it was read`) }) {
		t.Errorf("Collect() = %s, %q; want a, and a warning of b", paths(c), c.Warnings)
	}
	if got, want := chunks(t, js, bucket), artifacts.PartBytes/(128<<10)+1; got != want {
		t.Errorf("there are %d chunks, want the %d of a", got, want)
	}
}

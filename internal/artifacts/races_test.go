package artifacts_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// clock is a time that a test moves.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.Load()) }

func (c *clock) add(d time.Duration) { c.Int64.Add(int64(d)) }

// start returns a clock at the beginning of an epoch of half a ttl.
func startClock(ttl time.Duration) *clock {
	c := new(clock)
	c.Store(time.Now().UnixNano() / int64(ttl/2) * int64(ttl/2))
	return c
}

func TestContentIsStoredOncePerEpoch(t *testing.T) {
	const ttl = 2 * time.Hour
	now := startClock(ttl)
	s, js := open(t, artifacts.Config{TTL: ttl, Now: now.now})
	dir := write(t, map[string]entry{"a": {0o644, "content"}})
	first := collect(t, s, dir)
	now.add(ttl/2 - 1)
	if again := collect(t, s, dir); again.Stored != 0 || again.Artifacts[0].Segments[0] != first.Artifacts[0].Segments[0] {
		t.Errorf("within the epoch Collect() stored %d bytes as %v, want none", again.Stored, again.Artifacts[0].Segments)
	}
	now.add(1)
	next := collect(t, s, dir)
	if next.Stored != 7 || len(blobs(t, js, bucket)) != 2 {
		t.Errorf("in the next epoch Collect() stored %d bytes, want all 7 again", next.Stored)
	}
	for _, c := range []artifacts.Collected{first, next} {
		if readAll(t, s, c.Artifacts[0]) != "content" {
			t.Error("Open() reads other content")
		}
	}
	// A bucket that exists keeps its TTL, and its epochs, whatever this program would have made.
	other := openOn(t, js, artifacts.Config{TTL: 10 * ttl, Now: now.now})
	if c := collect(t, other, dir); c.Stored != 0 {
		t.Errorf("with another TTL in the Config Collect() stored %d bytes, want none", c.Stored)
	}
}

func TestTheTTLLeavesAResultItsFiles(t *testing.T) {
	if got := artifacts.TTLFor(24 * time.Hour); got != artifacts.DefaultTTL {
		t.Errorf("TTLFor(a day) = %v, want DefaultTTL, %v", got, artifacts.DefaultTTL)
	}
	for _, age := range []time.Duration{time.Second, time.Hour, 30 * 24 * time.Hour} {
		if half := artifacts.TTLFor(age) / 2; half <= age {
			t.Errorf("half of TTLFor(%v) is %v, want more than the age", age, half)
		}
	}
}

// What a result names is readable for half the TTL after it was collected, however old its content is.
func TestContentOutlivesWhatNamesIt(t *testing.T) {
	const ttl = 3 * time.Second
	s, _ := open(t, artifacts.Config{TTL: ttl})
	dir := write(t, map[string]entry{"a": {0o644, "content"}, "b": {0o644, random(2 << 20)}})
	type collected struct {
		artifacts.Collected
		at time.Time
	}
	var all []collected
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	epochs := make(map[string]bool)
	for ; len(epochs) < 6; <-tick.C { // until the first ones have aged out
		before := time.Now()
		all = append(all, collected{collect(t, s, dir), before})
		epochs[all[len(all)-1].Artifacts[0].Segments[0].Blob] = true
		for _, c := range all {
			for _, a := range c.Artifacts {
				if err := drain(s, t.Context(), a); err != nil && time.Since(c.at) < ttl/2 {
					t.Fatalf("%v after it was collected: %v", time.Since(c.at), err)
				}
			}
		}
		all = slices.DeleteFunc(all, func(c collected) bool { return time.Since(c.at) > ttl/2 })
	}
}

// Many put the same content at once, and others read it as soon as anybody names it.
func TestPutsOfOneContentAtOnce(t *testing.T) {
	const ttl = 2 * time.Hour
	now := startClock(ttl)
	node := queuetest.Server(t)
	js := stream(t, node)
	var stores []*artifacts.Store
	for range 4 {
		stores = append(stores, openOn(t, stream(t, node), artifacts.Config{TTL: ttl, Now: now.now}))
	}
	files := map[string]entry{"a": {0o644, random(1<<20 + 5)}, "b": {0o644, "small"}}
	dir := write(t, files)
	const rounds = 8
	for round := range rounds {
		var wg sync.WaitGroup
		var stored atomic.Int64
		for i := range 2 * len(stores) {
			wg.Go(func() {
				s := stores[i%len(stores)]
				c, err := s.Collect(t.Context(), dir)
				if err != nil {
					t.Errorf("round %d: Collect() = %v", round, err)
					return
				}
				stored.Add(c.Stored)
				for _, a := range c.Artifacts {
					if err := drain(stores[(i+1)%len(stores)], t.Context(), a); err != nil {
						t.Errorf("round %d: %v", round, err)
					}
				}
			})
		}
		wg.Wait()
		if want := int64(1<<20 + 10); stored.Load() != want {
			t.Errorf("round %d: %d bytes were stored, want %d, once", round, stored.Load(), want)
		}
		now.add(ttl / 2)
	}
	if got, want := len(blobs(t, js, bucket)), 2*rounds; got != want {
		t.Errorf("there are %d blobs, want %d", got, want)
	}
	if got, want := chunks(t, js, bucket), rounds*(9+1); got != want {
		t.Errorf("there are %d chunks, want %d: who came second takes his back", got, want)
	}
}

// Other programs do replace objects. Who reads one meanwhile goes on with the new chunks.
func TestABlobThatIsReplacedUnderItsReader(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	data := random(3 << 20)
	c := collect(t, s, write(t, map[string]entry{"a": {0o644, data}}))
	store, err := js.ObjectStore(t.Context(), bucket)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := store.PutString(t.Context(), c.Artifacts[0].Segments[0].Blob, data); err != nil {
				t.Errorf("PutString() = %v", err)
				return
			}
		}
	})
	for range 8 {
		if err := drain(s, t.Context(), c.Artifacts[0]); err != nil {
			t.Errorf("Open() while it is replaced = %v", err)
		}
	}
	stop()
	wg.Wait()
}

// However many files of whatever size are on their way, memory is bounded.
func TestMemoryIsBounded(t *testing.T) {
	js, err := jetstream.New(queuetest.Process(t).Connect(t)) // whose memory is not ours
	must(t, err)
	s := openOn(t, js, artifacts.Config{})
	const runs, size = 8, 24 << 20
	var dirs []string
	for i := range runs {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "large"))
		must(t, err)
		_, err = f.WriteAt([]byte{byte(i + 1)}, size-1) // sparse
		must(t, err, f.Close())
		dirs = append(dirs, dir)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	// What is held is asked for, and not what the collector has let lie: on a busy machine it comes late.
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	runtime.GC()
	before := heap()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for _, dir := range dirs {
		wg.Go(func() {
			c, err := s.Collect(t.Context(), dir)
			if err == nil {
				err = drain(s, t.Context(), c.Artifacts[0])
			}
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	var most uint64
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			most = max(most, heap())
		case <-done:
			running = false
		}
	}
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	// 4 parts, twice for what the collector has not swept, and 8 readers of two batches each.
	if grown := int64(most) - int64(before); grown > 128<<20 {
		t.Errorf("%d runs of %d MiB held %d MiB, want at most 128", runs, size>>20, grown>>20)
	} else {
		t.Logf("%d runs of %d MiB held %d MiB", runs, size>>20, grown>>20)
	}
}

// The leader of the bucket dies while files are on their way, and nobody notices but by the time it takes.
func TestClusterLeaderDiesUnderAnUpload(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three servers")
	}
	servers := queuetest.Cluster(t, 3)
	js, err := jetstream.New(servers.Connect(t))
	must(t, err)
	s := openOn(t, js, artifacts.Config{Replicas: 3})
	files := map[string]entry{"large": {0o644, random(20 << 20)}, "small": {0o644, "s"}}
	dir := write(t, files)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := collect(t, s, write(t, map[string]entry{"first": {0o644, "makes the bucket"}}))
	for _, a := range c.Artifacts {
		must(t, drain(s, ctx, a))
	}
	done := make(chan error, 1)
	start := time.Now()
	go func() {
		var err error
		c, err = s.Collect(ctx, dir)
		done <- err
	}()
	st, err := js.Stream(ctx, "OBJ_"+bucket)
	must(t, err)
	for {
		info, err := st.Info(ctx)
		must(t, err)
		if info.State.Msgs > 30 {
			break
		}
		must(t, ended(done))
	}
	leader := servers.Leader("OBJ_" + bucket)
	servers.Kill(leader)
	if err := <-done; err != nil {
		t.Fatalf("Collect() while the leader died = %v", err)
	}
	t.Logf("collected within %v", time.Since(start))
	out := t.TempDir()
	_, err = s.Unpack(ctx, result(t, c), out)
	must(t, err)
	if got := tree(t, out); !equal(got, files) {
		t.Errorf("unpacked %v, want %v", summary(got), summary(files))
	}
	servers.Restart(leader)
	// Right after a put a replica may lack what the leader has.
	for round := range 30 {
		c := collect(t, s, write(t, map[string]entry{"a": {0o644, fmt.Sprint("round ", round)}}))
		if err := drain(s, ctx, c.Artifacts[0]); err != nil {
			t.Errorf("round %d: reading right after the put = %v", round, err)
		}
	}
}

// Tenants do not see each other.
func TestTenantsHaveBucketsOfTheirOwn(t *testing.T) {
	_, js := open(t, artifacts.Config{})
	a, b := openOn(t, js, artifacts.Config{Tenant: "a"}), openOn(t, js, artifacts.Config{Tenant: "b"})
	c := collect(t, a, write(t, map[string]entry{"a": {0o644, "content"}}))
	says(t, "Open() by another tenant", drain(b, t.Context(), c.Artifacts[0]), artifacts.ErrNoBucket, "RUNNEL_ARTIFACTS_b")
	collect(t, b, write(t, map[string]entry{"b": {0o644, "other"}}))
	says(t, "Open() by another tenant", drain(b, t.Context(), c.Artifacts[0]), artifacts.ErrNoBlob, "RUNNEL_ARTIFACTS_b")
	for name, cfg := range map[string]artifacts.Config{
		"tenant": {Tenant: "a.b"}, "prefix": {Prefix: "Runnel"}, "setting": {TTL: -1}, "longest": {Tenant: strings.Repeat("x", 65)},
	} {
		if _, err := artifacts.Open(t.Context(), js, cfg); err == nil {
			t.Errorf("Open() of a bad %s = nil", name)
		}
	}
	if cfg := (artifacts.Config{Prefix: "two", Tenant: "c"}); cfg.ArtifactBucket() != "TWO_ARTIFACTS_c" || cfg.InputBucket() != "TWO_INPUTS_c" {
		t.Errorf("buckets are %s and %s", cfg.ArtifactBucket(), cfg.InputBucket())
	}
}

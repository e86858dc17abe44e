package artifacts_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

func once(ctx context.Context, store func(context.Context) error) error { return store(ctx) }

// content is n bytes that are not the same in any two parts.
func content(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i>>16 ^ i>>8*7 ^ i)
	}
	return data
}

func read(t *testing.T, s *artifacts.Store, a contracts.Artifact) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", a.Path, err)
	}
	return data
}

func TestLogKeepsEveryByte(t *testing.T) {
	t.Parallel()
	s, _ := open(t, artifacts.Config{})
	l := s.OpenLog(t.Context(), once)
	defer l.Close()
	want := map[string][]byte{"out": content(5<<20 + 17), "err": []byte("oops\n"), "none": nil}
	for _, path := range []string{"out", "err", "none"} {
		w := l.Stream(path)
		for rest := want[path]; len(rest) > 0; {
			n := min(len(rest), 300_001)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
	}
	kept, warnings, err := l.Seal(t.Context())
	if err != nil || len(warnings) > 0 || len(kept) != 3 {
		t.Fatalf("Seal() = %d artifacts, %q, %v", len(kept), warnings, err)
	}
	for _, a := range kept {
		if err := a.Validate(); err != nil {
			t.Error(err)
		}
		if got := read(t, s, a); !bytes.Equal(got, want[a.Path]) {
			t.Errorf("%s has %d bytes, want the %d that were written", a.Path, len(got), len(want[a.Path]))
		}
	}
	dir := write(t, map[string]entry{"file": {0o600, "x"}})
	all, err := s.Collect(t.Context(), dir, artifacts.Stored(kept))
	if err != nil || all.Count != 4 || all.Artifacts[0].Path != "err" {
		t.Errorf("Collect() = %+v, %v; want the file and the log, sorted", all, err)
	}
	if n, err := l.Stream("out").Write([]byte("late")); n != 4 || err != nil {
		t.Errorf("Write() after Seal = %d, %v", n, err)
	}
}

// Who writes waits while four parts are in memory, and goes on when one has left it.
func TestLogHoldsBackWhoWrites(t *testing.T) {
	t.Parallel()
	s, _ := open(t, artifacts.Config{})
	var under atomic.Int32
	goOn := make(chan struct{})
	l := s.OpenLog(t.Context(), func(ctx context.Context, store func(context.Context) error) error {
		under.Add(1)
		<-goOn
		return store(ctx)
	})
	defer l.Close()
	data := content(8 << 20)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = l.Stream("out").Write(data)
	}()
	for deadline := time.Now().Add(20 * time.Second); under.Load() < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d parts are on their way, want 4", under.Load())
		}
	}
	select {
	case <-wrote:
		t.Error("8 MiB were taken while nothing could be stored")
	case <-time.After(50 * time.Millisecond):
	}
	if n := under.Load(); n != 4 {
		t.Errorf("%d parts of 1 MiB are on their way, want 4", n)
	}
	close(goOn)
	<-wrote
	kept, _, err := l.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, kept[0]); !bytes.Equal(got, data) {
		t.Error("what is stored is not what was written")
	}
}

// A log that cannot be stored takes all that is written, and says so in the end.
func TestLogThatFails(t *testing.T) {
	t.Parallel()
	s, _ := open(t, artifacts.Config{MaxBytes: 3 << 20})
	l := s.OpenLog(t.Context(), once)
	defer l.Close()
	if n, err := l.Stream("out").Write(content(10 << 20)); n != 10<<20 || err != nil {
		t.Fatalf("Write() = %d, %v", n, err)
	}
	if kept, _, err := l.Seal(t.Context()); !errors.Is(err, artifacts.ErrFull) || kept != nil {
		t.Errorf("Seal() = %d artifacts, %v; want %v", len(kept), err, artifacts.ErrFull)
	}
	s, _ = open(t, artifacts.Config{MaxRunBytes: 2 << 20})
	l2 := s.OpenLog(t.Context(), once)
	defer l2.Close()
	l2.Stream("out").Write(content(2<<20 + 1))
	if kept, warnings, err := l2.Seal(t.Context()); kept != nil || err != nil || len(warnings) != 1 {
		t.Errorf("Seal() of a log that is too long = %d artifacts, %q, %v; want a warning alone", len(kept), warnings, err)
	}
}

// A bucket that is deleted before the first part is made anew; one that is deleted with parts of the log fails it.
func TestLogOfADeletedBucket(t *testing.T) {
	t.Parallel()
	s, js := open(t, artifacts.Config{})
	bucket := artifacts.Config{}.ArtifactBucket()
	if _, err := s.Collect(t.Context(), write(t, map[string]entry{"x": {0o600, "x"}})); err != nil { // which has it looked up
		t.Fatal(err)
	}
	if err := js.DeleteObjectStore(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	twice := func(ctx context.Context, store func(context.Context) error) error {
		if store(ctx) == nil {
			return nil
		}
		return store(ctx)
	}
	l := s.OpenLog(t.Context(), twice)
	defer l.Close()
	l.Stream("out").Write(content(100))
	if kept, _, err := l.Seal(t.Context()); err != nil || len(kept) != 1 {
		t.Fatalf("Seal() = %d artifacts, %v; want one", len(kept), err)
	}

	l2 := s.OpenLog(t.Context(), twice)
	defer l2.Close()
	l2.Stream("out").Write(content(1<<20 + 1))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if o, err := js.ObjectStore(t.Context(), bucket); err == nil {
			if list, _ := o.List(t.Context()); len(list) == 2 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the first part is not stored")
		}
	}
	if err := js.DeleteObjectStore(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	if kept, _, err := l2.Seal(t.Context()); !errors.Is(err, artifacts.ErrNoBlob) && !errors.Is(err, artifacts.ErrNoBucket) {
		t.Errorf("Seal() = %d artifacts, %v; want that a part is gone", len(kept), err)
	}
}

func TestLogEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _ := open(t, artifacts.Config{})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	l := s.OpenLog(ctx, func(ctx context.Context, _ func(context.Context) error) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	defer l.Close()
	go cancel(gone)
	l.Stream("out").Write(content(9 << 20)) // returns, although nothing is stored
	if _, _, err := l.Seal(t.Context()); !errors.Is(err, gone) {
		t.Errorf("Seal() = %v, want %v", err, gone)
	}
}

// A run that outlives the epochs of its first parts still names nothing that is gone: they are stored again.
func TestLogOfALongRun(t *testing.T) {
	t.Parallel()
	const ttl = 8 * time.Hour
	var now atomic.Int64
	now.Store(time.Date(2026, 3, 4, 0, 0, 1, 0, time.UTC).UnixNano())
	s, js := open(t, artifacts.Config{TTL: ttl, Now: func() time.Time { return time.Unix(0, now.Load()) }})
	l := s.OpenLog(t.Context(), once)
	defer l.Close()
	data := content(3<<20 + 5)
	l.Stream("out").Write(data[:2<<20])
	obs := func() int {
		bucket, err := js.ObjectStore(t.Context(), artifacts.Config{}.ArtifactBucket())
		if err != nil {
			return 0
		}
		list, _ := bucket.List(t.Context())
		return len(list)
	}
	for deadline := time.Now().Add(20 * time.Second); obs() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first parts are not stored")
		}
	}
	now.Add(int64(ttl / 2))
	l.Stream("out").Write(data[2<<20:])
	kept, _, err := l.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	epoch, _, _ := bytes.Cut([]byte(kept[0].Segments[3].Blob), []byte("."))
	for i, seg := range kept[0].Segments {
		if !bytes.HasPrefix([]byte(seg.Blob), append(epoch, '.')) {
			t.Errorf("part %d is of an earlier epoch: %s", i+1, seg.Blob)
		}
	}
	if n := obs(); n != 6 {
		t.Errorf("%d blobs are stored, want 4, and the first 2 once more", n)
	}
	if got := read(t, s, kept[0]); !bytes.Equal(got, data) {
		t.Error("what is stored is not what was written")
	}
}

// While the run is quiet its parts are kept alive for longer than the bucket would.
func TestLogOfAQuietRun(t *testing.T) {
	t.Parallel()
	s, _ := open(t, artifacts.Config{TTL: 12 * time.Second})
	l := s.OpenLog(t.Context(), once)
	defer l.Close()
	data := content(1 << 20)
	l.Stream("out").Write(data)
	<-time.After(14 * time.Second) // the first blob is gone by then
	kept, _, err := l.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, kept[0]); !bytes.Equal(got, data) {
		t.Error("what is stored is not what was written")
	}
}

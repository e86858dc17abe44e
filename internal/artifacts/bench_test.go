package artifacts_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// The limit is the object store of nats.go with the same files, which verifies what it reads
// too. Both take turns, for a machine is not as fast in one minute as in the next; what counts is
// the ratio of their times ("of-bare": 1 is as fast, 2 twice as fast).

const (
	bigBytes   = 256 << 20
	smallFiles = 2000
	smallSize  = 4 << 10
)

// turns times both in turns, on a server that is a process of its own.
func turns(b *testing.B, fill func(dir string, round int), ours func(s *artifacts.Store, dir string) (put time.Duration), bare func(ctx context.Context, store jetstream.ObjectStore, dir string) (put time.Duration)) {
	js, err := jetstream.New(queuetest.Process(b).Connect(b))
	must(b, err)
	s := openOn(b, js, artifacts.Config{})
	dir := b.TempDir()
	// Without a deadline a Get of nats.go's ends after 5 s.
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	var took, limit, put, limitPut time.Duration
	for round := range b.N {
		fill(dir, round)
		// A bucket per round, so that none grows old on either side.
		store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "bare", Storage: jetstream.FileStorage})
		must(b, err)
		start := time.Now()
		limitPut += bare(ctx, store, dir)
		limit += time.Since(start)
		must(b, js.DeleteObjectStore(ctx, "bare"))
		start = time.Now()
		put += ours(s, dir)
		took += time.Since(start)
		must(b, js.DeleteObjectStore(ctx, bucket))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/op")
	b.ReportMetric(float64(limit.Milliseconds())/float64(b.N), "bare-ms/op")
	b.ReportMetric(float64(limit)/float64(took), "of-bare")
	b.ReportMetric(float64(limitPut)/float64(put), "put-of-bare")
	b.ReportMetric(float64(limit-limitPut)/float64(took-put), "get-of-bare")
}

// BenchmarkBig stores a file of 256 MiB and reads it back.
func BenchmarkBig(b *testing.B) {
	turns(b, func(dir string, round int) {
		f, err := os.Create(filepath.Join(dir, "big"))
		must(b, err)
		defer f.Close()
		block := []byte(random(1 << 20))
		for i := range bigBytes >> 20 { // it differs from round to round: nothing of it is stored already
			copy(block, fmt.Sprintf("%d %d", round, i))
			_, err := f.Write(block)
			must(b, err)
		}
	}, func(s *artifacts.Store, dir string) time.Duration {
		start := time.Now()
		c := collect(b, s, dir)
		put := time.Since(start)
		r, err := s.Open(b.Context(), c.Artifacts[0])
		must(b, err)
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); err != nil || n != bigBytes {
			b.Fatalf("read %d, %v", n, err)
		}
		return put
	}, func(ctx context.Context, store jetstream.ObjectStore, dir string) time.Duration {
		start := time.Now()
		f, err := os.Open(filepath.Join(dir, "big"))
		must(b, err)
		defer f.Close()
		_, err = store.Put(ctx, jetstream.ObjectMeta{Name: "big"}, f)
		must(b, err)
		put := time.Since(start)
		r, err := store.Get(ctx, "big")
		must(b, err)
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); err != nil || n != bigBytes {
			b.Fatalf("read %d, %v", n, err)
		}
		return put
	})
}

// BenchmarkSmall stores 2,000 files of 4 KiB and writes them elsewhere.
func BenchmarkSmall(b *testing.B) {
	turns(b, func(dir string, round int) {
		data := []byte(random(smallSize))
		for i := range smallFiles {
			copy(data, fmt.Sprintf("%d %d ", round, i))
			must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), data, 0o644))
		}
	}, func(s *artifacts.Store, dir string) time.Duration {
		start := time.Now()
		c := collect(b, s, dir)
		put := time.Since(start)
		written, err := s.Unpack(b.Context(), result(b, c), b.TempDir())
		if err != nil || len(written) != smallFiles {
			b.Fatalf("Unpack() = %d files, %v", len(written), err)
		}
		return put
	}, func(ctx context.Context, store jetstream.ObjectStore, dir string) time.Duration {
		start := time.Now()
		names, err := os.ReadDir(dir)
		must(b, err)
		sums := make([]string, len(names))
		for i, name := range names {
			data, err := os.ReadFile(filepath.Join(dir, name.Name()))
			must(b, err)
			sums[i] = fmt.Sprintf("%x", sha256.Sum256(data))
			_, err = store.PutBytes(ctx, sums[i], data)
			must(b, err)
		}
		put, out := time.Since(start), b.TempDir()
		for i, name := range names {
			data, err := store.GetBytes(ctx, sums[i])
			must(b, err, os.WriteFile(filepath.Join(out, name.Name()), data, 0o644))
		}
		return put
	})
}

package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// pieces returns what is stored of the output of a job that ran once.
func pieces(d check.Dump, id string) (all []contracts.Piece) {
	chunks := map[int][]contracts.Piece{}
	for _, r := range d.Replies {
		if r.ID == id && r.Chunk != nil {
			chunks[r.Chunk.N] = r.Chunk.Pieces
		}
	}
	for i := range len(chunks) {
		all = append(all, chunks[i+1]...)
	}
	for _, r := range d.Replies {
		if r.ID == id && r.Result != nil {
			all = append(all, r.Result.Tail...)
		}
	}
	return all
}

// stdout returns the number of bytes and the digest of what is stored of a job's standard output.
func stdout(d check.Dump, id string) (n int64, sum string) {
	h := sha256.New()
	for _, p := range pieces(d, id) {
		if p.Stream == contracts.Stdout {
			h.Write(p.Data)
			n += int64(len(p.Data))
		}
	}
	return n, hex.EncodeToString(h.Sum(nil))
}

// flooded returns the digest of what `job flood` prints.
func flooded(t *testing.T, size int64) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), fleet.Job(t), "flood", "-bytes", fmt.Sprint(size))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func flood(f *fleet.Fleet, t *testing.T, size int64) contracts.Invocation {
	return contracts.Invocation{
		ID: f.ID("flood"), Kind: contracts.KindSubprocess, OutputLimitBytes: 2 * size,
		Command: []string{fleet.Job(t), "flood", "-bytes", fmt.Sprint(size)},
	}
}

// A flood of output is stored whole, by a worker that stays small (must-show 8; make soak
// takes 256 MiB). The worker is the program as it is built for users.
func TestStreamFlood(t *testing.T) {
	t.Parallel()
	const worst = 150 << 20
	size := min(int64(rounds(t, 4)), 16) * 16 << 20
	f := fleet.Start(t, fleet.Config{})
	w := f.StartWorker(fleet.WorkerConfig{Binary: true})
	c := f.Client("default", "")
	inv := flood(f, t, size)
	began := time.Now()
	f.Submit(c, inv)
	f.Follow(f.Client("default", ""), "default", inv.ID, "early")
	r := result(t, c, inv.ID, fleet.Patience)
	figure(t, "stored", "%d MiB in %v", size>>20, since(began))
	peak := w.PeakRSS()
	figure(t, "worker's peak", "%d MiB", peak>>20)
	if peak > worst {
		t.Errorf("the worker took %d MiB, want under %d", peak>>20, worst>>20)
	}
	if r.StdoutBytes != size || r.CutBytes != 0 {
		t.Errorf("result says %d bytes, %d cut, want %d", r.StdoutBytes, r.CutBytes, size)
	}
	f.Verify()
	dump, err := fleet.Dump(t.Context(), f.Conn, f.Topology)
	if err != nil {
		t.Fatal(err)
	}
	if n, sum := stdout(dump, inv.ID); n != size || sum != flooded(t, size) {
		t.Errorf("%d bytes are stored, want %d and the same", n, size)
	}
}

// Followers that start late, lose their connection again and again, or sit behind 1 MB/s see
// every stored byte once and in order; the checker compares.
func TestStreamFollowers(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{})
	c := f.Client("default", "")
	inv := flood(f, t, 6<<20)
	slow, slowURL := f.Proxy()
	slow.Throttle(1 << 20)
	shaky, shakyURL := f.Proxy()
	f.Submit(c, inv)
	f.Follow(f.Client("default", slowURL), "default", inv.ID, "slow")
	f.Follow(f.Client("default", shakyURL), "default", inv.ID, "reconnecting")
	for i := range 5 {
		f.Await("the reconnecting follower goes on", fleet.Patience, func(context.Context) (bool, string) {
			n, err := f.Bytes("reconnecting", contracts.Stdout)
			return n >= int64(i)<<20 || f.Ended("reconnecting"), fmt.Sprint(n, err)
		})
		shaky.Drop()
	}
	result(t, c, inv.ID, fleet.Patience)
	f.Follow(f.Client("default", ""), "default", inv.ID, "late")
	lines := f.Count("default", f.ID("lines"), "-n", "100", "-every", "30ms", "-both")
	f.Submit(c, lines)
	f.Follow(f.Client("default", ""), "default", lines.ID, "live")
	cut := f.Client("default", shakyURL)
	shaky.Cut()
	f.Follow(cut, "default", lines.ID, "cut off")
	f.Await("lines have gone by", fleet.Patience, func(context.Context) (bool, string) {
		n, err := f.Bytes("live", contracts.Stdout)
		return n > 500, fmt.Sprint(n, err)
	})
	shaky.Mend()
	f.Verify()
}

// A byte every 19 ms is 3,158 bytes a minute, and at most 700 messages; silence is none.
func TestStreamDrip(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{})
	c := f.Client("default", "")
	drip := contracts.Invocation{ID: f.ID("drip"), Kind: contracts.KindSubprocess, Command: []string{fleet.Job(t), "drip", "-every", "19ms", "-for", "60s"}}
	silent := contracts.Invocation{ID: f.ID("silent"), Kind: contracts.KindSubprocess, Command: []string{"sleep", "5"}}
	f.Submit(c, drip, silent)
	f.Follow(f.Client("default", ""), "default", drip.ID, "live")
	f.AwaitResults(5 * time.Minute)
	f.Verify()
	dump, err := fleet.Dump(t.Context(), f.Conn, f.Topology)
	if err != nil {
		t.Fatal(err)
	}
	messages, chunks := map[string]int{}, map[string]int{}
	for _, r := range dump.Replies {
		messages[r.ID]++
		if r.Chunk != nil {
			chunks[r.ID]++
		}
	}
	n, _ := stdout(dump, drip.ID)
	figure(t, "a byte every 19 ms for a minute", "%d bytes in %d messages", n, messages[drip.ID])
	if messages[drip.ID] > 700 {
		t.Errorf("%d messages are stored, want at most 700", messages[drip.ID])
	}
	if chunks[silent.ID] != 0 {
		t.Errorf("a silent job stored %d chunks, want none", chunks[silent.ID])
	}
}

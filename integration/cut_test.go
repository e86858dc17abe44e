package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// shown is what is stored, or was followed, of a flood: pieces that are compared with what `job flood` prints.
type shown struct {
	head, tail int64 // bytes before the first mark and after the last
	kept, cut  int64
	marks      int
	sum        string // of all that was printed
}

func compare(t *testing.T, size int64, pieces []contracts.Piece) (s shown) {
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
	printed := io.TeeReader(out, h)
	var same []byte
	for i, p := range pieces {
		if p.Stream != contracts.Stdout {
			t.Errorf("piece %d is of %s", i, p.Stream)
			continue
		}
		if p.Cut > 0 {
			s.marks, s.cut, s.tail = s.marks+1, s.cut+p.Cut, 0
			if _, err := io.CopyN(io.Discard, printed, p.Cut); err != nil {
				t.Fatalf("mark %d counts %d bytes, which is beyond the end: %v", s.marks, p.Cut, err)
			}
			continue
		}
		same = append(same[:0], p.Data...)
		if _, err := io.ReadFull(printed, same); err != nil {
			t.Fatalf("after %d bytes and %d cut: %v", s.kept, s.cut, err)
		}
		if !bytes.Equal(same, p.Data) {
			t.Fatalf("after %d bytes and %d cut comes what was not printed there", s.kept, s.cut)
		}
		s.kept += int64(len(p.Data))
		s.tail += int64(len(p.Data))
		if s.marks == 0 {
			s.head = s.kept
		}
	}
	if _, err := io.Copy(io.Discard, printed); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s.sum = hex.EncodeToString(h.Sum(nil))
	return s
}

// Output far beyond its limit (must-show 3; make soak takes 1 GiB under 64 MiB): head and end are
// kept, the mark between them counts to the byte what was left out, the follower sees it, the job is not ended for it,
// and the worker stays small. With keep_log every byte is there as well.
func TestStreamCut(t *testing.T) {
	t.Parallel()
	size, limit := cutSizes(t)
	f := fleet.Start(t, fleet.Config{})
	for _, keep := range []bool{false, true} {
		w := f.StartWorker(fleet.WorkerConfig{Binary: true})
		c := f.Client("default", "")
		inv := flood(f, t, size)
		inv.ID = f.ID(fmt.Sprint("cut-", keep))
		inv.OutputLimitBytes, inv.KeepLog = limit, keep
		began := time.Now()
		s := cut(t, f, w, c, inv, size)
		took, peak := since(began), w.PeakRSS()
		name := "output beyond its limit"
		if keep {
			name += ", with the log"
		}
		figure(t, name, "%d MiB under %d MiB in %v: head %d, tail %d, cut %d bytes; worker's peak %d MiB", size>>20, limit>>20, took, s.head, s.tail, s.cut, peak>>20)
		w.Terminate()
		if code := w.Ended(fleet.Patience); code != 0 {
			t.Errorf("the worker ended with %d", code)
		}
		if !keep {
			continue
		}
		logs := map[string]runnel.Artifact{}
		files, err := c.Artifacts(t.Context(), inv.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range files {
			logs[a.Path] = a
		}
		if a := logs[".runnel/stdout.log"]; len(logs) != 2 || a.Size != size || a.SHA256 != s.sum {
			t.Errorf("artifacts = %v, want both logs, stdout's with %d bytes and the digest of what was printed", logs, size)
		}
	}
	f.Verify() // which reads the artifacts, too
}

// The same out of a container: 1 GB of output does not harm, by what it keeps or by what it takes.
func TestStreamCutOfAContainer(t *testing.T) {
	image := enginetest.Image(t)
	t.Cleanup(func() {
		if err := enginetest.Remove(); err != nil {
			t.Error(err)
		}
	})
	size, limit := cutSizes(t)
	f := fleet.Start(t, fleet.Config{})
	w := f.StartWorker(fleet.WorkerConfig{Binary: true})
	inv := contracts.Invocation{
		ID: f.ID("cut"), Kind: contracts.KindContainer, OutputLimitBytes: limit,
		Command: []string{enginetest.Job, "pour", fmt.Sprint(size)}, Container: &contracts.Container{Image: image},
	}
	began := time.Now()
	s := cut(t, f, w, f.Client("default", ""), inv, size)
	figure(t, "output of a container beyond its limit", "%d MiB under %d MiB in %v: head %d, tail %d, cut %d bytes; worker's peak %d MiB",
		size>>20, limit>>20, since(began), s.head, s.tail, s.cut, w.PeakRSS()>>20)
	w.Terminate()
	if code := w.Ended(fleet.Patience); code != 0 {
		t.Errorf("the worker ended with %d", code)
	}
	f.Verify()
}

// cutSizes returns how much is printed, and how much of it is to be kept.
func cutSizes(t *testing.T) (size, limit int64) {
	if rounds(t, 1) >= 20 {
		return 1 << 30, 64 << 20
	}
	return 64 << 20, 4 << 20
}

// cut has an invocation print more than its limit, and compares what is stored of it, and what a follower sees, with what it printed.
func cut(t *testing.T, f *fleet.Fleet, w *fleet.Worker, c *runnel.Client, inv contracts.Invocation, size int64) shown {
	t.Helper()
	const worst = 150 << 20
	limit := inv.OutputLimitBytes
	f.Submit(c, inv)
	f.Follow(f.Client("default", ""), "default", inv.ID, inv.ID)
	r := result(t, c, inv.ID, 5*fleet.Patience)
	if r.Status != contracts.StatusSucceeded || r.StdoutBytes != size {
		t.Errorf("result = %s/%s %q after %d bytes, want succeeded after %d", r.Status, r.Reason, r.Error, r.StdoutBytes, size)
	}
	if peak := w.PeakRSS(); peak > worst {
		t.Errorf("the worker took %d MiB, want under %d", peak>>20, worst>>20)
	}
	dump, err := fleet.Dump(t.Context(), f.Conn, f.Topology)
	if err != nil {
		t.Fatal(err)
	}
	s := compare(t, size, pieces(dump, inv.ID))
	if s.marks != 1 || s.cut != r.CutBytes || s.kept+s.cut != size {
		t.Errorf("%d marks count %d bytes, the result %d; %d are kept of %d", s.marks, s.cut, r.CutBytes, s.kept, size)
	}
	if s.kept > limit || s.head < limit*3/4 || s.tail < 900<<10 {
		t.Errorf("%d bytes are kept of a limit of %d: head %d, tail %d", s.kept, limit, s.head, s.tail)
	}
	f.Await("the follower has seen all", fleet.Patience, func(context.Context) (bool, string) { return f.Ended(inv.ID), "its Watch goes on" })
	if told := compare(t, size, f.Output(inv.ID)); told != s {
		t.Errorf("the follower was told %+v, stored is %+v", told, s)
	}
	return s
}

// What strikes in the middle of a log leaves the log of the run that counts whole: a worker's death has it
// begun anew elsewhere, a server's is waited out by the job.
func TestKillWhileLogged(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	strikes := map[string]func(*fleet.Fleet, *fleet.Worker){
		"worker": func(f *fleet.Fleet, w *fleet.Worker) {
			w.Kill()
			f.StartWorker(fleet.WorkerConfig{})
		},
		"server": func(f *fleet.Fleet, w *fleet.Worker) {
			f.ExcuseRunning("the only server was killed")
			f.Servers.Kill(0)
			f.Servers.Restart(0)
			f.Servers.WaitReady()
			w.GoOn()
		},
	}
	for name, strike := range strikes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.Start(t, fleet.Config{})
			w := f.StartWorker(fleet.WorkerConfig{At: queue.StepChunkPublished, Nth: 30})
			c := f.Client("default", "")
			inv := flood(f, t, size)
			inv.KeepLog = true
			f.Submit(c, inv)
			w.Reached(fleet.Patience)
			strike(f, w)
			r := result(t, c, inv.ID, fleet.Patience)
			if r.Status != contracts.StatusSucceeded || r.CutBytes != 0 || len(r.Warnings) > 0 {
				t.Errorf("result = %s/%s %q, %d bytes cut, warnings %q", r.Status, r.Reason, r.Error, r.CutBytes, r.Warnings)
			}
			files, err := c.Artifacts(t.Context(), inv.ID)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 2 || files[1].Path != ".runnel/stdout.log" || files[1].Size != size || files[1].SHA256 != flooded(t, size) {
				t.Errorf("artifacts = %+v, want the logs, with all that was printed", files)
			}
			f.Verify() // and every part of them can be read
		})
	}
}

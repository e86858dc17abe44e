package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/worker"
)

// resuming is a runner that goes on where a lost run stood; run counts from 1.
type resuming func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error)

func (resuming) Resumes(contracts.Invocation) bool { return true }

func (r resuming) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	return r(ctx, 0, job, out.(runner.Keeper))
}

// counting numbers the runs.
func counting(r resuming) runner.Registry {
	var runs atomic.Int32
	return runner.Registry{contracts.KindNoop: resuming(func(ctx context.Context, _ int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		return r(ctx, int(runs.Add(1)), job, out)
	})}
}

// shown puts together what a run wrote to one stream, with what was cut as "<n>".
func (f *fleet) shown(r contracts.Result, stream contracts.Stream) string {
	f.t.Helper()
	var b strings.Builder
	for _, p := range append(f.output(r.ID, r.Run), r.Tail...) {
		if p.Stream != stream {
			continue
		}
		b.Write(p.Data)
		if p.Cut > 0 {
			fmt.Fprintf(&b, "<%d>", p.Cut)
		}
	}
	return b.String()
}

var errDisk = errors.New("the disk is gone")

// A run that goes on has the output of the lost one as far as its note stands for it, once, and the note.
func TestResume(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		stdout, stderr := out.Stream(contracts.Stdout, ""), out.Stream(contracts.Stderr, "")
		switch run {
		case 1:
			if job.Resume != nil {
				return contracts.Outcome{}, runner.Reject(contracts.ReasonInfra, "run 1 goes on from %q", job.Resume)
			}
			io.WriteString(stdout, "one ")
			io.WriteString(stderr, "err ")
			if err := out.Save(ctx, []byte("1")); err != nil {
				return contracts.Outcome{}, err
			}
			io.WriteString(stdout, "LOST")
			return contracts.Outcome{}, errDisk
		case 2: // lost before it noted anything: the note of the first stands
			if string(job.Resume) != "1" {
				return contracts.Outcome{}, runner.Reject(contracts.ReasonInfra, "run 2 goes on from %q", job.Resume)
			}
			return contracts.Outcome{}, errDisk
		}
		if string(job.Resume) != "1" {
			return contracts.Outcome{}, runner.Reject(contracts.ReasonInfra, "run 3 goes on from %q", job.Resume)
		}
		io.WriteString(stdout, "two")
		return ok()
	})})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop}))
	if r.Status != contracts.StatusSucceeded || r.Attempt != 1 {
		t.Fatalf("result = %+v", r)
	}
	if out, err := f.shown(r, contracts.Stdout), f.shown(r, contracts.Stderr); out != "one two" || err != "err " || r.StdoutBytes != 7 || r.StderrBytes != 4 || r.CutBytes != 0 {
		t.Errorf("stdout %q, stderr %q, result %+v", out, err, r)
	}
}

// A note that waits for output goes along with a run that a drain ends.
func TestResumeAfterADrain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	data := runnertest.Pattern(1 << 20)
	noted := make(chan struct{})
	_, stop := f.worker(worker.Config{DrainTimeout: 10 * time.Millisecond, Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		out.Stream(contracts.Stdout, "").Write(data)
		if err := out.Note([]byte("a")); err != nil {
			return contracts.Outcome{}, err
		}
		out.Stream(contracts.Stdout, "").Write([]byte("x"))
		if err := out.Note([]byte("b")); err != nil {
			return contracts.Outcome{}, err
		}
		close(noted)
		<-ctx.Done()
		return contracts.Outcome{}, fmt.Errorf("work: %w", context.Cause(ctx))
	})})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	<-noted
	stop()
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		fmt.Fprintf(out.Stream(contracts.Stdout, ""), " on from %s", job.Resume)
		return ok()
	})})
	r := f.result(id)
	if got, want := f.shown(r, contracts.Stdout), string(data)+"x on from b"; got != want || r.StdoutBytes != int64(len(want)) {
		t.Errorf("%d bytes came back that end with %q, want %d; result says %d", len(got), got[max(0, len(got)-30):], len(want), r.StdoutBytes)
	}
}

// An attempt that ended by the work's own doing is over: the next one begins anew.
func TestNoResumeOfAnEndedAttempt(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		fmt.Fprintf(out.Stream(contracts.Stdout, ""), "%d from %q", run, job.Resume)
		if run == 2 {
			return ok()
		}
		if err := out.Save(ctx, []byte("1")); err != nil {
			return contracts.Outcome{}, err
		}
		return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, ExitCode: new(1)}, nil
	})})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, Retry: &contracts.Retry{Attempts: 2, DelaySeconds: 0.01}}))
	if got := f.shown(r, contracts.Stdout); r.Attempt != 2 || got != `2 from ""` {
		t.Errorf("attempt %d wrote %q", r.Attempt, got)
	}
}

// What was beyond the output limit died with its worker: the run that goes on says how much that was.
func TestResumeBeyondTheOutputLimit(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const limit = 8 << 10
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		if run == 1 {
			out.Stream(contracts.Stdout, "").Write(runnertest.Pattern(100_000))
			if err := out.Save(ctx, []byte("1")); err != nil {
				return contracts.Outcome{}, err
			}
			return contracts.Outcome{}, errDisk
		}
		io.WriteString(out.Stream(contracts.Stdout, ""), " end")
		return ok()
	})})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, OutputLimitBytes: limit}))
	got := f.shown(r, contracts.Stdout)
	head := string(runnertest.Pattern(limit / 2))
	if want := fmt.Sprintf("%s<%d> end", head, 100_000-limit/2); got != want {
		t.Errorf("output = %d bytes that end with %q, want %d", len(got), got[max(0, len(got)-40):], len(want))
	}
	if r.StdoutBytes != 100_004 || r.CutBytes != 100_000-limit/2 {
		t.Errorf("result says %d bytes, %d cut", r.StdoutBytes, r.CutBytes)
	}
}

// A note has a cap, and a run without a server does not go on as if its note were stored.
func TestNoteIsBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		large := make([]byte, contracts.MaxStateBytes+1)
		if out.Note(large) == nil || out.Save(ctx, large) == nil || out.Save(ctx, large[1:]) != nil {
			return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, ExitCode: new(1)}, nil
		}
		return ok()
	})})
	if r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop})); r.Status != contracts.StatusSucceeded || r.Chunks != 1 {
		t.Errorf("result = %+v", r)
	}
}

// A chunk that is stored although one before it is not counts for nothing, nor does its note.
func TestResumeBeforeAGap(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const id, lost = "gap", "aaaaaaaa"
	now := time.Now().UTC()
	put := func(subject string, doc any) {
		t.Helper()
		data, err := contracts.Encode(doc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.reply.Put(t.Context(), subject, nil, data); err != nil {
			t.Fatal(err)
		}
	}
	names := f.topo.Names()
	put(names.Start("default", id, lost), contracts.Start{Run: lost, Attempt: 1, Worker: "gone", At: now, Digest: strings.Repeat("0", 64)})
	piece := func(text string) []contracts.Piece {
		return []contracts.Piece{{Stream: contracts.Stdout, Data: []byte(text)}}
	}
	put(names.Chunk("default", id, lost, 1), contracts.Chunk{N: 1, At: now, Pieces: piece("one "), State: []byte("1"), StateBytes: 4})
	put(names.Chunk("default", id, lost, 3), contracts.Chunk{N: 3, At: now, Pieces: piece("three "), State: []byte("3"), StateBytes: 14})
	f.worker(worker.Config{Registry: counting(func(ctx context.Context, run int, job runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		if run == 1 { // taken for new: nobody looked at what is stored
			return contracts.Outcome{}, errDisk
		}
		fmt.Fprintf(out.Stream(contracts.Stdout, ""), "on from %s", job.Resume)
		return ok()
	})})
	r := f.result(f.submit(contracts.Invocation{ID: id, Kind: contracts.KindNoop}))
	if got := f.shown(r, contracts.Stdout); r.Status != contracts.StatusSucceeded || got != "one on from 1" {
		t.Errorf("output = %q of %+v", got, r)
	}
}

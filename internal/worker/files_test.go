package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// files opens the store of the default tenant.
func (f *fleet) files(cfg artifacts.Config) *artifacts.Store {
	f.t.Helper()
	js, err := jetstream.New(f.node.Connect(f.t))
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := artifacts.Open(f.t.Context(), js, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// serve starts a worker with files whose noop is work.
func (f *fleet) serve(files worker.Files, work runner.Func) {
	f.t.Helper()
	f.worker(worker.Config{
		Slots:    3,
		Registry: runner.Registry{contracts.KindNoop: work},
		Files:    func(context.Context, string) (worker.Files, error) { return files, nil },
	})
}

// contents reads all artifacts of a result, by path.
func (f *fleet) contents(s *artifacts.Store, r contracts.Result) map[string]string {
	f.t.Helper()
	list, err := s.List(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	got := map[string]string{}
	for _, a := range list {
		r, err := s.Open(f.t.Context(), a)
		if err != nil {
			f.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			f.t.Fatal(err)
		}
		got[a.Path] = string(data)
	}
	return got
}

// Of an output far beyond its limit every byte is in the log, also of a run that failed, and the
// files that it left are there beside it.
func TestKeepLog(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.files(artifacts.Config{})
	var stdout bytes.Buffer
	for i := range 200_000 {
		fmt.Fprintf(&stdout, "%015d\n", i)
	}
	f.serve(s, func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		if _, err := out.Stream(contracts.Stdout, "").Write(stdout.Bytes()); err != nil {
			return contracts.Outcome{}, err
		}
		for _, phase := range []contracts.Phase{contracts.PhaseSetup, contracts.PhaseMain} {
			fmt.Fprintf(out.Stream(contracts.Stderr, phase), "in %q\n", phase)
		}
		if job.Dir != "" {
			if err := os.WriteFile(filepath.Join(job.Artifacts, "left"), []byte("l"), 0o600); err != nil {
				return contracts.Outcome{}, err
			}
		}
		return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit}, nil
	})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, KeepLog: true, OutputLimitBytes: 64 << 10}))
	if r.Status != contracts.StatusFailed || r.Reason != contracts.ReasonExit || r.CutBytes == 0 || r.StdoutBytes != int64(stdout.Len()) {
		t.Errorf("result = %s/%s, %d bytes, %d cut", r.Status, r.Reason, r.StdoutBytes, r.CutBytes)
	}
	got := f.contents(s, r)
	if got[".runnel/stdout.log"] != stdout.String() {
		t.Errorf("%d bytes of stdout are kept, want all %d", len(got[".runnel/stdout.log"]), stdout.Len())
	}
	if got[".runnel/stderr.log"] != "in \"setup\"\nin \"\"\n" || got["left"] != "l" || len(got) != 3 {
		t.Errorf("artifacts = %q, and stdout", got[".runnel/stderr.log"])
	}
	silent := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, Name: "again"}))
	if silent.ArtifactCount != 1 {
		t.Errorf("%d artifacts without keep_log, want the file alone", silent.ArtifactCount)
	}
}

// What matches in the workspace comes back, and the next run finds a workspace that is empty.
func TestArtifactGlobs(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.files(artifacts.Config{})
	f.serve(s, func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
		for _, dir := range []string{job.Dir, job.Artifacts} {
			if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
				return contracts.Outcome{}, fmt.Errorf("the workspace is not empty: %v, %w", names, err)
			}
		}
		if job.Name == "quiet" {
			return ok()
		}
		err := errors.Join(
			os.Mkdir(filepath.Join(job.Dir, "build"), 0o700),
			os.WriteFile(filepath.Join(job.Dir, "build", "a.tar"), []byte("a"), 0o600),
			os.WriteFile(filepath.Join(job.Dir, "build", "a.log"), []byte("b"), 0o600),
			os.WriteFile(filepath.Join(job.Dir, "both"), []byte("work"), 0o600),
			os.WriteFile(filepath.Join(job.Artifacts, "both"), []byte("left"), 0o600),
		)
		if err != nil {
			return contracts.Outcome{}, err
		}
		return ok()
	})
	globs := []string{"**/*.tar", "both", "none/*"}
	for range 2 {
		r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, ArtifactGlobs: globs}))
		if got := f.contents(s, r); r.Status != contracts.StatusSucceeded || len(got) != 2 || got["build/a.tar"] != "a" || got["both"] != "left" {
			t.Errorf("result = %s %q with %q", r.Status, r.Error, got)
		}
		if len(r.Warnings) != 2 || !strings.Contains(r.Warnings[0], `"both"`) || !strings.Contains(r.Warnings[1], `"none/*"`) {
			t.Errorf("warnings = %q", r.Warnings)
		}
		r = f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, Name: "quiet", ArtifactGlobs: globs}))
		if r.Status != contracts.StatusSucceeded || r.ArtifactCount != 0 || len(r.Warnings) != 3 {
			t.Errorf("result = %s %q, %d artifacts, warnings %q", r.Status, r.Error, r.ArtifactCount, r.Warnings)
		}
	}
}

// A store that fills while the run goes does not end it. What went well has failed for want of its
// files; what failed by itself has not failed otherwise.
func TestStoreThatFills(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.files(artifacts.Config{MaxBytes: 2 << 20})
	const size = 12 << 20
	f.serve(s, func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		block := make([]byte, 64<<10)
		for i := range size / len(block) {
			for j := range block {
				block[j] = byte(i ^ j)
			}
			block[0] = job.ID[0]
			if job.KeepLog {
				if _, err := out.Stream(contracts.Stdout, "").Write(block); err != nil {
					return contracts.Outcome{}, err
				}
				continue
			}
			if err := os.WriteFile(filepath.Join(job.Dir, fmt.Sprint(i)), block, 0o600); err != nil {
				return contracts.Outcome{}, err
			}
		}
		if job.Name == "fails" {
			return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, Error: "exit 3"}, nil
		}
		return ok()
	})
	logged := contracts.Invocation{Kind: contracts.KindNoop, KeepLog: true, OutputLimitBytes: 4 << 10}
	logged.Retry = &contracts.Retry{Attempts: 3}
	well := f.submit(logged)
	logged.Name, logged.Retry = "fails", nil
	failing := f.submit(logged)
	globs := f.submit(contracts.Invocation{Kind: contracts.KindNoop, ArtifactGlobs: []string{"*"}})

	r := f.result(well)
	if r.Status != contracts.StatusFailed || r.Reason != contracts.ReasonArtifacts || !strings.Contains(r.Error, "storage is full") || r.StdoutBytes != size || r.ArtifactCount != 0 || r.Attempt != 1 {
		t.Errorf("result of attempt %d = %s/%s %q after %d bytes, %d artifacts", r.Attempt, r.Status, r.Reason, r.Error, r.StdoutBytes, r.ArtifactCount)
	}
	r = f.result(failing)
	if r.Reason != contracts.ReasonExit || r.Error != "exit 3" || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "storage is full") {
		t.Errorf("result = %s/%s %q, warnings %q", r.Status, r.Reason, r.Error, r.Warnings)
	}
	r = f.result(globs)
	if r.Reason != contracts.ReasonArtifacts || !strings.Contains(r.Error, "storage is full") || !strings.Contains(r.Error, "raise the bucket's limit") {
		t.Errorf("result = %s/%s %q", r.Status, r.Reason, r.Error)
	}
}

// counted are files that count what is collected.
type counted struct {
	*artifacts.Store
	n *atomic.Int32
}

func (c counted) Collect(ctx context.Context, root string, also ...artifacts.Also) (artifacts.Collected, error) {
	c.n.Add(1)
	return c.Store.Collect(ctx, root, also...)
}

// Files are stored of the run that counts alone: nothing names those of an attempt that is tried again, and what was rejected left none.
func TestFilesOfTheRunThatCounts(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := counted{f.files(artifacts.Config{}), new(atomic.Int32)}
	f.serve(s, func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		if job.Name == "rejected" {
			return contracts.Outcome{}, runner.Reject(contracts.ReasonNotAllowed, "no")
		}
		fmt.Fprint(out.Stream(contracts.Stdout, ""), job.Attempt)
		return contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit}, nil
	})
	r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, KeepLog: true, Retry: &contracts.Retry{Attempts: 3, DelaySeconds: 0.01}}))
	if got := f.contents(s.Store, r); r.Attempt != 3 || got[".runnel/stdout.log"] != "3" || s.n.Load() != 1 {
		t.Errorf("after attempt %d files were collected %d times, and the log is %q", r.Attempt, s.n.Load(), got)
	}
	r = f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop, KeepLog: true, Name: "rejected"}))
	if r.Status != contracts.StatusRejected || r.ArtifactCount != 0 || s.n.Load() != 1 {
		t.Errorf("result = %s with %d artifacts", r.Status, r.ArtifactCount)
	}
}

// stuck are files whose Collect never comes to an end by itself.
type stuck struct {
	*artifacts.Store
	began chan struct{}
	ended chan error
}

func (s stuck) Collect(ctx context.Context, _ string, _ ...artifacts.Also) (artifacts.Collected, error) {
	s.began <- struct{}{}
	<-ctx.Done()
	s.ended <- context.Cause(ctx)
	return artifacts.Collected{}, context.Cause(ctx)
}

func TestStoringEndsWithTheLease(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := stuck{f.files(artifacts.Config{}), make(chan struct{}), make(chan error, 1)}
	f.serve(s, func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
		if err := os.WriteFile(filepath.Join(job.Artifacts, "left"), []byte("l"), 0o600); err != nil {
			return contracts.Outcome{}, err
		}
		return ok()
	})
	await := func(want error) {
		t.Helper()
		select {
		case err := <-s.ended:
			if !errors.Is(err, want) {
				t.Errorf("storing ended with %v, want %v", err, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the files are still being stored")
		}
	}
	began := func() {
		t.Helper()
		select {
		case <-s.began:
		case <-time.After(30 * time.Second):
			t.Fatal("no files are being stored")
		}
	}
	// Another run's result is there: not a word more.
	inv := contracts.Invocation{ID: contracts.NewID(), Kind: contracts.KindNoop}.WithDefaults()
	f.submit(inv)
	began()
	digest, err := inv.Digest()
	if err != nil {
		t.Fatal(err)
	}
	theirs := contracts.Result{
		ID: inv.ID, Kind: inv.Kind, Tenant: inv.Tenant, Pool: inv.Pool, Lane: inv.Lane, Digest: digest, Run: contracts.NewRun(), Attempt: 1,
		Status: contracts.StatusSucceeded, Worker: "other", FinishedAt: time.Now().UTC(),
	}
	data, err := contracts.Encode(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.reply.Put(t.Context(), f.topo.Names().Result("default", inv.ID), nil, data); err != nil {
		t.Fatal(err)
	}
	await(queue.ErrLeaseLost)
	// A cancel is heard, and is the last word.
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	began()
	if n := f.count(f.reply, f.topo.Names().Ends("default", inv.ID)); n != 0 {
		t.Errorf("%d ends are stored by who lost its lease, want none", n)
	}
	if err := f.nc.PublishRequest(f.topo.Names().Cancel("default", id), f.nc.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	await(runner.ErrCancelled)
	if r := f.result(id); r.Status != contracts.StatusCancelled {
		t.Errorf("result = %s/%s %q", r.Status, r.Reason, r.Error)
	}
}

// What asks for more output than its worker keeps is run with what that keeps, and told.
func TestOutputLimitBeyondTheCap(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const most, size = 1 << 20, 3 << 20
	f.worker(worker.Config{MaxOutputLimit: most, Registry: runner.Registry{contracts.KindNoop: runner.Func(
		func(_ context.Context, _ runner.Job, out runner.Sink) (contracts.Outcome, error) {
			if _, err := out.Stream(contracts.Stdout, "").Write(make([]byte, size)); err != nil {
				return contracts.Outcome{}, err
			}
			return ok()
		})}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop, OutputLimitBytes: 1 << 40})
	r := f.result(id)
	if want := "output_limit_bytes is 1099511627776, and this worker keeps 1048576 at most"; len(r.Warnings) != 1 || r.Warnings[0] != want {
		t.Errorf("warnings = %q, want %q", r.Warnings, want)
	}
	kept := 0
	for _, p := range append(f.output(id, r.Run), r.Tail...) {
		kept += len(p.Data)
	}
	if r.Status != contracts.StatusSucceeded || r.StdoutBytes != size || r.CutBytes != int64(size-kept) || kept > most || kept < most*9/10 {
		t.Errorf("result = %s, %d bytes, %d cut, %d kept of a cap of %d", r.Status, r.StdoutBytes, r.CutBytes, kept, most)
	}
}

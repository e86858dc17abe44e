package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/runnel-project/runnel"
)

// rxpDirectory is where output is kept if an invocation of RxP does not say: what RxP's own
// runtime calls it below the working directory (E14), which for us is a worker's.
const rxpDirectory = ".executor_runtime"

// rxpJob is an invocation of RxP on its way, with what is this side's of it.
type rxpJob struct {
	app    *app
	asked  runnel.RxPInvocation
	inv    runnel.Invocation
	result string // file for the result; "" is none
	files  rxpFiles
}

// sendRxP hands in an invocation of RxP, stays with it, and gives back its result in RxP's way: on standard
// output, and in the file that the invocation names. What RxP calls rejected is such a result too.
func (a *app) sendRxP(ctx context.Context, file string, wait, noWaitWorker bool) error {
	switch {
	case file == "":
		return errors.New("send --rxp: which document? -f FILE names it, -f - reads standard input")
	case !wait:
		return errors.New("send --rxp: what it prints is the result, which is there at the end: add --wait")
	}
	data, shown, err := a.document(file)
	if err != nil {
		return err
	}
	asked, err := runnel.ParseRxP(data)
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	inv, paths := asked.Invocation()
	job := rxpJob{app: a, asked: asked, inv: inv}
	if paths.OutputResult != "" {
		// Before anything runs: a result that has no place to go is not to be had again.
		if job.result, err = filepath.Abs(paths.OutputResult); err == nil {
			err = os.MkdirAll(filepath.Dir(job.result), 0o777)
		}
		if err != nil {
			return fmt.Errorf("output_result_path: %w", err)
		}
	}
	if err := inv.Validate(); err != nil {
		return job.reject(runnel.ReasonBadInvocation, err.Error())
	}
	// From here on the id is one, and may be a path (E14).
	if job.files.dir, err = filepath.Abs(filepath.Join(cmp.Or(paths.ArtifactDirectory, rxpDirectory), inv.ID)); err != nil {
		return fmt.Errorf("artifact_directory: %w", err)
	}
	payload, err := openPayload(paths.InputPayload)
	if err != nil {
		return job.reject(runnel.ReasonBadInvocation, err.Error())
	}
	if payload != nil {
		defer payload.Close()
	}
	s, receipt, err := a.handIn(ctx, func(ctx context.Context, s *session) (runnel.Receipt, error) {
		if payload == nil {
			return s.Submit(ctx, inv)
		}
		return s.SubmitReader(ctx, inv, payload)
	})
	var invalid *runnel.ValidationError
	if errors.As(err, &invalid) {
		return job.reject(runnel.ReasonBadInvocation, err.Error())
	}
	if err != nil {
		return err
	}
	defer s.close()
	a.remember(s, receipt.ID)
	if why := job.unserved(ctx, s, receipt, noWaitWorker); why != "" {
		return job.reject(runnel.ReasonNoRunner, why)
	}
	return job.stay(ctx, s)
}

// openPayload opens what the work is to read on standard input (E12); nil is nothing.
func openPayload(path string) (io.ReadCloser, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("input payload cannot be read: %w", err)
	}
	return f, nil
}

// unserved takes the invocation back if workers are there and none has a runner for its kind, or if it is not to
// wait for a worker at all, and returns why; "" leaves it in the queue. RxP's runtime does not wait for a runner (E10).
func (j *rxpJob) unserved(ctx context.Context, s *session, receipt runnel.Receipt, noWaitWorker bool) string {
	if receipt.Existed {
		return ""
	}
	served, err := s.Served(ctx, j.inv.Kind, j.inv.Pool)
	if err != nil || served {
		return ""
	}
	workers, err := s.Workers(ctx)
	if err != nil {
		return ""
	}
	why := unserved(j.inv)
	for _, w := range workers {
		if w.Pool == cmp.Or(j.inv.Pool, runnel.DefaultPool) && !w.Draining {
			why, noWaitWorker = fmt.Sprintf("no runner registered for runtime_kind='%s'", j.inv.Kind), true
		}
	}
	if !noWaitWorker {
		return ""
	}
	if err := s.Withdraw(ctx, receipt.ID); err != nil {
		// A worker was quicker.
		j.app.note("%s is not withdrawn: %v", receipt.ID, err)
		return ""
	}
	return why
}

// stay follows the job, keeps what it writes and leaves, and ends with its exit code.
func (j *rxpJob) stay(ctx context.Context, s *session) error {
	p := j.app.printer()
	p.stdout, p.stderr, p.before = j.files.of(runnel.Stdout), j.files.of(runnel.Stderr), j.files.before
	r, err := j.app.stay(ctx, s, j.inv.ID, j.inv, p)
	if err != nil {
		j.files.close()
		return err
	}
	// What cannot be kept is told, and the result is given back all the same.
	kept, err := j.files.keep(*r)
	if r.ArtifactCount > 0 {
		folder := filepath.Join(j.files.dir, "artifacts")
		left, ferr := j.app.fetch(ctx, s, r.ID, folder)
		err = errors.Join(err, ferr)
		for _, f := range left {
			kept.Artifacts = append(kept.Artifacts, f.RxP(filepath.Join(folder, filepath.FromSlash(f.Path))))
		}
	}
	if err := errors.Join(err, j.give(r.RxP(kept))); err != nil {
		return fmt.Errorf("%s has ended (%s): %w", r.ID, r.Status, err)
	}
	return j.app.leave(*r)
}

// reject gives back the result of what was not handed in.
func (j *rxpJob) reject(reason runnel.Reason, why string) error {
	r := j.asked.Reject(reason, why, time.Now())
	if err := j.give(r); err != nil {
		return err
	}
	return j.app.leave(runnel.Result{ID: oneLine(r.ID), Status: r.Status, Reason: reason, Error: why})
}

// give prints a result and writes it where the invocation says. One that cannot be written is printed still (E11).
func (j *rxpJob) give(r runnel.RxPResult) error {
	text, err := runnel.EncodeRxP(r)
	if err != nil {
		return err
	}
	if j.result != "" {
		if err = replace(j.result, text); err != nil {
			err = fmt.Errorf("output_result_path: %w", err)
		}
	}
	var line bytes.Buffer
	if cerr := json.Compact(&line, text); cerr != nil {
		return errors.Join(err, cerr)
	}
	return errors.Join(err, j.app.printf("%s\n", &line))
}

// replace writes a file as a whole: who reads it sees what was there before, or all of this.
func replace(path string, data []byte) (err error) {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+runnel.NewID())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

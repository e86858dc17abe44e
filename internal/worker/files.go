package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
)

// Files is where a worker puts what runs leave and gets what they need; *artifacts.Store is one.
type Files interface {
	Collect(ctx context.Context, root string, also ...artifacts.Also) (artifacts.Collected, error)
	OpenLog(ctx context.Context, try artifacts.Try) *artifacts.Log
	OpenInput(ctx context.Context, in contracts.Input) (io.ReadCloser, error)
}

const (
	// storeTries is how often storing files is tried, within 8 s if each fails at once.
	storeTries = 5
	storeWait  = 200 * time.Millisecond
	// stopGrace is how long files are still stored of a run that was cancelled, or that ended well before its worker was stopped.
	stopGrace = 20 * time.Second
)

// tries calls store until it works, trying again is no use, or ctx ends, which is the error then.
func tries(ctx context.Context, store func(context.Context) error) (err error) {
	wait := storeWait
	for try := range storeTries {
		if try > 0 {
			pause := time.NewTimer(wait)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
			wait *= 3
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		once, cancel := context.WithTimeout(ctx, lastWords)
		err = store(once)
		cancel()
		if err == nil || errors.Is(err, artifacts.ErrDenied) || errors.Is(err, artifacts.ErrNoBlob) { // what is denied, or gone, stays so
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// leased returns a context that ends when the lease of a run is lost, whatever else has become of it.
func leased(held context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(held))
	off := context.AfterFunc(held, func() {
		if cause := context.Cause(held); errors.Is(cause, queue.ErrLeaseLost) {
			cancel(cause)
		}
	})
	return ctx, func() { off(); cancel(nil) }
}

// storing returns a context for storing what a run left that has ended. A lost lease and a cancel end it at once; a worker that
// is stopped, and a cancel that ended the run itself, leave it stopGrace.
func storing(held context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(held))
	over := held.Err() != nil
	off := context.AfterFunc(held, func() {
		cause := context.Cause(held)
		if !over && !errors.Is(cause, runner.ErrStopped) {
			cancel(cause)
			return
		}
		late := time.NewTimer(stopGrace)
		defer late.Stop()
		select {
		case <-late.C:
			cancel(fmt.Errorf("%w: %s are over that files had to be stored", cause, stopGrace))
		case <-ctx.Done():
		}
	})
	return ctx, func() { off(); cancel(nil) }
}

// openLog has all that out takes kept as well.
func (w *Worker) openLog(ctx context.Context, d *queue.Delivery, out *sink) (*artifacts.Log, error) {
	files, err := w.cfg.Files(ctx, d.Tenant())
	if err != nil {
		return nil, err
	}
	log := files.OpenLog(ctx, tries)
	out.stdout, out.stderr = log.Stream(contracts.LogPath(contracts.Stdout)), log.Stream(contracts.LogPath(contracts.Stderr))
	return log, nil
}

// leftFiles reports whether a run may have left something to store.
func leftFiles(room workspace, inv contracts.Invocation, log *artifacts.Log) bool {
	return log != nil || !empty(room.artifacts) || len(inv.ArtifactGlobs) > 0 && room.work != ""
}

// collect stores the files that were left, and the rest of the log; nil is no log. What cannot be stored ends a
// run that went well as failed/artifacts.
func (w *Worker) collect(held context.Context, d *queue.Delivery, room workspace, inv contracts.Invocation, log *artifacts.Log, v *ran) {
	ctx, done := storing(held)
	defer done()
	w.cfg.Step(queue.StepCollecting, d.ID(), d.Run())
	err := w.store(ctx, d, room, inv, log, v)
	switch {
	case err == nil:
		w.cfg.Step(queue.StepCollected, d.ID(), d.Run())
		v.warn = append(v.warn, v.files.Warnings...)
		return
	case errors.Is(err, queue.ErrLeaseLost), // and not a word more
		v.err == nil && errors.Is(err, runner.ErrCancelled),
		v.err == nil && errors.Is(err, runner.ErrStopped) && v.outcome.Status == contracts.StatusSucceeded:
		v.err = fmt.Errorf("store files: %w", err)
		return
	}
	w.cfg.Log.Warn().Err(err).Str("invocation_id", d.ID()).Msg("artifacts not stored")
	if v.err == nil && v.outcome.Status == contracts.StatusSucceeded {
		v.outcome.Status, v.outcome.Reason = contracts.StatusFailed, contracts.ReasonArtifacts
		v.outcome.Error = fmt.Sprintf("the work ended well, its files could not be stored: %v", err)
		return
	}
	v.warn = append(v.warn, fmt.Sprintf("artifacts were not stored: %v", err))
}

func (w *Worker) store(ctx context.Context, d *queue.Delivery, room workspace, inv contracts.Invocation, log *artifacts.Log, v *ran) error {
	var also []artifacts.Also
	if log != nil {
		kept, warnings, err := log.Seal(ctx)
		if err != nil {
			return err
		}
		v.warn = append(v.warn, warnings...)
		also = append(also, artifacts.Stored(kept))
	}
	also = append(also, artifacts.Workspace(room.work, inv.ArtifactGlobs))
	return tries(ctx, func(ctx context.Context) error {
		files, err := w.cfg.Files(ctx, d.Tenant())
		if err != nil {
			return err
		}
		v.files, err = files.Collect(ctx, room.artifacts, also...)
		return err
	})
}

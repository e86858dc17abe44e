package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
)

// The wait before a run that failed for no fault of the work's is tried again, by the number
// of such runs: a broken worker must not fill the reply stream with ends.
const (
	infraDelay    = time.Second
	maxInfraDelay = time.Minute
)

// verdict is what follows from how a run ended.
type verdict struct {
	status contracts.Status
	reason contracts.Reason
	err    string
	next   next
}

// next says what becomes of the invocation.
type next int

const (
	ended   next = iota // this was the last word, unless its retry says otherwise
	again               // not the work's doing: another run, uncounted
	stopped             // this worker had to end it: another run, uncounted, at once
	gone                // it is not ours any more: not a word
)

// judge turns an outcome or an error into a verdict. It is the only place that does.
func judge(inv contracts.Invocation, o contracts.Outcome, err error) verdict {
	var rejected *runner.Rejection
	switch {
	case err == nil:
		return verdict{status: o.Status, reason: o.Reason, err: o.Error}
	case errors.Is(err, queue.ErrLeaseLost):
		return verdict{next: gone, err: err.Error()}
	case errors.Is(err, queue.ErrCancelled), errors.Is(err, runner.ErrCancelled):
		return verdict{status: contracts.StatusCancelled, reason: contracts.ReasonCancelled, err: "cancelled on request"}
	case errors.Is(err, runner.ErrTimeout):
		return verdict{status: contracts.StatusTimedOut, reason: contracts.ReasonTimeout,
			err: fmt.Sprintf("%s exceeded timeout of %v seconds", what(inv), inv.TimeoutSeconds)} // E19, E30, E44
	case errors.Is(err, runner.ErrQueueTimeout):
		return verdict{status: contracts.StatusTimedOut, reason: contracts.ReasonQueueTimeout, err: err.Error()}
	case errors.Is(err, runner.ErrStopped):
		return verdict{status: contracts.StatusFailed, reason: contracts.ReasonInfra, err: "the worker was stopped", next: stopped}
	case errors.As(err, &rejected):
		return verdict{status: contracts.StatusRejected, reason: rejected.Reason, err: rejected.Text}
	case errors.Is(err, errRunaway):
		return verdict{status: contracts.StatusFailed, reason: contracts.ReasonInfra, err: err.Error()}
	default:
		return verdict{status: contracts.StatusFailed, reason: contracts.ReasonInfra, err: err.Error(), next: again}
	}
}

// what names the work, for people.
func what(inv contracts.Invocation) string {
	switch {
	case contracts.HTTPKind(inv.Kind):
		return string(inv.Kind) + " request"
	case inv.Kind == contracts.KindManual:
		return "responder"
	case inv.Container != nil && inv.Container.Sandbox != nil:
		return "sandbox"
	}
	return "process"
}

// conclude says the last word on a run: r is the result as far as it was known before it.
func (w *Worker) conclude(ctx context.Context, d *queue.Delivery, inv contracts.Invocation, r contracts.Result, v ran) error {
	j := judge(inv, v.outcome, v.err)
	now := w.taker.Now().UTC()
	if j.next == gone {
		w.cfg.Log.Info().Str("invocation_id", d.ID()).Str("reason", j.err).Msg("run ended: it is another worker's now")
		return d.Drop(nil)
	}
	if warnings := v.outcome.Warnings; len(warnings) > 0 {
		// They are in the result for who submitted; an engine that does less than it was asked for is the operator's to mend.
		w.cfg.Log.Warn().Str("invocation_id", d.ID()).Str("kind", string(d.Kind())).Strs("warnings", warnings).Msg("the runner warns of a run")
	}
	end := contracts.End{
		Run: d.Run(), Attempt: d.Attempt(), Status: j.status, Reason: j.reason, ExitCode: v.outcome.ExitCode, Error: j.err,
		Killed: v.outcome.Killed, Worker: r.Worker, At: now, Chunks: v.chunks, Tail: v.tail,
	}
	switch {
	case j.next == stopped:
		return d.Stopped(ctx, end)
	case j.next == again:
		w.cfg.Log.Warn().Str("invocation_id", d.ID()).Str("kind", string(d.Kind())).Str("err", j.err).Msg("run failed for no fault of the work's: handed back")
		return d.Retry(ctx, end, jitter(min(infraDelay<<min(d.Handed(), 10), maxInfraDelay)))
	case retries(inv, j) && d.Attempt() < attempts(inv):
		end.Counted = true
		return d.Retry(ctx, end, retryDelay(inv.Retry, d.Attempt()))
	}
	r.Status, r.Reason, r.Error = j.status, j.reason, j.err
	r.ExitCode, r.Killed = v.outcome.ExitCode, v.outcome.Killed
	r.Run, r.Chunks, r.Tail = d.Run(), v.chunks, v.tail
	r.StdoutBytes, r.StderrBytes, r.CutBytes = v.counts.stdout, v.counts.stderr, v.counts.cut
	r.Manifest, r.ArtifactCount = v.files.Manifest, v.files.Count
	if r.Manifest == "" {
		r.Artifacts = v.files.Artifacts
	}
	r.Warnings = append(v.warn, v.outcome.Warnings...)
	r.Metadata = v.outcome.Metadata
	r.StartedAt, r.FinishedAt = v.began, now
	if j.status == contracts.StatusRejected {
		r.StartedAt = r.FinishedAt // E10
	}
	return d.Finish(ctx, r)
}

// named reports whether anything will name the files that a run left: its end is the last word, and it did run (E10).
func named(d *queue.Delivery, inv contracts.Invocation, v ran) bool {
	j := judge(inv, v.outcome, v.err)
	return j.next == ended && j.status != contracts.StatusRejected && !(retries(inv, j) && d.Attempt() < attempts(inv))
}

// retries reports whether the work's own end is one that is tried again. What ended well, and could not be stored, is not run again.
func retries(inv contracts.Invocation, j verdict) bool {
	if inv.Retry == nil || j.reason == contracts.ReasonArtifacts {
		return false
	}
	s := j.status
	if len(inv.Retry.On) == 0 {
		return s == contracts.StatusFailed
	}
	for _, on := range inv.Retry.On {
		if on == s {
			return true
		}
	}
	return false
}

// retryDelay doubles with each attempt, up to the cap, and spreads by a fifth so that a
// thousand jobs that failed together do not come back together (T28).
func retryDelay(p *contracts.Retry, attempt int) time.Duration {
	base, most := p.DelaySeconds, p.MaxDelaySeconds
	if base == 0 {
		base = 1
	}
	if most == 0 {
		most = 60
	}
	for range min(attempt-1, 30) {
		base *= 2
	}
	return jitter(seconds(min(base, most)))
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

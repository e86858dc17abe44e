package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
)

const (
	// runawayAfter is how long a runner may take to return once the work must have been killed.
	runawayAfter = 30 * time.Second
	// lastWords bounds what must still get out after the end of everything else, and one try to store files.
	lastWords = 5 * time.Minute
	// calmWithin is how long a run that must have nothing beside it waits for the others to end.
	calmWithin = time.Minute
	// endElsewhereWithin bounds what is done about a lost run of a cancelled invocation.
	endElsewhereWithin = 30 * time.Second
	// defaultGrace is the wait between TERM and KILL where the invocation does not say (E19).
	defaultGrace = 5 * time.Second
)

// deliver sees one delivery through: it returns when the work has ended, with what is left
// to say, which needs no slot.
func (w *Worker) deliver(ctx context.Context, d *queue.Delivery) (last func()) {
	say := func(what func(context.Context) error) func() {
		return func() {
			out, done := lasting(ctx)
			defer done()
			if err := what(out); err != nil {
				w.cfg.Log.Warn().Err(err).Str("invocation_id", d.ID()).Str("kind", string(d.Kind())).Int("attempt", d.Attempt()).Msg("no last word")
			}
		}
	}
	inv, err := d.Invocation()
	r := d.Result(inv)
	switch {
	case errors.Is(err, contracts.ErrNewerMajor):
		w.cfg.Log.Warn().Err(err).Str("invocation_id", d.ID()).Msg("left for a newer worker")
		return d.Leave
	case d.Cancelled():
		select {
		case w.ending <- struct{}{}:
		default:
			return d.Leave // of very many, the rest later: a remote that does not answer must not use up what last words may be out
		}
		return say(func(ctx context.Context) error {
			defer func() { <-w.ending }()
			return w.endElsewhere(ctx, d, inv)
		})
	case err != nil:
		r.Status, r.Reason, r.Error = contracts.StatusRejected, contracts.ReasonBadInvocation, err.Error()
		return w.bury(d, r, say)
	case d.Poisoned() > 0:
		r.Status, r.Reason = contracts.StatusFailed, contracts.ReasonPoison
		r.Error = fmt.Sprintf("%d runs began and their workers were lost: put aside as a dead letter", d.Poisoned())
		return w.bury(d, r, say)
	}
	if e, spent := d.Spent(); spent && e.Attempt >= attempts(inv) {
		r.Status, r.Reason, r.ExitCode, r.Error, r.Killed = e.Status, e.Reason, e.ExitCode, e.Error, e.Killed
		r.Run, r.Attempt, r.Chunks, r.Tail = e.Run, e.Attempt, e.Chunks, e.Tail
		return say(func(ctx context.Context) error { return d.Finish(ctx, r) })
	}
	if waited := w.taker.Now().Sub(d.Submitted()); waited > w.patience(inv, d.Began()) {
		r.Status, r.Reason = contracts.StatusTimedOut, contracts.ReasonQueueTimeout
		r.Error = fmt.Sprintf("waited %s to start, which is longer than it may", waited.Round(time.Millisecond))
		return say(func(ctx context.Context) error { return d.Finish(ctx, r) })
	}
	if d.Suspect() && !w.desk.isolate(d, calmWithin) {
		return d.Leave
	}
	held, err := d.Hold(ctx)
	if err != nil {
		return say(func(context.Context) error { return d.Drop(err) })
	}
	held, done := runnersCauses(held)
	v := w.run(held, d, inv)
	conclude := say(func(ctx context.Context) error { return w.conclude(ctx, d, inv, r, v) })
	if v.store == nil {
		done()
		return conclude
	}
	store := func() {
		defer done()
		v.store(&v)
	}
	if !w.desk.aside(d) {
		store()
		return conclude
	}
	w.aside.Add(1)
	return func() {
		defer w.aside.Done()
		store()
		w.desk.stored(d)
		conclude()
	}
}

// bury puts a delivery aside, unless too many wait for that already: dead letters may have no room for long.
func (w *Worker) bury(d *queue.Delivery, r contracts.Result, say func(func(context.Context) error) func()) (last func()) {
	size := d.Size()
	if !w.desk.mayBury(size) {
		return d.Leave
	}
	return say(func(ctx context.Context) error {
		defer w.desk.buried(size)
		return d.Bury(ctx, r)
	})
}

// lasting returns a context that outlives ctx by lastWords. Until ctx ends, it is the lease that bounds a last word.
func lasting(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		late := time.NewTimer(lastWords)
		defer late.Stop()
		select {
		case <-late.C:
			cancel(fmt.Errorf("not within %s of the worker's end", lastWords))
		case <-out.Done():
		}
	})
	return out, func() { stop(); cancel(nil) }
}

// endElsewhere sees a cancelled delivery through whose run was lost: what that one left elsewhere is ended.
func (w *Worker) endElsewhere(ctx context.Context, d *queue.Delivery, inv contracts.Invocation) error {
	ctx, cancel := context.WithTimeout(ctx, lastWords) // its place is wanted
	defer cancel()
	next, ok := w.cfg.Registry[inv.Kind].(runner.Canceller)
	if !ok || !next.Resumes(inv) {
		return d.Told(ctx, queue.Note{}, "")
	}
	once, over := context.WithTimeout(ctx, endElsewhereWithin)
	defer over()
	note, err := d.Note(once)
	switch {
	case once.Err() != nil:
		return d.Drop(err)
	case err != nil:
		w.cfg.Log.Warn().Err(err).Str("invocation_id", d.ID()).Msg("cancelled, and what its lost run noted cannot be read")
		return d.Told(ctx, queue.Note{}, "")
	case note.Run == "":
		return d.Told(ctx, note, "")
	}
	w.cfg.Step(queue.StepSpawned, d.ID(), note.Run)
	killed := next.Cancel(once, runner.Job{Invocation: inv, Attempt: d.Attempt(), Run: note.Run, Offset: time.Until(w.taker.Now()), Resume: note.State})
	w.cfg.Log.Info().Str("invocation_id", d.ID()).Str("kind", string(d.Kind())).Str("killed", killed).Msg("cancelled while no worker had it")
	return d.Told(ctx, note, killed)
}

// runnersCauses returns a context that ends with ctx, and says of a cancel what runners know it as.
func runnersCauses(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, queue.ErrCancelled) {
			cause = runner.ErrCancelled
		}
		cancel(cause)
	})
	return out, func() { stop(); cancel(nil) }
}

// patience is how long an invocation may wait to start. One that is nearly as old as the
// retention of results is never run: its result may have been there and aged out.
func (w *Worker) patience(inv contracts.Invocation, began bool) time.Duration {
	age := w.cfg.Topology.Age()
	most := age - min(time.Hour, age/4)
	if inv.QueueTimeoutSeconds > 0 && !began {
		return min(most, seconds(inv.QueueTimeoutSeconds))
	}
	return most
}

// left is how much longer it may take until somebody begins with an invocation that is asked of others: what its wait in
// the queue has left of its patience, or all of that again if an earlier run began.
func (w *Worker) left(inv contracts.Invocation, d *queue.Delivery) time.Duration {
	if inv.QueueTimeoutSeconds <= 0 {
		return 0
	}
	most := seconds(inv.QueueTimeoutSeconds)
	if d.Began() {
		return most
	}
	return max(time.Millisecond, most-w.taker.Now().Sub(d.Submitted()))
}

// ran is all that is known of a run that has ended.
type ran struct {
	outcome contracts.Outcome
	err     error
	began   time.Time
	chunks  int
	tail    []contracts.Piece
	counts  counts
	files   artifacts.Collected
	warn    []string
	store   func(*ran) // stores what was left, and gives the workspace back; nil is that both are done
}

// run runs the work in a workspace of its own, and stays until it has ended.
func (w *Worker) run(ctx context.Context, d *queue.Delivery, inv contracts.Invocation) (v ran) {
	var after []func() // what is to be done once the files are stored, the last first
	tidy := func() {
		for _, f := range slices.Backward(after) {
			f()
		}
	}
	defer func() {
		if v.store == nil {
			tidy()
		}
	}()
	v.began = w.taker.Now().UTC()
	job := runner.Job{Invocation: inv, Attempt: d.Attempt(), Run: d.Run(), Patience: w.left(inv, d), Offset: time.Until(w.taker.Now())}
	next, ok := w.cfg.Registry[inv.Kind]
	if !ok {
		_, v.err = w.cfg.Registry.Run(ctx, job, nil)
		return v
	}
	stop := stopTime(inv)
	w.desk.stops(d, stop)

	var room workspace
	if _, bare := next.(runner.Bare); !bare {
		var err error
		if room, err = w.rooms.open(); err != nil {
			v.err = fmt.Errorf("workspace: %w", err)
			return v
		}
		after = append(after, func() {
			if err := room.leave(); err != nil {
				w.cfg.Log.Warn().Err(err).Str("invocation_id", d.ID()).Msg("workspace not cleaned")
			}
		})
		job.Dir, job.Artifacts = room.work, room.artifacts
		stdin, err := w.stdin(ctx, d, inv, room)
		if err != nil {
			v.err = err
			return v
		}
		if stdin != nil {
			defer stdin.Close()
			job.Stdin = stdin
		}
	}

	limit := w.cfg.OutputLimit
	if inv.OutputLimitBytes > 0 {
		limit = min(inv.OutputLimitBytes, w.cfg.MaxOutputLimit)
		if limit < inv.OutputLimitBytes {
			v.warn = append(v.warn, fmt.Sprintf("output_limit_bytes is %d, and this worker keeps %d at most", inv.OutputLimitBytes, limit))
		}
	}
	out := newSink(context.WithoutCancel(ctx), d, limit)
	var log *artifacts.Log
	if inv.KeepLog {
		kept, done := leased(ctx)
		after = append(after, done)
		var err error
		if log, err = w.openLog(kept, d, out); err != nil {
			v.err = fmt.Errorf("log: %w", err)
			return v
		}
		after = append(after, log.Close)
	}
	if job.Resume, v.err = resume(ctx, d, inv, next, out); v.err == nil {
		v.outcome, v.err = w.execute(ctx, d, next, job, out, stop)
	}
	v.chunks, v.tail, v.counts = out.close(errors.Is(v.err, runner.ErrStopped))
	if log != nil && out.carriedCut > 0 {
		v.warn = append(v.warn, fmt.Sprintf("the log lacks %d bytes, which were lost with an earlier worker", out.carriedCut))
	}
	if v.err == nil && out.failed != nil {
		v.err = out.failed
	}
	if named(d, inv, v) && leftFiles(room, inv, log) {
		v.store = func(v *ran) {
			defer tidy()
			w.collect(ctx, d, room, inv, log, v)
		}
	}
	return v
}

// resume begins the output of a run that goes on from a lost one with what that had written, and returns where it stood.
func resume(ctx context.Context, d *queue.Delivery, inv contracts.Invocation, next runner.Runner, out *sink) ([]byte, error) {
	if r, ok := next.(runner.Resumer); !ok || !r.Resumes(inv) {
		return nil, nil
	}
	state, err := d.Carry(ctx, out.carry)
	if err == nil && state != nil {
		err = out.Note(state)
	}
	return state, err
}

// execute calls the runner under the time limit. A runner that does not return although its
// work must have been killed is left behind, and its slot with it.
func (w *Worker) execute(ctx context.Context, d *queue.Delivery, next runner.Runner, job runner.Job, out *sink, stop time.Duration) (contracts.Outcome, error) {
	if job.TimeoutSeconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, seconds(job.TimeoutSeconds), runner.ErrTimeout)
		defer cancel()
	}
	w.cfg.Step(queue.StepSpawned, d.ID(), d.Run())
	if _, bare := next.(runner.Bare); bare {
		return next.Run(ctx, job, out) // nothing to kill, nothing to leave behind
	}
	type said struct {
		outcome contracts.Outcome
		err     error
	}
	back := make(chan said, 1)
	go func() {
		o, err := next.Run(ctx, job, out)
		back <- said{o, err}
	}()
	select {
	case s := <-back:
		return s.outcome, s.err
	case <-ctx.Done():
	}
	late := time.NewTimer(stop + runawayAfter)
	defer late.Stop()
	select {
	case s := <-back:
		return s.outcome, s.err
	case <-late.C:
		w.cfg.Log.Error().Str("invocation_id", d.ID()).Str("kind", string(job.Kind)).Msg("the runner did not return: slot lost")
		w.desk.lose()
		return contracts.Outcome{}, errRunaway
	}
}

var errRunaway = errors.New("the runner did not return after its work was killed")

// stdin opens what the work reads; nil is nothing.
func (w *Worker) stdin(ctx context.Context, d *queue.Delivery, inv contracts.Invocation, room workspace) (io.ReadCloser, error) {
	in := inv.Stdin
	switch {
	case in == nil || in.Blob == "" && len(in.Data) == 0:
		return nil, nil
	case in.Blob == "":
		return room.spool(in.Data)
	}
	files, err := w.cfg.Files(ctx, d.Tenant())
	if err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	r, err := files.OpenInput(ctx, *in)
	if err == nil {
		defer r.Close()
		return room.fill(r)
	}
	if errors.Is(err, artifacts.ErrNoBlob) {
		return nil, runner.Reject(contracts.ReasonBadInvocation, "stdin: %v", err)
	}
	return nil, fmt.Errorf("stdin: %w", err)
}

func attempts(inv contracts.Invocation) int {
	if inv.Retry == nil {
		return 1
	}
	return max(1, inv.Retry.Attempts)
}

// stopTime is how long the stop order of inv may take.
func stopTime(inv contracts.Invocation) time.Duration {
	t := defaultGrace
	if s := inv.Stop; s != nil {
		if s.GraceSeconds != nil {
			t = seconds(*s.GraceSeconds)
		}
		t += seconds(s.InterruptSeconds)
	}
	return t
}

func seconds(s float64) time.Duration {
	if s > float64(1<<62)/float64(time.Second) {
		return 1 << 62
	}
	return time.Duration(s * float64(time.Second))
}

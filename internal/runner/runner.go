// Package runner is the seam between a worker and the work: one interface that
// every kind of work implements, and the words in which both sides speak.
//
// A new kind is one folder beside this file, one line in package standard and
// one call of runnertest.Run. What goes around every run (metrics, traces,
// limits) is a Runner that wraps a Runner.
package runner

import (
	"context"
	"io"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Runner runs the invocations of one kind. Its methods are called from many goroutines at once.
type Runner interface {
	// Run does the job until it ends or ctx does, and writes to out as it goes.
	//
	// The outcome is how the work ended: a non-zero exit, a 500 or a command
	// that does not exist is an outcome, not an error. An error means that the
	// runner cannot say how it ended. Unless it wraps ErrRejected, another
	// worker may try.
	//
	// When ctx ends, Run stops the work in the order of job.Stop and returns
	// context.Cause(ctx) wrapped, with the outcome filled as far as it is known
	// (ExitCode, Killed), even if the work ended well while it was being stopped.
	// A ctx that ended before the work began means that it does not begin.
	// Work that ended by itself before ctx did is an outcome without an error.
	//
	// When a write to out fails, nobody hears the run any more: Run stops the
	// work in the same order and returns the error of the write, wrapped.
	//
	// After Run returns nothing of the work is running, all that it wrote has
	// been written to out, and nothing more will be. Run leaves job.Dir and
	// job.Artifacts to the caller, and does not close job.Stdin.
	//
	// The caller owes: a valid invocation (contracts.Invocation.Validate), the
	// directories of Job, and a ctx that is ended with one of the causes below.
	Run(ctx context.Context, job Job, out Sink) (contracts.Outcome, error)
}

// Job is what a worker laid out for one run: the invocation, and where this run of it happens.
type Job struct {
	contracts.Invocation
	// Attempt is 1 plus the attempts that ended before by the work's own doing.
	Attempt int
	// Run names this execution: 8 characters that no other execution has.
	Run string
	// Patience is how long a runner that has to find somebody to do the work may look for one; 0 is as long as ctx.
	Patience time.Duration
	// Dir is the workspace: an absolute path of a directory of this run alone, mode 0700. It is "" for a Bare runner.
	Dir string
	// Artifacts is the directory whose files are kept after the run, an absolute path outside of Dir. It is "" for a Bare runner.
	Artifacts string
	// Stdin is what the work reads, in place of Invocation.Stdin; nil is an empty one.
	// An *os.File is handed over to a process as it is. Reads of another should end with ctx: Run waits
	// for one under way, but not for ever. An error other than io.EOF stops the work.
	Stdin io.Reader
	// Offset is what is to be added to this machine's clock for the fleet's. A time that is noted is the fleet's: who goes
	// on from the note may be on another machine.
	Offset time.Duration
	// Resume is what the newest run of this attempt noted (Keeper) that was lost with its worker or handed back, for a Resumer.
	// What that run had written until then is in the output already. nil is a beginning.
	Resume []byte
}

// Sink takes the output of one run.
type Sink interface {
	// Stream returns the writer of one stream in one phase. Its writes may block:
	// that is how a slow queue holds back a fast process. They may come from
	// one goroutine per stream; what is written is copied before Write returns. A
	// write must come back some time after the context of the run has ended, since Run waits for it.
	// A failed write means that nobody hears the run any more: stop it.
	Stream(contracts.Stream, contracts.Phase) io.Writer
}

// Keeper is a Sink that keeps a note of where the work stands, for the worker that takes it over should this one be lost.
// A note is at most contracts.MaxStateBytes, and stands for all that was written before it.
type Keeper interface {
	Sink
	// Note has state stored with the next output that is. It costs no message of its own and may be lost.
	Note(state []byte) error
	// Save stores state, with all that was written, and returns when that is confirmed. An error means, as one of a write
	// does, that nobody hears the run any more.
	Save(ctx context.Context, state []byte) error
}

// Func is a function that is a Runner.
type Func func(ctx context.Context, job Job, out Sink) (contracts.Outcome, error)

// Run calls f.
func (f Func) Run(ctx context.Context, job Job, out Sink) (contracts.Outcome, error) {
	return f(ctx, job, out)
}

// Bare is a Runner whose work needs no workspace (noop): Job.Dir and Job.Artifacts are "" for it.
type Bare interface {
	Runner
	Bare()
}

// Resumer is a Runner that goes on with the work of a lost run where Job.Resume says it stood. Its Sink is a Keeper.
type Resumer interface {
	Runner
	// Resumes reports whether it does so with an invocation; if not, what an earlier run noted is not looked for.
	Resumes(contracts.Invocation) bool
}

// Canceller is a Resumer whose work goes on elsewhere when its worker is lost.
type Canceller interface {
	Resumer
	// Cancel ends the work of which job.Resume tells: its run was lost or handed back, and then the invocation was cancelled. It
	// says for people what it ended, as Outcome.Killed. There is no run: no directories, no output, and no more than one try
	// within the grace of job.Stop or until ctx ends. It may be asked again of work that it has ended.
	Cancel(ctx context.Context, job Job) (killed string)
}

// Capable is a Runner that says what really works on this machine.
type Capable interface {
	Runner
	// Capabilities returns findings under names that start with the kind:
	// "subprocess.kill": "cgroup". They are shown in presence and by doctor.
	Capabilities() map[string]string
}

// Fickle is a Runner whose surroundings come and go, as an engine does. While it is not available its kind is not
// served: nothing is taken off the queue for it. Available is asked often, and answers at once.
type Fickle interface {
	Runner
	Available() bool
}

// Closer is a Runner that holds something between runs. Close is called once, after the last Run has returned.
type Closer interface {
	Runner
	io.Closer
}

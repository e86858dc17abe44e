package runner

import (
	"errors"
	"fmt"

	"github.com/runnel-project/runnel/internal/contracts"
)

// The causes with which a worker ends the context of a run. A runner returns them wrapped.
var (
	// ErrTimeout says that timeout_seconds have passed: the invocation ends timed_out.
	ErrTimeout = errors.New("timed out")
	// ErrCancelled says that somebody asked for it: the invocation ends cancelled.
	ErrCancelled = errors.New("cancelled")
	// ErrQueueTimeout says that nobody was there to begin with the work within Job.Patience. It is no cause of a
	// context: a runner that finds somebody to do the work returns it. The invocation ends timed_out/queue_timeout.
	ErrQueueTimeout = errors.New("nobody began with it in time")
	// ErrStopped says that this worker cannot go on (a drain, a lost lease): another worker may run it.
	ErrStopped = errors.New("stopped by the worker")
)

// ErrRejected is what every Rejection is: no worker with these settings will ever run this invocation.
var ErrRejected = errors.New("rejected")

// Rejection says why an invocation is not run: the invocation ends rejected, with this reason and text.
// errors.Is(err, ErrRejected) finds one in a chain, errors.As with *Rejection gets it.
type Rejection struct {
	Reason contracts.Reason
	Text   string
}

// Error returns the text.
func (r *Rejection) Error() string { return r.Text }

// Is reports whether target is ErrRejected.
func (r *Rejection) Is(target error) bool { return target == ErrRejected }

// Reject returns a *Rejection with a formatted text.
func Reject(reason contracts.Reason, format string, a ...any) error {
	return &Rejection{Reason: reason, Text: fmt.Sprintf(format, a...)}
}

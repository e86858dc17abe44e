package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Registry says which runner runs which kind (E9). It is itself a Runner, and is not changed once runs have begun.
type Registry map[contracts.Kind]Runner

// Run hands the job to the runner of its kind. A kind without one is rejected (E10).
func (r Registry) Run(ctx context.Context, job Job, out Sink) (contracts.Outcome, error) {
	next, ok := r[job.Kind]
	if !ok {
		return contracts.Outcome{}, Reject(contracts.ReasonNoRunner, "no runner registered for runtime_kind='%s'", job.Kind)
	}
	return next.Run(ctx, job, out)
}

// Kinds returns the kinds that have a runner, sorted.
func (r Registry) Kinds() []contracts.Kind {
	return slices.Sorted(maps.Keys(r))
}

// Serves reports whether there is a runner for the kind that can work now.
func (r Registry) Serves(kind contracts.Kind) bool {
	next, ok := r[kind]
	if fickle, may := next.(Fickle); may {
		return fickle.Available()
	}
	return ok
}

// Capabilities gathers what the runners that are Capable say.
func (r Registry) Capabilities() map[string]string {
	all := make(map[string]string)
	for _, next := range r {
		if c, ok := next.(Capable); ok {
			maps.Copy(all, c.Capabilities())
		}
	}
	return all
}

// Close closes the runners that are Closers, every one, and returns their errors joined.
// A runner that serves two kinds is closed for each: its Close must bear that.
func (r Registry) Close() error {
	var errs []error
	for _, kind := range r.Kinds() {
		if c, ok := r[kind].(Closer); ok {
			if err := c.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close runner %s: %w", kind, err))
			}
		}
	}
	return errors.Join(errs...)
}

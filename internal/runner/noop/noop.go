// Package noop is the runner that does nothing: for measuring what a run costs without the work, and for tests.
package noop

import (
	"context"
	"fmt"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// Runner succeeds at once, with exit code 0 and no output. It needs no workspace.
type Runner struct{}

// Run succeeds at once unless ctx has ended.
func (Runner) Run(ctx context.Context, _ runner.Job, _ runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("noop: %w", context.Cause(ctx))
	}
	return contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(int)}, nil
}

// Bare says that no workspace is laid out for it.
func (Runner) Bare() {}

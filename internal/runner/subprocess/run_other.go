//go:build !linux && !darwin

package subprocess

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// climb says that nothing here can hold a run: New fails, and a worker of this system serves other kinds.
func climb(string) (rung, map[string]error, error) {
	return nil, nil, fmt.Errorf("run commands on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Run is not reached: there is no Runner without a rung.
func (r *Runner) Run(context.Context, runner.Job, runner.Sink) (contracts.Outcome, error) {
	return contracts.Outcome{}, errors.ErrUnsupported
}

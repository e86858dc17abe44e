package web

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/runnel-project/runnel/internal/runner"
)

// Resume reads what a lost run noted into note, if job goes on from one, and returns a context that ends with
// runner.ErrTimeout at its deadline, which is one over all runs of an attempt (E43): it is a field of the note, in milliseconds
// since 1970 by the fleet's clock, set here by the first run; 0 is never.
func Resume(ctx context.Context, job runner.Job, note any, deadline *int64) (context.Context, context.CancelFunc, error) {
	if job.Resume != nil {
		if err := json.Unmarshal(job.Resume, note); err != nil {
			return nil, nil, fmt.Errorf("the note of the lost run: %w", err)
		}
	} else if job.TimeoutSeconds > 0 {
		*deadline = time.Now().Add(job.Offset).Add(time.Duration(job.TimeoutSeconds * float64(time.Second))).UnixMilli()
	}
	if *deadline <= 0 {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithDeadlineCause(ctx, time.UnixMilli(*deadline).Add(-job.Offset), runner.ErrTimeout)
	return ctx, cancel, nil
}

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newCancel(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID...",
		Short: "Cancel invocations: a queued one never starts, a running one is killed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				// One that is unknown does not keep the others alive.
				var errs []error
				for _, arg := range args {
					errs = append(errs, a.cancel(ctx, s, arg))
				}
				return errors.Join(errs...)
			})
		},
	}
}

func (a *app) cancel(ctx context.Context, s *session, given string) error {
	id, err := a.resolve(ctx, s, given)
	if err != nil {
		return err
	}
	report, err := s.Cancel(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		return a.object(cancelled{ID: id, CancelReport: report})
	case a.quiet:
		return a.printf("%s\n", id)
	case report.AlreadyEnded:
		return a.printf("%s had already ended: %s\n", id, report.Status)
	case report.Was == runnel.StatusPending:
		return a.printf("%s cancelled: it was not running\n", id)
	case report.Killed == "":
		return a.printf("%s cancelled: nobody was there to say what was killed\n", id)
	}
	return a.printf("%s cancelled: killed %s\n", id, oneLine(report.Killed))
}

// cancelled is a report as --json prints it.
type cancelled struct {
	ID string `json:"invocation_id"`
	runnel.CancelReport
	Result any `json:"result,omitempty"` // left out: show prints it
}

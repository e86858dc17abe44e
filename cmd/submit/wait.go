package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait ID...",
		Short: "Wait until invocations have ended and exit with the exit code of the first that failed",
		Long: `wait prints a line for each invocation as it ends, and exits with the exit code of the
first one, in the order of the arguments, that is not zero.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				ids, err := a.each(ctx, s, args)
				if err != nil {
					return err
				}
				results := map[string]runnel.Result{}
				for r, err := range s.Wait(ctx, ids...) {
					switch {
					case errors.Is(err, runnel.ErrNotFound):
						return fmt.Errorf("%s: no such invocation, or its result is not kept any more", r.ID)
					case err != nil:
						return err
					}
					results[r.ID] = r
					if err := a.ended(r); err != nil {
						return err
					}
				}
				codes := make([]int, len(ids))
				var last string
				for i, id := range ids {
					codes[i] = codeOf(results[id])
					if text := verdict(results[id]); text != "" && last == "" {
						last = text
					}
				}
				err = firstCode(codes)
				var exit *exitError
				if errors.As(err, &exit) {
					exit.text = last
				}
				return err
			})
		},
	}
}

// ended prints the one line of an invocation that has ended.
func (a *app) ended(r runnel.Result) error {
	switch {
	case a.json:
		return a.object(reportOf(r, nil))
	case a.quiet:
		return a.printf("%s\n", r.ID)
	case r.Status == runnel.StatusFailed && r.Reason == runnel.ReasonExit && r.ExitCode != nil:
		return a.printf("%s %s exit code %d\n", r.ID, r.Status, *r.ExitCode)
	}
	return a.printf("%s %s\n", r.ID, r.Status)
}

package main

import (
	"context"
	"errors"
	"iter"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newLogs(a *app) *cobra.Command {
	var follow bool
	var run string
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print the output of an invocation",
		Long: `logs prints what is stored of an invocation's output: standard output on standard output,
standard error on standard error. Of an invocation that has ended it shows the run that
counted. With --json it prints the events, one a line.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow && run != "" {
				return errors.New("logs -f --run: what is followed is the run under way; leave out one of them")
			}
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				events, err := a.logsOf(ctx, s, id, follow, run)
				if err != nil {
					return err
				}
				return a.printLogs(events)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it has ended")
	cmd.Flags().StringVar(&run, "run", "", "`RUN` to show, or all of them: all")
	return cmd
}

// logsOf chooses what to show.
func (a *app) logsOf(ctx context.Context, s *session, id string, follow bool, run string) (iter.Seq2[runnel.Event, error], error) {
	if follow {
		return s.Watch(ctx, id), nil
	}
	if run != "" {
		return s.WatchRun(ctx, id, run), nil
	}
	info, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if info.Status.Ended() {
		return s.Watch(ctx, id), nil
	}
	return s.WatchRun(ctx, id, runnel.AllRuns), nil
}

func (a *app) printLogs(events iter.Seq2[runnel.Event, error]) error {
	p := a.printer()
	for e, err := range events {
		if errors.Is(err, runnel.ErrNotFound) && p.result == nil {
			// It is there, or it would not have come so far: nothing of it is stored.
			return nil
		}
		if err != nil {
			return err
		}
		if a.json {
			if err := a.object(e); err != nil {
				return err
			}
			continue
		}
		if err := p.event(e); err != nil {
			return err
		}
	}
	if p.result != nil {
		if text := verdict(*p.result); text != "" {
			a.note("%s", text)
		}
	}
	return nil
}

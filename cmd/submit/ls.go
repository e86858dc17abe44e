package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

// lsFlags are the flags of ls.
type lsFlags struct {
	status []string
	kind   string
	labels []string
	since  seconds
	limit  int
}

func newLs(a *app) *cobra.Command {
	var f lsFlags
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List invocations: what waits and runs, then what has ended, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := f.options(time.Now())
			if err != nil {
				return err
			}
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				ctx, end := s.listening(ctx)
				defer end()
				return a.list(s.List(ctx, options), options.Limit)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&f.status, "status", nil, "only these: pending, running, succeeded, failed, timed_out, cancelled, rejected")
	fs.StringVar(&f.kind, "kind", "", "only of this `KIND`")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "only with this `KEY=VALUE` (repeatable: all of them)")
	fs.Var(&f.since, "since", "only what was queued or ended within `DURATION`")
	fs.IntVarP(&f.limit, "limit", "n", 50, "at most `N`; 0 is all")
	return cmd
}

func (f *lsFlags) options(now time.Time) (runnel.ListOptions, error) {
	o := runnel.ListOptions{Kind: runnel.Kind(f.kind), Limit: f.limit}
	if f.limit < 0 {
		return o, fmt.Errorf("--limit %d: must not be negative", f.limit)
	}
	for _, s := range f.status {
		status := runnel.Status(strings.TrimSpace(s))
		if status != runnel.StatusPending && status != runnel.StatusRunning && !status.Ended() {
			return o, fmt.Errorf("--status %q: it is one of pending, running, succeeded, failed, timed_out, cancelled, rejected", s)
		}
		o.Status = append(o.Status, status)
	}
	if f.since.set {
		o.Since = now.Add(-time.Duration(f.since.value * float64(time.Second)))
	}
	var err error
	o.Labels, err = pairs("label", f.labels)
	return o, err
}

// list prints invocations as they come, of which there are at most limit, unless that is 0.
func (a *app) list(infos iter.Seq2[runnel.Info, error], limit int) error {
	l := list{app: a, now: time.Now(), table: tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)}
	for info, err := range infos {
		if err == nil {
			err = l.add(info)
		}
		if err != nil {
			return err
		}
	}
	return l.end(limit)
}

// list is a table, or lines, under way.
type list struct {
	app   *app
	now   time.Time
	table *tabwriter.Writer
	count int
}

func (l *list) add(i runnel.Info) error {
	l.count++
	switch {
	case l.app.json:
		return l.app.object(shownOf(i))
	case l.app.quiet:
		return l.app.printf("%s\n", i.ID)
	case l.count == 1:
		fmt.Fprintln(l.table, "ID\tSTATUS\tCODE\tKIND\tQUEUED\tTOOK\tWORKER\tNAME")
	}
	code, took := "", ""
	if r := i.Result; r != nil {
		if r.ExitCode != nil {
			code = fmt.Sprint(*r.ExitCode)
		}
		if !r.StartedAt.IsZero() {
			took = short(r.FinishedAt.Sub(r.StartedAt))
		}
	} else if i.Started != nil {
		took = short(l.now.Sub(i.Started.At))
	}
	_, err := fmt.Fprintf(l.table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
		i.ID, l.app.coloured(i.Status), code, i.Kind, ago(i.Queued, l.now), took, i.Worker, oneLine(i.Name))
	// A long list is shown as it comes, a screen at a time.
	if err == nil && l.count%200 == 0 {
		err = l.table.Flush()
	}
	return broken(err)
}

func (l *list) end(limit int) error {
	if err := l.table.Flush(); err != nil {
		return broken(err)
	}
	if limit > 0 && l.count == limit && !l.app.json {
		l.app.note("there may be more: --limit 0 lists all")
	}
	return nil
}

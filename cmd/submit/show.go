package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show what is known of an invocation",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				info, err := s.Get(ctx, id)
				if err != nil {
					return err
				}
				if a.json {
					return a.object(shownOf(info))
				}
				return a.show(info, time.Now())
			})
		},
	}
}

// shown is an Info as --json prints it: the words of the result stand where a script looks for them first.
type shown struct {
	runnel.Info
	Reason   runnel.Reason `json:"reason,omitempty"`
	ExitCode *int          `json:"exit_code,omitempty"`
	Error    string        `json:"error_summary,omitempty"`
	Result   *report       `json:"result,omitempty"` // hides the Info's, which has the bytes of the tail
}

func shownOf(i runnel.Info) shown {
	s := shown{Info: i}
	if r := i.Result; r != nil {
		rep := reportOf(*r, nil)
		s.Reason, s.ExitCode, s.Error, s.Result = r.Reason, r.ExitCode, r.Error, &rep
	}
	return s
}

func (a *app) show(i runnel.Info, now time.Time) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	line := func(name string, value any) {
		if s := fmt.Sprint(value); s != "" && s != "0" {
			fmt.Fprintf(w, "%s\t%s\n", name, oneLine(s))
		}
	}
	line("id", i.ID)
	line("name", i.Name)
	line("status", a.coloured(i.Status))
	if r := i.Result; r != nil {
		line("reason", r.Reason)
		if r.ExitCode != nil {
			fmt.Fprintf(w, "exit code\t%d\n", *r.ExitCode)
		}
		line("error", r.Error)
		line("killed", r.Killed)
	}
	line("kind", i.Kind)
	line("pool, lane", fmt.Sprintf("%s, %s", i.Pool, i.Lane))
	line("tenant", i.Tenant)
	line("labels", labels(i.Labels))
	line("queued", stamp(i.Queued, now))
	if i.Started != nil {
		line("started", stamp(i.Started.At, now))
	}
	if r := i.Result; r != nil {
		line("ended", stamp(r.FinishedAt, now))
		if !r.StartedAt.IsZero() {
			line("took", r.FinishedAt.Sub(r.StartedAt).Round(time.Millisecond))
		}
	}
	line("worker", i.Worker)
	line("run", i.Run)
	line("attempt", i.Attempt)
	for _, e := range i.Ends {
		line("earlier run", fmt.Sprintf("%s: %s %s %s", e.Run, e.Status, e.Reason, e.Error))
	}
	if r := i.Result; r != nil {
		line("output", fmt.Sprintf("%d bytes, %d on standard error", r.StdoutBytes+r.StderrBytes, r.StderrBytes))
		if r.CutBytes > 0 {
			line("left out", fmt.Sprintf("%d bytes", r.CutBytes))
		}
		line("artifacts", r.ArtifactCount)
		for _, text := range r.Warnings {
			line("warning", text)
		}
	}
	return broken(w.Flush())
}

func stamp(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format(time.RFC3339), short(now.Sub(t)))
}

func labels(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, " ")
}

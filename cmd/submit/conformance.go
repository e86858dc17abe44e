package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel/embedded/conformance"
	"github.com/runnel-project/runnel/embedded/settings"
)

func newConformance(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Check a program in another language against the protocol",
		Long: `conformance starts the program with the address of a NATS server in RUNNEL_SERVER, takes the
worker's part, and prints for each rule of the protocol whether the program keeps it. It
exits 1 if a rule is broken. docs/protocol.md says what the program is to do.

The server is the one that is named (--server, --context, --creds and so on, or their
variables), and else, or with --embedded, one of its own. On a server that is named it makes
streams with a prefix that nobody has, tells it to the program in RUNNEL_PREFIX, and removes
them when it ends. A program that does not look there speaks to the fleet that has the
prefix runnel.`,
	}
	cmd.AddCommand(
		newConformancePart(a, "producer", "Check a program that submits a command, follows it and exits with its code", conformance.Producer),
		newConformancePart(a, "responder", "Check a program that answers invocations of kind manual", conformance.Responder),
	)
	return cmd
}

type conformanceKit func(context.Context, conformance.Config, func(conformance.Check)) error

func newConformancePart(a *app, name, short string, check conformanceKit) *cobra.Command {
	var cfg conformance.Config
	wait := seconds{20, true}
	cmd := &cobra.Command{
		Use:         name + " [flags] -- CMD...",
		Short:       short,
		Args:        cobra.MinimumNArgs(1),
		Annotations: mayEmbed,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Command, cfg.Patience, cfg.Stderr = args, time.Duration(wait.value*float64(time.Second)), a.stderr
			if a.quiet {
				cfg.Stderr = nil
			}
			if a.embedded || a.conn == (settings.Connection{}) {
				ctx, done := leaving(cmd.Context())
				defer done()
				return a.conform(ctx, cfg, check)
			}
			target, err := a.conn.Resolve()
			if err != nil {
				return err
			}
			if cfg.Environment, err = target.Environment(); err != nil {
				return err
			}
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				cfg.Conn = s.nc
				return a.conform(ctx, cfg, check)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&cfg.Rules, "rules", nil, "check only these rules: `a,b`")
	fs.Var(&wait, "patience", "how long the program may take for a step: `DURATION`")
	if name == "responder" {
		fs.StringVar(&cfg.Name, "name", "conformance", "`NAME` that the program answers for")
	}
	return cmd
}

func (a *app) conform(ctx context.Context, cfg conformance.Config, check conformanceKit) error {
	kept, broken := 0, 0
	var failed error
	err := check(ctx, cfg, func(c conformance.Check) {
		line, text := "pass", c.Text
		if c.Err != nil {
			line, text = "FAIL", fmt.Sprintf("%s: %v", c.Text, c.Err)
			broken++
		} else {
			kept++
		}
		if a.json {
			failed = errors.Join(failed, a.object(ruled{c.Rule, c.Text, c.Err == nil, errorText(c.Err)}))
			return
		}
		failed = errors.Join(failed, a.printf("%s %-10s %s\n", line, c.Rule, oneLine(text)))
	})
	switch {
	case err != nil || failed != nil:
		return errors.Join(err, failed)
	case broken > 0:
		return &exitError{code: 1, text: fmt.Sprintf("%d of %d rules are broken", broken, broken+kept)}
	}
	a.note("%d rules are kept", kept)
	return nil
}

// ruled is a check as --json prints it.
type ruled struct {
	Rule  string `json:"rule"`
	Text  string `json:"text"`
	Kept  bool   `json:"kept"`
	Error string `json:"error,omitempty"`
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

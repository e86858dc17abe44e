package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newInit(a *app) *cobra.Command {
	var replicas int
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the streams on the server, and say how those that are there differ",
		Long: `init makes the streams that are missing. Those that are there are left as they are; where
they differ from what they should be it prints how. A setting under which Runnel is not
safe is an error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				if cmd.Flags().Changed("replicas") {
					var err error
					if s.Client, err = runnel.New(s.nc, runnel.WithTenant(a.tenant), runnel.WithPrefix(a.prefix), runnel.WithReplicas(replicas)); err != nil {
						return err
					}
				}
				drift, err := s.Ensure(ctx)
				if err != nil {
					return fmt.Errorf("init at %s: %w", s.server, err)
				}
				if a.json {
					for _, d := range drift {
						if err := a.object(drifted(d)); err != nil {
							return err
						}
					}
					return nil
				}
				for _, d := range drift {
					if err := a.printf("%s\n", d); err != nil {
						return err
					}
				}
				if len(drift) == 0 {
					a.note("the streams at %s are as they should be", s.server)
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&replicas, "replicas", 1, "how many servers keep each stream: `N`, 3 on a cluster")
	return cmd
}

// drifted is a difference as --json prints it.
type drifted struct {
	Stream   string `json:"stream"`
	Consumer string `json:"consumer,omitempty"`
	Setting  string `json:"setting"`
	Want     string `json:"want"`
	Have     string `json:"have"`
}

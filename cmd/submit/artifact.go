package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newArtifact(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "artifact",
		Short: "List, fetch and print the files that an invocation left",
	}
	cmd.AddCommand(newArtifactLs(a), newArtifactGet(a), newArtifactCat(a))
	return cmd
}

func newArtifactLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls ID",
		Short: "List the files that an invocation left",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				files, err := s.Artifacts(ctx, id)
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
				for _, f := range files {
					switch {
					case a.json:
						err = a.object(f)
					case a.quiet:
						err = a.printf("%s\n", f.Path)
					default:
						_, err = fmt.Fprintf(w, "%s\t%d\t%.12s\t%s\n", fs.FileMode(f.Mode), f.Size, f.SHA256, oneLine(f.Path))
					}
					if err != nil {
						return broken(err)
					}
				}
				return broken(w.Flush())
			})
		},
	}
}

func newArtifactGet(a *app) *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "get ID [PATTERN]...",
		Short: "Fetch the files that an invocation left",
		Long: `get writes the files that an invocation left below a directory, as they were: path, mode
and content, which is verified. Patterns are those of a shell, * and ?, over whole paths.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				files, err := s.Download(ctx, id, folder, args[1:]...)
				if err != nil {
					return err
				}
				if len(files) == 0 && len(args) > 1 {
					return fmt.Errorf("%s left no file that matches %q: `submit artifact ls %s` lists them", id, args[1:], id)
				}
				for _, f := range files {
					if a.json {
						err = a.object(f)
					} else {
						err = a.printf("%s\n", oneLine(f.Path))
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&folder, "output", "o", ".", "`DIR` to write into")
	return cmd
}

func newArtifactCat(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cat ID PATH",
		Short: "Print a file that an invocation left",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				r, err := s.OpenArtifact(ctx, id, args[1])
				if err != nil {
					return err
				}
				defer r.Close()
				if _, err := io.Copy(output{a.stdout}, r); err != nil {
					return fmt.Errorf("artifact %s: %w", args[1], err)
				}
				return nil
			})
		},
	}
}

// output is a writer whose errors say which end of a copy they are of.
type output struct{ w io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	return n, broken(err)
}

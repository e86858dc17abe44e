package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema [NAME]",
		Short: "Print the JSON Schema of a document, or list what there are schemas of",
		Long: `schema prints the JSON Schema (draft 2020-12) of a document: one of Runnel's own as JSON has
it, or one of RxP v0.1 (runtime_invocation, runtime_result, artifact_descriptor). Without a
name it lists them.`,
		Example:           `  submit schema invocation > invocation.schema.json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(runnel.Schemas(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && a.json:
				return a.object(runnel.Schemas())
			case len(args) == 0:
				return a.printf("%s\n", strings.Join(runnel.Schemas(), "\n"))
			}
			text, err := runnel.Schema(args[0])
			if err != nil {
				return err
			}
			return a.printf("%s", text)
		},
	}
}

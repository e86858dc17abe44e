package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

// execute runs one command line and returns the exit code.
func execute(a *app, args []string) int {
	root := commands(a)
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(context.Background())
	// The last line names what was not the work's own doing.
	var exit *exitError
	switch {
	case err == nil || err.Error() == "" || errors.Is(err, errLeft):
	case errors.As(err, &exit):
		a.note("%s", err)
	case errors.Is(err, runnel.ErrNoStream):
		a.say("%v: `submit init` sets it up, or the first `worker start`", err)
	default:
		a.say("%v", err)
	}
	return codeOfError(err)
}

func commands(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "submit",
		Short: "Hand work to Runnel, follow it and read how it ended",
		Long: `submit hands work to the workers of a Runnel fleet, follows it and reads how it ended.

Data goes to standard output, everything else to standard error. run and wait exit
with the work's own exit code, and otherwise with
  124  timed out                      126  the command cannot be executed
  125  submit's own failure, or the   127  the command does not exist
       work was refused               128+n ended by signal n
                                      130  cancelled or interrupted

Every flag can be set by the variable that is named beside it, or by its name in the
file of settings; a flag goes before a variable, a variable before the file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.prepare(cmd)
		},
	}
	flags := root.PersistentFlags()
	a.conn.Flags(flags)
	flags.StringVar(&a.tenant, "tenant", "default", "`NAME` of whose invocations these are")
	flags.StringVar(&a.prefix, "prefix", "runnel", "`NAME` of the fleet: first word of its subjects and streams")
	flags.BoolVar(&a.embedded, "embedded", false, "run NATS and a worker in this process, for this command only")
	flags.BoolVar(&a.json, "json", false, "print JSON: one object, or one a line for many")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print ids only, and nothing on standard error but errors")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (NO_COLOR does the same)")
	root.AddCommand(
		newRun(a), newHTTP(a), newSend(a), newWait(a), newLogs(a), newShow(a), newLs(a), newCancel(a), newReply(a), newSandbox(a), newConformance(a),
		newArtifact(a), newInit(a), newBench(a), newDoctor(a), newSchema(a), newVersion(a),
	)
	root.InitDefaultCompletionCmd()
	settings.Describe(root)
	return root
}

// prepare fills the flags that were not given, and refuses --embedded where it means nothing.
func (a *app) prepare(cmd *cobra.Command) error {
	if err := settings.Load(cmd); err != nil {
		return err
	}
	if a.embedded && cmd.Annotations["embedded"] == "" {
		return fmt.Errorf("%s --embedded: the server inside this process starts empty, and ends with it: only `submit run`, `submit send --wait` and `submit conformance` make sense with it", cmd.Name())
	}
	return nil
}

// mayEmbed marks a command that works with --embedded.
var mayEmbed = map[string]string{"embedded": "yes"}

// version is set by the linker for releases; a build of a checkout says which commit.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

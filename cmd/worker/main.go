// Command worker takes work off a Runnel fleet's queue and runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel/embedded/settings"
	_ "github.com/runnel-project/runnel/internal/runner/standard/engine" // kind container
)

// exitOurs is the exit code for everything that this command could not do, as submit's.
const exitOurs = 125

func main() {
	// A worker's heap is a few MiB and changes with every job: collected at each doubling, as Go does by
	// default, a quarter of a short job's time goes into that. GOGC and GOMEMLIMIT still decide where they are set.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(execute(&app{stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

// app is what all commands share.
type app struct {
	stdout, stderr io.Writer
	level          string
	log            zerolog.Logger
}

func execute(a *app, args []string) int {
	root := commands(a)
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	if err := root.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintf(a.stderr, "worker: %v\n", err)
		return exitOurs
	}
	return 0
}

func commands(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "worker",
		Short: "Take work off the queue and run it",
		Long: `worker takes invocations off a Runnel fleet's queue and runs them.

Every flag can be set by the variable that is named beside it, or by its name in the
file of settings; a flag goes before a variable, a variable before the file. The log
goes to standard error, one JSON object a line.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := settings.Load(cmd); err != nil {
				return err
			}
			level, err := zerolog.ParseLevel(a.level)
			if err != nil {
				return fmt.Errorf("--log-level %q: it is debug, info, warn or error", a.level)
			}
			a.log = zerolog.New(a.stderr).Level(level).With().Timestamp().Logger()
			return nil
		},
	}
	root.PersistentFlags().StringVar(&a.level, "log-level", "info", "how much to log: debug, info, warn or error")
	root.AddCommand(newStart(a), newDev(a), newDoctor(a), newVersion(a))
	root.InitDefaultCompletionCmd()
	settings.Describe(root)
	return root
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stdout, "worker %s %s %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version is set by the linker for releases; a build of a checkout says which commit.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return "devel-" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "devel"
}

// errSignal is the cause of a context that a signal ended.
var errSignal = errors.New("signal")

// stopping returns a context that ends at the first signal, and a channel that is closed at the second.
func (a *app) stopping(ctx context.Context) (drain context.Context, stop <-chan struct{}, done func()) {
	drain, end := context.WithCancelCause(ctx)
	now, over, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(gone)
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			case s := <-signals:
				switch n {
				case 0:
					a.log.Info().Stringer("signal", s).Msg("draining: a second signal stops at once")
					end(errSignal)
				case 1:
					a.log.Info().Stringer("signal", s).Msg("stopping: a third signal leaves at once")
					close(now)
				case 2:
					// The guard ends what runs, and the queue gives it to others when the leases are over.
					a.log.Warn().Stringer("signal", s).Msg("leaving")
					os.Exit(exitOurs)
				}
			}
		}
	}()
	return drain, now, func() {
		signal.Stop(signals)
		close(over)
		<-gone
		end(nil)
	}
}

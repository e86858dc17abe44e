package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/embedded/settings"
)

func newDoctor(a *app) *cobra.Command {
	var conn settings.Connection
	var workDir string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what a worker could do here, and whether its server answers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), conn, workDir)
		},
	}
	conn.Flags(cmd.Flags())
	cmd.Flags().StringVar(&workDir, "work-dir", "", "the `DIR` of workspaces to look at (default below the state directory)")
	return cmd
}

func (a *app) doctor(ctx context.Context, conn settings.Connection, workDir string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	problems := 0
	say := func(what string, err error, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if err != nil {
			problems++
			text = "PROBLEM " + err.Error()
		}
		fmt.Fprintf(w, "%s\t%s\n", what, text)
	}
	say("system", nil, "%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if workDir == "" {
		if dir, err := embedded.StateDir(); err == nil {
			workDir = filepath.Join(dir, "work")
		} else {
			say("work directory", err, "")
		}
	}
	if workDir != "" {
		say("work directory", writable(workDir), "%s", workDir)
	}
	able, err := embedded.Capabilities(embedded.WorkerConfig{WorkDir: workDir})
	say("runners", err, "%d", len(able))
	for _, name := range slices.Sorted(maps.Keys(able)) {
		fmt.Fprintf(w, "  %s\t%s\n", name, able[name])
	}
	server, err := a.reach(ctx, conn)
	say("server", err, "%s", server)
	if err := w.Flush(); err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("doctor: %d of these are problems", problems)
	}
	return nil
}

func (a *app) reach(ctx context.Context, conn settings.Connection) (string, error) {
	target, err := conn.Resolve()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	nc, err := target.Dial(ctx, nil)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	rtt, err := nc.RTT()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, version %s, answers in %s", target.Shown, nc.ConnectedServerVersion(), rtt.Round(time.Microsecond)), nil
}

func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/embedded/settings"
)

// benchChildren are the parts of a bench that are processes of their own: this
// program, started by itself.
func benchChildren() []*cobra.Command {
	var all []*cobra.Command
	for _, part := range []struct {
		name string
		run  func(ctx context.Context, dir string, slots int, prefix string) error
	}{
		{"serve", childServe},
		{"work", childWork},
		{"bare", childBare},
		{"respond", childRespond},
		{"exec-loop", childExec},
		{"pump", childPump},
	} {
		var dir string
		var slots int
		cmd := &cobra.Command{
			Use:    part.name,
			Short:  "Part of a bench",
			Hidden: true,
			Args:   cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return part.run(cmd.Context(), dir, slots, cmd.Flag("prefix").Value.String())
			},
		}
		cmd.Flags().StringVar(&dir, "dir", "", "")
		cmd.Flags().IntVar(&slots, "slots", 1, "")
		for _, name := range []string{"dir", "slots"} {
			cmd.Flags().Lookup(name).Hidden = true
		}
		all = append(all, cmd)
	}
	return all
}

// untilTold waits for the end of standard input.
func untilTold() { _, _ = io.Copy(io.Discard, os.Stdin) }

func childServe(ctx context.Context, dir string, _ int, prefix string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100) // as a NATS server has it
	}
	node, err := embedded.Start(ctx, embedded.Config{
		Listen: "127.0.0.1:0", StoreDir: filepath.Join(dir, "server"), NoWorker: true,
		Worker: embedded.WorkerConfig{Prefix: prefix}, Log: warnings(),
	})
	if err != nil {
		return err
	}
	fmt.Printf("ready %s\n", strings.Replace(node.URL(), "nats://", "nats://"+node.Token()+"@", 1))
	untilTold()
	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return node.Close(end)
}

func childWork(ctx context.Context, dir string, slots int, prefix string) error {
	var conns [2]*nats.Conn
	for i := range conns {
		var err error
		if conns[i], err = childConnect(ctx); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	ctx, drain := context.WithCancel(ctx)
	go func() {
		untilTold()
		drain()
	}()
	return embedded.Work(ctx, conns[0], conns[1], embedded.WorkerConfig{
		Slots: slots, Prefix: prefix, WorkDir: filepath.Join(dir, "work"), DrainTimeout: time.Second, Log: warnings(),
		Ready: func(name string) { fmt.Printf("ready %s\n", name) },
	})
}

func childBare(ctx context.Context, _ string, slots int, _ string) error {
	nc, err := childConnect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop, err := bareWork(ctx, nc, slots)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("ready bare")
	untilTold()
	return nil
}

// benchName is whom the manual jobs of a bench are for.
const benchName = "runnel-bench"

// childRespond answers manual jobs and bare requests.
func childRespond(ctx context.Context, _ string, slots int, prefix string) error {
	nc, err := childConnect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := nc.Subscribe(bareRequests, func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		return err
	}
	nothing := func(context.Context, *runnel.Task) error { return nil }
	responder, err := runnel.Handle(nc, benchName, nothing, runnel.WithPrefix(prefix), runnel.WithConcurrency(slots))
	if err != nil {
		return err
	}
	fmt.Println("ready responder")
	untilTold()
	return responder.Close()
}

// childExec runs commands alone: the limit of exec.
func childExec(_ context.Context, _ string, slots int, _ string) error {
	fmt.Println("ready exec")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			return err
		}
		m, err := execLoop(n, slots)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(wireMeasurement{m.n, m.elapsed, m.each}); err != nil {
			return err
		}
	}
	return lines.Err()
}

// wireMeasurement is a measurement between a child and its parent.
type wireMeasurement struct {
	N       int
	Elapsed time.Duration
	Each    []time.Duration
}

func childConnect(ctx context.Context) (*nats.Conn, error) {
	target, err := settings.Connection{Server: os.Getenv(settings.Variable("server"))}.Resolve()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return target.Dial(ctx, nil, runnel.ConnectOptions("bench")...)
}

func warnings() zerolog.Logger { return zerolog.New(os.Stderr).Level(zerolog.WarnLevel) }

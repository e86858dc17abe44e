package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel/embedded"
)

func newDev(a *app) *cobra.Command {
	var f workerFlags
	var listen, data string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run NATS and a worker in one process",
		Long: `dev runs a NATS server and a worker in one process, and prints "ready nats://HOST:PORT" once
the worker has asked for work. Its data survives. The server asks for a token, which
submit and worker of the same account find by themselves.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(a)
			if err != nil {
				return err
			}
			if data == "" {
				dir, err := embedded.StateDir()
				if err != nil {
					return err
				}
				data = filepath.Join(dir, "dev")
			}
			ctx, stop, done := a.stopping(cmd.Context())
			defer done()
			return a.dev(ctx, stop, embedded.Config{Listen: listen, Share: true, StoreDir: data, Worker: cfg, Log: a.log})
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "`HOST:PORT` to listen on; port 0 is a free one")
	cmd.Flags().StringVar(&data, "data", "", "keep data in `DIR` (default below the state directory)")
	f.bind(cmd.Flags())
	return cmd
}

func (a *app) dev(ctx context.Context, stop <-chan struct{}, cfg embedded.Config) error {
	begin, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	node, err := embedded.Start(begin, cfg)
	if errors.Is(context.Cause(ctx), errSignal) && err != nil {
		return nil
	}
	if err != nil {
		return devError(err, cfg)
	}
	fmt.Fprintf(a.stdout, "ready %s\n", node.URL())
	<-ctx.Done()
	// Work drains for its own time, then has its stop order; a second signal ends the wait.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Worker.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-end.Done():
		}
	}()
	return node.Close(end)
}

// devError says what to do about what is usual.
func devError(err error, cfg embedded.Config) error {
	switch {
	case errors.Is(err, embedded.ErrInUse):
		return fmt.Errorf("%w (--data)", err)
	case strings.Contains(err.Error(), "address already in use"):
		return fmt.Errorf("%w: end what listens on %s, or name another address with --listen", err, cfg.Listen)
	}
	return err
}

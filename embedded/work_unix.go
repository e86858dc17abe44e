//go:build linux || darwin

package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/standard"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/worker"
)

// Work runs a worker in this process on two connections to a server: control for
// what must not wait, data for output. It makes the streams that are missing, and
// works until ctx ends; then it drains and returns nil. A server that does not
// answer is waited for. The caller closes the connections afterwards.
//
// See Re-execution in the package documentation.
func Work(ctx context.Context, control, data *nats.Conn, cfg WorkerConfig) error {
	if cfg.WorkDir == "" {
		dir, err := StateDir()
		if err != nil {
			return err
		}
		cfg.WorkDir = filepath.Join(dir, "work")
	}
	cfg.Slots = cmp.Or(cfg.Slots, runtime.NumCPU())
	runners := cfg.runners()
	runners.Manual = queue.NewManual(data, queue.Topology{Prefix: cfg.Prefix})
	runners.Sandboxes = queue.NewSandboxes(data, queue.Topology{Prefix: cfg.Prefix})
	runners.Warn = func(err error) { cfg.Log.Warn().AnErr("err", err).Msg("a runner lacks something") }
	registry, err := standard.Runners(runners)
	if err != nil {
		return err
	}
	defer func() {
		if err := registry.Close(); err != nil {
			cfg.Log.Error().AnErr("err", err).Msg("runners not closed")
		}
	}()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := cfg.once(ctx, control, data, registry)
		if err == nil || ctx.Err() != nil || !passing(err) || control.IsClosed() || data.IsClosed() {
			return err
		}
		event := cfg.Log.Warn().AnErr("err", err)
		if on, _ := control.ConnectedServerJetStream(); !on {
			// Another server may do it for this one, so it is no reason to give up.
			event.Str("hint", "JetStream is not enabled on this server")
		}
		event.Msg("not ready, trying again")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Capabilities says what a worker with cfg could do on this machine: the kinds it would serve, and what its
// runners found out, as in a worker's presence.
func Capabilities(cfg WorkerConfig) (map[string]string, error) {
	registry, err := standard.Runners(cfg.runners())
	if err != nil {
		return nil, err
	}
	able := map[string]string{}
	for _, kind := range registry.Kinds() {
		able[string(kind)] = "yes"
		if !registry.Serves(kind) {
			able[string(kind)] = "not now"
		}
	}
	maps.Copy(able, registry.Capabilities())
	return able, registry.Close()
}

func (cfg WorkerConfig) runners() standard.Config {
	s := standard.Config{
		WorkRoot: cfg.WorkDir, AllowWorkdir: cfg.AllowWorkdir, PassEnv: cfg.PassEnv, DenyEnv: cfg.DenyEnv, Ladder: cfg.Ladder,
		Containers: standard.Containers(cfg.Containers), Slots: cmp.Or(cfg.Slots, runtime.NumCPU()),
		Web: web.Config{
			Allow: cfg.HTTP.Allow, Deny: cfg.HTTP.Deny, Only: cfg.HTTP.Only, CAFile: cfg.HTTP.CAFile, Proxy: cfg.HTTP.Proxy,
			SecretsDir: cfg.HTTP.SecretsDir, SecretsFile: cfg.HTTP.SecretsFile, SecretsEnv: cfg.HTTP.SecretsEnv,
		},
	}
	for _, kind := range cfg.Kinds {
		s.Kinds = append(s.Kinds, contracts.Kind(kind))
	}
	return s
}

// passing reports whether an error of starting may be gone later. What is wrong with a
// worker that has begun, it sees to itself.
func passing(err error) bool {
	return errors.Is(err, queue.ErrUnknown) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

func (cfg WorkerConfig) once(ctx context.Context, control, data *nats.Conn, registry runner.Registry) error {
	topo, err := cfg.ensure(ctx, control)
	if err != nil {
		return err
	}
	js, err := jetstream.New(data)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	var w *worker.Worker
	w, err = worker.New(worker.Conns{Control: control, Data: data}, worker.Config{
		Name: cfg.Name, Pool: cfg.Pool, Slots: cfg.Slots, Labels: cfg.Labels, Version: cfg.Version,
		WorkRoot: cfg.WorkDir, DrainTimeout: cfg.DrainTimeout, MaxDisconnect: cfg.MaxDisconnect, OutputLimit: cfg.OutputLimit, MaxOutputLimit: cfg.MaxOutputLimit, DiskFloor: cfg.DiskFloor,
		Topology: topo, Registry: registry, Log: cfg.Log,
		Files: func(ctx context.Context, tenant string) (worker.Files, error) {
			// Twice as long as results: content that is stored already is not stored again for half of it.
			return artifacts.Open(ctx, js, artifacts.Config{Tenant: tenant, Prefix: topo.Prefix, Replicas: topo.Replicas, TTL: artifacts.TTLFor(topo.Age())})
		},
		Ready: func() {
			if cfg.Ready != nil {
				cfg.Ready(w.Name())
			}
		},
	})
	if err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-cfg.Stop:
			w.Stop()
		case <-over:
		}
	}()
	return w.Run(ctx)
}

package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner/standard"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/worker"
)

// A test binary that is started with one of these is a worker or a submitter; see also responderEnv and watcherEnv.
const (
	childEnv     = "RUNNEL_INTEGRATION_WORKER"
	submitterEnv = "RUNNEL_INTEGRATION_SUBMITTER"
)

type childConfig struct {
	Worker   WorkerConfig
	Topology queue.Topology
	WorkRoot string
}

// Main runs the tests, or, in a child, the worker, submitter, watcher or responder that it is to be.
func Main(m *testing.M) int {
	text, ok := os.LookupEnv(childEnv)
	if text, ok := os.LookupEnv(submitterEnv); ok {
		if err := submitter(text); err != nil {
			fmt.Fprintln(os.Stderr, "submitter child:", err)
			return 1
		}
		return 0
	}
	if text, ok := os.LookupEnv(watcherEnv); ok {
		if err := watcher(text); err != nil {
			fmt.Fprintln(os.Stderr, "watcher child:", err)
			return 1
		}
		return 0
	}
	if url, ok := os.LookupEnv(responderEnv); ok {
		if err := responder(url); err != nil {
			fmt.Fprintln(os.Stderr, "responder child:", err)
			return 1
		}
		return 0
	}
	if !ok {
		code := m.Run()
		if programs.dir != "" {
			_ = os.RemoveAll(programs.dir)
		}
		return code
	}
	os.Unsetenv(childEnv) // jobs inherit nothing of it
	if err := child(text); err != nil {
		fmt.Fprintln(os.Stderr, "worker child:", err)
		return 1
	}
	return 0
}

// child is cmd/worker's start with an ear at the steps.
func child(text string) error {
	// Inherited, not opened: jobs would keep them.
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	var cfg childConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var conns worker.Conns
	for name, nc := range map[string]**nats.Conn{"control": &conns.Control, "data": &conns.Data} {
		opts := append(runnel.ConnectOptions(cfg.Worker.Name+" "+name), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers())
		var err error
		if *nc, err = nats.Connect(cfg.Worker.URL, opts...); err != nil {
			return err
		}
		defer (*nc).Close()
	}
	registry, err := standard.Runners(standard.Config{
		WorkRoot: cfg.WorkRoot, Ladder: cfg.Worker.Ladder, Manual: queue.NewManual(conns.Data, cfg.Topology), Sandboxes: queue.NewSandboxes(conns.Data, cfg.Topology),
		Web: web.Config{Allow: []string{loopback}, SecretsDir: cfg.Worker.SecretsDir},
	})
	if err != nil {
		return err
	}
	defer registry.Close()
	js, err := jetstream.New(conns.Data)
	if err != nil {
		return err
	}
	w, err := worker.New(conns, worker.Config{
		Name: cfg.Worker.Name, Pool: cfg.Worker.Pool, Slots: cfg.Worker.Slots, WorkRoot: cfg.WorkRoot, Topology: cfg.Topology, Registry: registry,
		DrainTimeout: cfg.Worker.DrainTimeout, MaxDisconnect: cfg.Worker.MaxDisconnect, OutputLimit: cfg.Worker.OutputLimit,
		Files: func(ctx context.Context, tenant string) (worker.Files, error) {
			return artifacts.Open(ctx, js, artifacts.Config{Tenant: tenant, Replicas: cfg.Topology.Replicas})
		},
		Log:   zerolog.New(os.Stderr).With().Timestamp().Logger(),
		Ready: func() { fmt.Println("ready", cfg.Worker.Name) },
		Step:  steps(cfg.Worker),
		Clock: wrong(cfg.Worker),
		// A fleet of three has no need to spread it over half a minute.
		OrphansWithin: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// wrong is the worker's clock.
func wrong(cfg WorkerConfig) func() time.Time {
	began := time.Now()
	return func() time.Time {
		now := time.Now()
		if cfg.Jump != 0 && now.Sub(began) > cfg.JumpAfter {
			return now.Add(cfg.Clock + cfg.Jump)
		}
		return now.Add(cfg.Clock)
	}
}

// steps tells the test of the step that it asked for, and waits there until it is let go.
func steps(cfg WorkerConfig) func(queue.Step, string, string) {
	if cfg.At == "" {
		return nil
	}
	out, in := os.NewFile(3, "steps"), bufio.NewReader(os.NewFile(4, "go on"))
	var count atomic.Int64
	return func(step queue.Step, id, run string) {
		if step != cfg.At || !strings.HasPrefix(id, cfg.IDs) || count.Add(1) != int64(max(cfg.Nth, 1)) {
			return
		}
		text, err := json.Marshal(Reached{Step: step, ID: id, Run: run})
		if err != nil {
			return
		}
		_, _ = out.Write(append(text, '\n'))
		_, _ = in.ReadString('\n') // the end of the test lets go too
	}
}

// Package standard lists the runners that come with Runnel, one line each.
package standard

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/http"
	"github.com/runnel-project/runnel/internal/runner/httpasync"
	"github.com/runnel-project/runnel/internal/runner/httpsse"
	"github.com/runnel-project/runnel/internal/runner/manual"
	"github.com/runnel-project/runnel/internal/runner/noop"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
	"github.com/runnel-project/runnel/internal/runner/web"
)

// Config is the worker's policy for its runners. The zero value is a good default.
type Config struct {
	// Kinds are the kinds to serve; none is all of them.
	Kinds []contracts.Kind
	// WorkRoot is the directory in which the worker lays out its workspaces. No working directory
	// may point into it from outside: it would be another run's.
	WorkRoot string
	// AllowWorkdir lists the directories in and under which an absolute working_directory is allowed (E13); none allows none.
	AllowWorkdir []string
	// PassEnv adds globs of names that jobs get from the worker's environment; DenyEnv takes names away,
	// also from what an invocation asks to pass.
	PassEnv, DenyEnv []string
	// Ladder forces a rung of the kill ladder, "cgroup" or "subreaper"; "" is the best that works here.
	Ladder string
	// Containers is the policy of kind container, which is there in programs that import package engine.
	Containers Containers
	// Web says whom the HTTP kinds may call, and where their secrets are.
	Web web.Config

	// client is the one of all HTTP kinds, opened by the first.
	client func() (*web.Client, error)
	// Manual carries the messages of kind manual; nil is none: such work cannot be run then.
	Manual manual.Exchange
	// Sandboxes brings commands to the sandboxes that are open; nil is none: such work is rejected then.
	Sandboxes Sandboxes
	// Slots is how many runs the worker has at once.
	Slots int
	// Warn is told what an operator must mend, beside the runs. It must not block. nil is nobody.
	Warn func(error)
}

// Containers is the worker's policy for containers. The zero value is a good default.
type Containers struct {
	// AllowNetwork lists the engine's networks that work may name beside none and bridge.
	AllowNetwork []string
	// AllowMount lists the directories of the engine's machine at and under which work may mount.
	AllowMount []string
	// MaxMemory (bytes), MaxCPUs and MaxPIDs cap what work may ask for; 0 is what the machine has, and 32768.
	MaxMemory int64
	MaxCPUs   float64
	MaxPIDs   int64
	// MaxDisk and MaxDiskFiles bound what work keeps on the disk, where the engine's is this machine's; 0 is 16 GiB and 500,000 files.
	MaxDisk      int64
	MaxDiskFiles int
	// Warm are the images of which containers are kept that have started already, and how many of each: 64 at most, 256 in all.
	Warm map[string]int
	// MaxSetups and MaxSetupBytes bound what is kept of setups, and SetupAge for how long; 0 is 64, 20 GiB and 7 days.
	MaxSetups     int
	MaxSetupBytes int64
	SetupAge      time.Duration
}

// Sandboxes is container.Exchange, which programs without an engine's client do not have.
type Sandboxes interface {
	Serve(tenant, id string, server contracts.SandboxServer) (stop func(), err error)
}

// Add makes a kind known to Runners. It is for the init of a package that a program imports for its sake, as it does a
// database's driver.
func Add(kind contracts.Kind, open func(Config) (runner.Runner, error)) { runners[kind] = open }

// runners makes each runner that there is.
var runners = map[contracts.Kind]func(Config) (runner.Runner, error){
	contracts.KindManual:     func(cfg Config) (runner.Runner, error) { return manual.New(cfg.Manual), nil },
	contracts.KindNoop:       func(Config) (runner.Runner, error) { return noop.Runner{}, nil },
	contracts.KindSubprocess: openSubprocess,
	contracts.KindHTTP:       overHTTP(http.New),
	contracts.KindHTTPAsync:  overHTTP(httpasync.New),
	contracts.KindHTTPSSE:    overHTTP(httpsse.New),
}

// overHTTP makes a runner on the client that all HTTP kinds share.
func overHTTP[R runner.Runner](open func(*web.Client) R) func(Config) (runner.Runner, error) {
	return func(cfg Config) (runner.Runner, error) {
		client, err := cfg.client()
		if err != nil {
			return nil, err
		}
		return open(client), nil
	}
}

func openSubprocess(cfg Config) (runner.Runner, error) {
	return subprocess.New(subprocess.Config{
		Ladder: cfg.Ladder, WorkRoot: cfg.WorkRoot, AllowWorkdir: cfg.AllowWorkdir, PassEnv: cfg.PassEnv, DenyEnv: cfg.DenyEnv,
	})
}

// Kinds returns every kind that Runners can serve, sorted.
func Kinds() []contracts.Kind {
	var kinds []contracts.Kind
	for kind := range runners {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	return kinds
}

// Runners makes the runners of cfg.Kinds. The caller closes the registry after the last run.
// An unknown kind and a runner that cannot work here are errors.
func Runners(cfg Config) (runner.Registry, error) {
	kinds := cfg.Kinds
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	cfg.client = sync.OnceValues(func() (*web.Client, error) { return web.Open(cfg.Web) })
	if cfg.Web.SecretsEnv != "" {
		cfg.DenyEnv = append(slices.Clone(cfg.DenyEnv), cfg.Web.SecretsEnv+"*") // no process gets what only requests may have
	}
	registry := make(runner.Registry, len(kinds))
	for _, kind := range kinds {
		open, ok := runners[kind]
		if !ok {
			registry.Close()
			return nil, fmt.Errorf("no runner for kind %q: this build has %v", kind, Kinds())
		}
		if registry[kind] != nil {
			continue
		}
		next, err := open(cfg)
		if err != nil {
			registry.Close()
			return nil, fmt.Errorf("open runner %s: %w", kind, err)
		}
		registry[kind] = next
	}
	return registry, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/embedded/settings"
)

// workerFlags describe a worker.
type workerFlags struct {
	cfg       embedded.WorkerConfig
	labels    []string
	warm      []string
	diskFloor settings.Size
	output    settings.Size
	maxOutput settings.Size
	memory    settings.Size
	setupDisk settings.Size
	disk      settings.Size
}

func (f *workerFlags) bind(fs *pflag.FlagSet) {
	c := &f.cfg
	fs.StringVar(&c.Name, "name", "", "`NAME`, unique in the fleet (default the host's and eight characters)")
	fs.StringVar(&c.Pool, "pool", runnel.DefaultPool, "`NAME` of the set of workers that it belongs to")
	fs.StringSliceVar(&c.Kinds, "kinds", nil, "serve only these kinds: `a,b`")
	fs.IntVar(&c.Slots, "slots", 0, "run `N` at once (default one for each processor)")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "`KEY=VALUE` to show with the worker (repeatable)")
	fs.StringVar(&c.Prefix, "prefix", "runnel", "`NAME` of the fleet: first word of its subjects and streams")
	fs.IntVar(&c.Replicas, "replicas", 0, "how many servers keep streams that are made: `N` (default 3 on a cluster, else 1)")
	fs.StringVar(&c.WorkDir, "work-dir", "", "make workspaces below `DIR` (default below the state directory)")
	fs.StringArrayVar(&c.AllowWorkdir, "allow-workdir", nil, "let work start in `DIR` or below it (repeatable)")
	fs.StringArrayVar(&c.PassEnv, "pass-env", nil, "pass variables that match `GLOB` on to work (repeatable)")
	fs.StringArrayVar(&c.DenyEnv, "deny-env", nil, "never pass variables that match `GLOB` on (repeatable)")
	fs.StringVar(&c.Ladder, "ladder", "", "how to end processes: cgroup or subreaper (default the best that works here)")
	fs.StringArrayVar(&c.HTTP.Allow, "http-allow", nil, "let requests go to a `NETWORK` that is not public, as 10.0.0.0/8 (repeatable)")
	fs.StringArrayVar(&c.HTTP.Deny, "http-deny", nil, "let no request go to a `NETWORK` or host (repeatable)")
	fs.StringArrayVar(&c.HTTP.Only, "http-only", nil, "let requests go to a `HOST` and below it only (repeatable)")
	fs.StringVar(&c.HTTP.CAFile, "http-ca", "", "trust the certificates in `FILE` (PEM) besides the system's")
	fs.StringVar(&c.HTTP.Proxy, "http-proxy", "", "send requests through the proxy at `URL`; that of the environment is not used")
	fs.StringVar(&c.HTTP.SecretsDir, "secrets-dir", "", "`DIR` with a file for each secret that requests may name")
	fs.StringVar(&c.HTTP.SecretsFile, "secrets-file", "", "`FILE` with a line NAME=value for each secret")
	fs.StringVar(&c.HTTP.SecretsEnv, "secrets-env", "", "take secrets from variables that begin with `PREFIX`; no work is passed them")
	fs.StringArrayVar(&c.Containers.AllowNetwork, "container-network", nil, "let containers be in the engine's network `NAME`, host is one (repeatable; none and bridge are allowed)")
	fs.StringArrayVar(&c.Containers.AllowMount, "container-mount", nil, "let containers mount `DIR` of the engine's machine and what is below it (repeatable)")
	fs.Var(&f.memory, "container-memory", "let a container have so much memory: `SIZE` (default what the machine has)")
	fs.Float64Var(&c.Containers.MaxCPUs, "container-cpus", 0, "let a container have so many processors: `N` (default what the machine has)")
	fs.Int64Var(&c.Containers.MaxPIDs, "container-pids", 0, "let a container have so many processes and threads: `N` (default 32768)")
	fs.Var(&f.disk, "container-disk", "let a container keep so much on the disk: `SIZE` (default 16GiB)")
	fs.IntVar(&c.Containers.MaxDiskFiles, "container-files", 0, "let a container keep so many files on the disk: `N` (default 500000)")
	fs.StringArrayVar(&f.warm, "warm", nil, "keep containers that have started: `IMAGE=N` of it, for work that asks for a warm one (repeatable)")
	fs.IntVar(&c.Containers.MaxSetups, "container-setups", 0, "keep the images that `N` setups left, the last used (default 64)")
	fs.Var(&f.setupDisk, "container-setup-disk", "keep so much of what setups left: `SIZE` (default 20GiB)")
	fs.DurationVar(&c.Containers.SetupAge, "container-setup-age", 0, "do a setup anew when what it left is older (default 168h)")
	fs.DurationVar(&c.DrainTimeout, "drain-timeout", 30*time.Second, "how long runs may go on once asked to stop")
	f.output.Bytes, f.maxOutput.Bytes = 64<<20, 1<<30
	fs.Var(&f.output, "output-limit", "keep `SIZE` of a run's output where it is not said")
	fs.Var(&f.maxOutput, "max-output-limit", "keep no more than `SIZE` of it, whatever is asked for")
	f.diskFloor.Bytes = 256 << 20
	fs.Var(&f.diskFloor, "disk-floor", "take no more work while less than `SIZE` is free for it; 0 takes it always")
	fs.DurationVar(&c.MaxDisconnect, "max-disconnect", 5*time.Minute, "end runs when no server has answered for so long")
}

// config checks what the flags say.
func (f *workerFlags) config(a *app) (embedded.WorkerConfig, error) {
	c := f.cfg
	c.Version, c.Log = versionText(), a.log
	if f.output.Bytes == 0 || f.maxOutput.Bytes == 0 {
		return c, errors.New("--output-limit and --max-output-limit: must be more than nothing")
	}
	c.OutputLimit, c.MaxOutputLimit = f.output.Bytes, f.maxOutput.Bytes
	c.DiskFloor, c.Containers.MaxMemory = f.diskFloor.Bytes, f.memory.Bytes
	if c.DiskFloor == 0 {
		c.DiskFloor = -1
	}
	c.Containers.MaxSetupBytes, c.Containers.MaxDisk = f.setupDisk.Bytes, f.disk.Bytes
	for flag, n := range map[string]int{"slots": c.Slots, "replicas": c.Replicas, "container-setups": c.Containers.MaxSetups, "container-files": c.Containers.MaxDiskFiles} {
		if n < 0 {
			return c, fmt.Errorf("--%s %d: must not be negative", flag, n)
		}
	}
	for flag, n := range map[string]float64{
		"container-cpus": c.Containers.MaxCPUs, "container-pids": float64(c.Containers.MaxPIDs),
	} {
		if n < 0 {
			return c, fmt.Errorf("--%s %v: must not be negative", flag, n)
		}
	}
	if age := c.Containers.SetupAge; age < 0 {
		return c, fmt.Errorf("--container-setup-age %s: must not be negative", age)
	}
	for flag, d := range map[string]time.Duration{"drain-timeout": c.DrainTimeout, "max-disconnect": c.MaxDisconnect} {
		if d <= 0 {
			return c, fmt.Errorf("--%s %s: must be more than nothing", flag, d)
		}
	}
	if err := f.setWarm(&c); err != nil {
		return c, err
	}
	c.Labels = make(map[string]string, len(f.labels))
	for _, item := range f.labels {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return c, fmt.Errorf("--label %q: it is KEY=VALUE", item)
		}
		c.Labels[key] = value
	}
	return c, nil
}

func (f *workerFlags) setWarm(c *embedded.WorkerConfig) error {
	for _, item := range f.warm {
		image, text, ok := strings.Cut(item, "=")
		n, err := strconv.Atoi(text)
		if !ok || image == "" || err != nil || n < 1 {
			return fmt.Errorf("--warm %q: it is IMAGE=N, with N at least 1", item)
		}
		if _, twice := c.Containers.Warm[image]; twice {
			return fmt.Errorf("--warm %s: it is there twice", image)
		}
		if c.Containers.Warm == nil {
			c.Containers.Warm = map[string]int{}
		}
		c.Containers.Warm[image] = n
	}
	return nil
}

func newStart(a *app) *cobra.Command {
	var f workerFlags
	var conn settings.Connection
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run a worker until it is asked to stop",
		Long: `start runs a worker. Once it has asked for work it prints "ready NAME" on standard output,
and nothing else. A server that is not there is waited for.

SIGTERM and SIGINT drain it: it takes no more, lets its runs finish for --drain-timeout,
hands back what is left, and exits 0. A second signal does not wait.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(a)
			if err != nil {
				return err
			}
			ctx, stop, done := a.stopping(cmd.Context())
			defer done()
			cfg.Stop = stop
			cfg.Ready = func(name string) {
				fmt.Fprintf(a.stdout, "ready %s\n", name)
				a.log.Info().Str("worker", name).Str("pool", cfg.Pool).Msg("ready")
			}
			return a.start(ctx, conn, cfg)
		},
	}
	conn.Flags(cmd.Flags())
	f.bind(cmd.Flags())
	return cmd
}

func (a *app) start(ctx context.Context, conn settings.Connection, cfg embedded.WorkerConfig) error {
	target, err := conn.Resolve()
	if err != nil {
		return err
	}
	var conns []*nats.Conn
	defer func() {
		for _, nc := range conns {
			nc.Close()
		}
	}()
	for _, name := range []string{"worker control", "worker data"} {
		nc, err := a.dial(ctx, target, name)
		if errors.Is(context.Cause(ctx), errSignal) && err != nil {
			return nil // there is nothing to drain
		}
		if err != nil {
			return err
		}
		conns = append(conns, nc)
	}
	return embedded.Work(ctx, conns[0], conns[1], cfg)
}

// dial waits for a server as long as it takes, and says so now and then.
func (a *app) dial(ctx context.Context, target settings.Target, name string) (*nats.Conn, error) {
	var last time.Time
	waiting := func(err error) {
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			a.log.Warn().Str("server", target.Shown).AnErr("err", err).Msg("waiting for NATS")
		}
	}
	options := append(runnel.ConnectOptions(name),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				a.log.Warn().Str("conn", name).AnErr("err", err).Msg("disconnected")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			a.log.Info().Str("conn", name).Str("server", nc.ConnectedAddr()).Msg("reconnected")
		}),
	)
	return target.Dial(ctx, waiting, options...)
}

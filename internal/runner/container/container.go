// Package container is the runner that runs a command in a container of its own, on an engine that speaks
// Docker's API (1.41 and later).
//
// A container has no network, a root file system that cannot be written to, no capabilities, an ordinary user and
// limits, unless the invocation asks for more and the worker's policy allows it. Nothing of the worker's environment
// reaches it. Files go in and out through the API, so that the engine may be on another machine.
//
// Everything that a Runner makes carries labels. What a killed worker left behind is found by them and removed, by
// the next Runner on that machine or by one that is there, and never anything of a worker that lives.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/runner"
)

// Config is the worker's policy for containers. The zero value is a good default.
type Config struct {
	// Host is the engine's address, as in DOCKER_HOST; "" is what the environment says.
	Host string
	// WorkRoot is where the lock file is kept that says this worker lives; "" is the system's temporary directory.
	WorkRoot string
	// AllowNetwork lists the networks that an invocation may name beside none and bridge.
	AllowNetwork []string
	// AllowMount lists the absolute paths of the engine's machine at and under which an invocation may mount.
	AllowMount []string
	// Memory, CPUs and PIDs are the limits where an invocation says nothing: 0 is 512 MiB, 1 and 512.
	Memory int64
	CPUs   float64
	PIDs   int64
	// MaxMemory, MaxCPUs and MaxPIDs cap what it may ask for: 0 is what the engine's machine has, and 32768.
	MaxMemory int64
	MaxCPUs   float64
	MaxPIDs   int64
	// MaxFile bounds one file that the work writes; 0 is 4 GiB.
	MaxFile int64
	// MaxDisk and MaxDiskFiles bound what the work keeps on the disk, where the engine's is this machine's; 0 is 16 GiB and 500,000 files.
	MaxDisk      int64
	MaxDiskFiles int
	// MaxOut and MaxOutFiles bound what is taken out of one container; 0 is 16 GiB and 100,000.
	MaxOut      int64
	MaxOutFiles int
	// PullTimeout bounds one pull, PullStall the time in it without progress; 0 is 10 minutes and 60 s.
	PullTimeout, PullStall time.Duration
	// MaxSetups and MaxSetupBytes bound what is kept of setups, and SetupAge for how long: 0 is 64, 20 GiB and 7 days.
	MaxSetups     int
	MaxSetupBytes int64
	SetupAge      time.Duration
	// Sandboxes brings their callers to the sandboxes that are open; nil is none: such work is rejected then.
	Sandboxes Exchange
	// Slots is how many runs the worker has at once, for what Capabilities says of sandboxes; 0 says nothing.
	Slots int
	// Warm are the images of which containers are kept that have started already: see Warm.
	Warm []Warm
	// Warn is told what an operator must mend, beside the runs. It must not block, nor call the Runner. nil is nobody.
	Warn func(error)
	// WarmJobs and WarmAge are how many jobs one of these runs, and how long it lives: 0 is 100 and 10 minutes.
	WarmJobs int
	WarmAge  time.Duration
	// DockerConfig is the directory with the registries' credentials; "" is DOCKER_CONFIG, else ~/.docker.
	DockerConfig string

	relayed bool // in tests: no output is read straight from its pipe
}

func (c Config) withDefaults() (Config, error) {
	for _, dir := range c.AllowMount {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("allowed mount %q: must be an absolute path", dir)
		}
	}
	if err := checkWarm(c.Warm); err != nil {
		return c, err
	}
	fill(&c.Memory, 512<<20)
	fill(&c.CPUs, 1)
	fill(&c.PIDs, 512)
	fill(&c.MaxPIDs, 32768)
	fill(&c.MaxFile, 4<<30)
	fill(&c.MaxDisk, 16<<30)
	fill(&c.MaxDiskFiles, 500_000)
	fill(&c.MaxOut, 16<<30)
	fill(&c.MaxOutFiles, 100_000)
	fill(&c.MaxSetups, 64)
	fill(&c.MaxSetupBytes, 20<<30)
	fill(&c.SetupAge, 7*24*time.Hour)
	fill(&c.WarmJobs, 100)
	fill(&c.WarmAge, 10*time.Minute)
	fill(&c.PullTimeout, 10*time.Minute)
	fill(&c.PullStall, time.Minute)
	if c.WorkRoot == "" {
		c.WorkRoot = os.TempDir()
	}
	if c.DockerConfig == "" {
		c.DockerConfig = os.Getenv("DOCKER_CONFIG")
	}
	if c.DockerConfig == "" {
		if home, err := os.UserHomeDir(); err == nil {
			c.DockerConfig = filepath.Join(home, ".docker")
		}
	}
	return c, nil
}

// fill sets what is zero.
func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Runner runs containers. Close it after the last run.
type Runner struct {
	cfg    Config
	api    *client.Client
	owner  *owner
	pulls  shared[*pull]
	setups shared[*made]
	pool   *pool

	stop  context.CancelFunc
	watch sync.WaitGroup
	boxes atomic.Int64 // open sandboxes

	mu     sync.Mutex
	engine *engine // nil while none answers
	why    error   // why none answers
	// relayed is why the output of warm containers and sandboxes comes through the engine; nil: it is read straight from its pipes.
	relayed error
	ours    map[string]bool
	closed  bool
}

// New returns a Runner that uses the engine when there is one: an engine that does not answer is no error, see
// Available. A configuration that cannot work is one.
func New(cfg Config) (*Runner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	options := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if cfg.Host != "" {
		options = append(options, client.WithHost(cfg.Host))
	}
	api, err := client.NewClientWithOpts(options...)
	if err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	r := &Runner{cfg: cfg, api: api, ours: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.look(ctx)
	r.pool = newPool(r)
	r.watch.Go(func() { r.keep(ctx) })
	r.watch.Go(func() { r.pool.keep(ctx) })
	return r, nil
}

// Available reports whether an engine answers: while none does, the kind is not served.
func (r *Runner) Available() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine != nil
}

// Close forgets the engine, and gives up the lock: what is left of this Runner may be removed by others. It may be
// called twice.
func (r *Runner) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return nil
	}
	r.stop()
	r.watch.Wait()
	r.pulls.wait()
	r.setups.wait()
	r.pool.close()
	err := r.tidy()
	return errors.Join(err, r.owner.close(), r.api.Close())
}

// Check that the optional interfaces are kept.
var (
	_ runner.Capable = (*Runner)(nil)
	_ runner.Fickle  = (*Runner)(nil)
	_ runner.Resumer = (*Runner)(nil)
	_ io.Closer      = (*Runner)(nil)
)

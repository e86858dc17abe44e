package embedded

import (
	"time"

	"github.com/rs/zerolog"
)

// WorkerConfig describes a worker. The zero value serves everything that this
// build can run, as many at once as there are processors.
type WorkerConfig struct {
	// Name is unique in the fleet; "" is made of the host's name and eight random characters.
	Name string
	// Pool is the set of workers that it belongs to; "" is "default".
	Pool string
	// Kinds are the kinds to serve; none is all of them.
	Kinds []string
	// Slots is how many runs it has at once; 0 is one for each processor.
	Slots int
	// Labels are shown with the worker.
	Labels map[string]string
	// Prefix names the fleet; "" is "runnel".
	Prefix string
	// Replicas is how many servers keep streams that are made; 0 is 3 on a cluster, else 1.
	Replicas int
	// WorkDir is where workspaces are made, each worker in a directory of its own; "" is below
	// the Node's data, or for a worker without a Node in the account's state directory.
	WorkDir string
	// AllowWorkdir lists the directories in and below which an invocation may name an absolute working directory.
	AllowWorkdir []string
	// PassEnv adds globs of variables that work gets from this process's environment; DenyEnv takes names
	// away, also from what an invocation asks for.
	PassEnv, DenyEnv []string
	// Ladder forces a way of ending the work's processes, "cgroup" or "subreaper"; "" is the best that works here.
	Ladder string
	// HTTP says whom the kinds http, http_async and http_sse may call, and where their secrets are.
	HTTP HTTPConfig
	// Containers is the policy of kind container. Only Runnel's own worker serves that kind.
	Containers ContainerConfig
	// DrainTimeout is how long runs may go on once the worker is asked to stop; 0 is 30 s.
	DrainTimeout time.Duration
	// MaxDisconnect ends runs when no server has answered for so long; 0 is 5 minutes.
	MaxDisconnect time.Duration
	// OutputLimit is how many bytes of a run's output are kept where the invocation does not say; 0 is 64 MiB.
	OutputLimit int64
	// MaxOutputLimit caps what an invocation may ask for; 0 is 1 GiB. What asks for more is run with that, and a warning.
	MaxOutputLimit int64
	// DiskFloor is how many bytes must be free for WorkDir: with less the worker takes no more work, and what runs goes on. 0
	// is 256 MiB, a negative one none.
	DiskFloor int64
	// Version is shown with the worker.
	Version string
	// Ready is called with the worker's name once it has asked for work; nil is nobody.
	Ready func(name string)
	// Stop cuts a drain short when it is closed; nil never does.
	Stop <-chan struct{}
	// Log takes the worker's log; the zero value drops it.
	Log zerolog.Logger
}

// HTTPConfig is a worker's policy for requests. With the zero value public addresses may be called, and there are no secrets.
type HTTPConfig struct {
	// Allow opens networks (as 10.0.0.0/8) and addresses that are refused otherwise: loopback, link-local, private, shared,
	// multicast and reserved ones.
	Allow []string
	// Deny refuses networks and hosts, with all that is below them; it goes before everything else.
	Deny []string
	// Only lists the hosts that may be called, with all that is below them; none is every one.
	Only []string
	// CAFile has certificates (PEM) that are trusted besides those of the system.
	CAFile string
	// Proxy is the URL of a proxy that every request goes through; "" is none, whatever the environment says. Names are still
	// looked up and judged by the worker, but it is the proxy that connects: it has to hold the policy too.
	Proxy string
	// SecretsDir has a file for each secret, SecretsFile a line NAME=value; SecretsEnv begins the names of variables,
	// which no work is passed. They are asked in this order.
	SecretsDir, SecretsFile, SecretsEnv string
}

// ContainerConfig is a worker's policy for containers. The zero value is a good default.
type ContainerConfig struct {
	// AllowNetwork lists the engine's networks that work may name beside none and bridge.
	AllowNetwork []string
	// AllowMount lists the directories of the engine's machine at and under which work may mount.
	AllowMount []string
	// MaxMemory (bytes), MaxCPUs and MaxPIDs cap what work may ask for; 0 is what the engine's machine has, and 32768.
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

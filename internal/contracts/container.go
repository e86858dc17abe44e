package contracts

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Container says in what an invocation of kind container runs. Left out, everything is at its strictest: no
// network, a root file system that cannot be written to, an ordinary user, and the worker's limits.
type Container struct {
	// Image names what it is made of, as for docker run: [HOST[:PORT]/]NAME[:TAG][@DIGEST], or an image id.
	Image string `json:"image"`
	// Entrypoint replaces the image's; the command follows it. Empty keeps the image's.
	Entrypoint []string `json:"entrypoint,omitempty"`
	// User is UID, UID:GID, or names that the image knows; "" is 1000:1000 (S24).
	User string `json:"user,omitempty"`
	// Network is none, bridge, host, or the name of a network of the engine; "" is none. Workers allow none and
	// bridge unless they are told otherwise.
	Network string `json:"network,omitempty"`
	// Ports are published on a free port of the engine's loopback address: 8080, 53/udp. The result's metadata
	// says where, under container.port.8080/tcp (S22).
	Ports []string `json:"ports,omitempty"`
	// MemoryBytes bounds memory, swap included; 0 is the worker's default.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	// CPUs bounds processor time, in processors; 0 is the worker's default.
	CPUs float64 `json:"cpus,omitempty"`
	// PIDs bounds processes and threads; 0 is the worker's default.
	PIDs int64 `json:"pids,omitempty"`
	// DiskBytes bounds what the work keeps on the disk, in its workspace and among its artifacts, and in the image's file system if
	// that is writable; 0 is the worker's default. Where the worker cannot see the engine's disk nothing bounds it.
	DiskBytes int64 `json:"disk_bytes,omitempty"`
	// WritableRoot lets the work write to the image's file system; what it writes is gone afterwards.
	WritableRoot bool `json:"writable_root,omitempty"`
	// Tmpfs are directories in memory, counted as memory. /tmp is always one, of 64 MiB unless it is listed.
	Tmpfs []Tmpfs `json:"tmpfs,omitempty"`
	// Mounts are directories and files of the engine's machine, under the worker's policy (S21).
	Mounts []Mount `json:"mounts,omitempty"`
	// Platform chooses among the images of a name: linux/arm64; "" is the engine's.
	Platform string `json:"platform,omitempty"`
	// Pull says when the image is fetched: missing, always or never; "" is missing.
	Pull Pull `json:"pull,omitempty"`
	// NoInit runs the command as process 1 itself, without an init that reaps and passes on signals.
	NoInit bool `json:"no_init,omitempty"`
	// Warm asks for a container that has started already and is used again, which takes milliseconds. Where the worker
	// has none that fits, or the work is not fit for one, it gets a fresh one; the result's metadata says so under container.warm.
	Warm bool `json:"warm,omitempty"`
	// Setup is done to the image before the command runs; nil is nothing.
	Setup *Setup `json:"setup,omitempty"`
	// Sandbox has it stay open for commands that are asked for later; nil is one command, the invocation's.
	Sandbox *Sandbox `json:"sandbox,omitempty"`
}

// Tmpfs is a directory in memory.
type Tmpfs struct {
	// Path is an absolute one of the container.
	Path string `json:"path"`
	// SizeBytes bounds it; 0 is 64 MiB.
	SizeBytes int64 `json:"size_bytes,omitempty"`
}

// Mount is a directory or file of the engine's machine, seen from inside of a container.
type Mount struct {
	// Source is an absolute path of the engine's machine, Target one of the container.
	Source string `json:"source"`
	Target string `json:"target"`
	// Writable lets the work write to it.
	Writable bool `json:"writable,omitempty"`
}

// Pull says when an image is fetched.
type Pull string

// The ways to fetch an image.
const (
	PullMissing Pull = "missing" // if the engine does not have it
	PullAlways  Pull = "always"  // every time: a tag may have moved
	PullNever   Pull = "never"   // what is not there is a failure
)

// Pulls returns every way to fetch an image.
func Pulls() []Pull { return []Pull{PullMissing, PullAlways, PullNever} }

// Where the work of a container finds its directories.
const (
	ContainerRoot      = "/runnel" // nothing may be mounted on it or below
	ContainerWorkspace = ContainerRoot + "/workspace"
	ContainerArtifacts = ContainerRoot + "/artifacts"
)

// Caps of a container that Validate checks.
const (
	MaxImageBytes      = 512
	MaxContainerItems  = 64      // ports, tmpfs and mounts, each
	MinContainerMemory = 6 << 20 // what engines take at least
	MaxCPUs            = 4096
	MaxPIDs            = 4 << 20
)

var (
	imagePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@+-]*$`)
	userPattern     = regexp.MustCompile(`^([0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63})(:([0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63}))?$`)
	networkPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	portPattern     = regexp.MustCompile(`^([0-9]{1,5})(/(tcp|udp))?$`)
	platformPattern = regexp.MustCompile(`^[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[a-z0-9.]{1,32})?$`)
)

func (p *problems) container(inv Invocation) {
	c := inv.Container
	switch {
	case c == nil && inv.Kind == KindContainer:
		p.add("container", "must not be absent for kind %s: it names the image", inv.Kind)
		return
	case c == nil:
		return
	case inv.Kind != KindContainer:
		p.add("container", "goes with kind %s only", KindContainer)
	}
	if len(c.Image) > MaxImageBytes || !imagePattern.MatchString(c.Image) {
		p.add("container.image", "%s is not the name of an image, of at most %d bytes", quote(c.Image), MaxImageBytes)
	}
	p.texts("container.entrypoint", c.Entrypoint, MaxMessageBytes)
	if len(c.Entrypoint) > 0 && c.Entrypoint[0] == "" {
		p.add("container.entrypoint[0]", "must not be empty: it names the program")
	}
	p.user("container.user", c.User)
	p.pattern("container.network", c.Network, networkPattern, "is not the name of a network")
	p.pattern("container.platform", c.Platform, platformPattern, "is not OS/ARCHITECTURE[/VARIANT]")
	if c.Pull != "" && !slices.Contains(Pulls(), c.Pull) {
		p.add("container.pull", "%s is not missing, always or never", quote(string(c.Pull)))
	}
	p.within("container.memory_bytes", float64(c.MemoryBytes), MinContainerMemory, 1<<62)
	p.within("container.disk_bytes", float64(c.DiskBytes), 1<<20, 1<<62)
	p.within("container.cpus", c.CPUs, 0.01, MaxCPUs)
	p.within("container.pids", float64(c.PIDs), 1, MaxPIDs)
	p.ports(c)
	p.places(c)
	p.setup(c.Setup)
	p.sandbox(inv)
}

// user checks who something runs as, where that is said.
func (p *problems) user(field, user string) {
	p.pattern(field, user, userPattern, "is not UID, UID:GID or names")
	for _, part := range strings.Split(user, ":") {
		if n, err := strconv.ParseUint(part, 10, 64); err == nil && n >= math.MaxInt32 {
			p.add(field, "%s is beyond what an id may be", quote(part))
		}
	}
}

// pattern checks a text that may be empty.
func (p *problems) pattern(field, s string, want *regexp.Regexp, problem string) {
	if s != "" && !want.MatchString(s) {
		p.add(field, "%s %s", quote(s), problem)
	}
}

// within checks a number that may be 0.
func (p *problems) within(field string, n, least, most float64) {
	if n != 0 && !(n >= least && n <= most) {
		p.add(field, "%v is not within %v to %v", n, least, most)
	}
}

func (p *problems) ports(c *Container) {
	p.atMost("container.ports", len(c.Ports))
	if len(c.Ports) > 0 && (c.Network == "" || c.Network == "none" || c.Network == "host") {
		p.add("container.ports", "need a network of the container's own: name one in container.network, bridge for example")
	}
	seen := map[string]bool{}
	for i, port := range c.Ports {
		field := fmt.Sprintf("container.ports[%d]", i)
		m := portPattern.FindStringSubmatch(port)
		if m == nil {
			p.add(field, "%s is not a port: 8080, 8080/tcp or 53/udp", quote(port))
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n < 1 || n > math.MaxUint16 {
			p.add(field, "%s is not within 1 to %d", m[1], math.MaxUint16)
		}
		if name := PortName(port); seen[name] {
			p.add(field, "%s is there twice", quote(name))
		} else {
			seen[name] = true
		}
	}
}

// PortName returns the full form of a port: 8080 is 8080/tcp.
func PortName(port string) string {
	if strings.Contains(port, "/") {
		return port
	}
	return port + "/tcp"
}

// places checks what is mounted: by the place inside, so that the same source may be there twice (S21).
func (p *problems) places(c *Container) {
	p.atMost("container.tmpfs", len(c.Tmpfs))
	p.atMost("container.mounts", len(c.Mounts))
	seen := map[string]bool{}
	place := func(field, target string) {
		p.absolute(field, target)
		switch {
		case target == "/":
			p.add(field, "must not be the root")
		case target == ContainerRoot || strings.HasPrefix(target, ContainerRoot+"/"):
			p.add(field, "%s is within %s, which is Runnel's own", quote(target), ContainerRoot)
		case seen[target]:
			p.add(field, "%s is there twice", quote(target))
		}
		seen[target] = true
	}
	for i, t := range c.Tmpfs {
		place(fmt.Sprintf("container.tmpfs[%d].path", i), t.Path)
		p.within(fmt.Sprintf("container.tmpfs[%d].size_bytes", i), float64(t.SizeBytes), 4096, 1<<62)
	}
	for i, m := range c.Mounts {
		p.absolute(fmt.Sprintf("container.mounts[%d].source", i), m.Source)
		place(fmt.Sprintf("container.mounts[%d].target", i), m.Target)
	}
}

func (p *problems) atMost(field string, n int) {
	if n > MaxContainerItems {
		p.add(field, "are %d, more than %d", n, MaxContainerItems)
	}
}

// absolute checks a path that ends up among the options of a mount, where ',' and ':' part one from the next.
func (p *problems) absolute(field, s string) {
	p.text(field, s, MaxPathBytes)
	if !strings.HasPrefix(s, "/") || path.Clean(s) != s || strings.ContainsAny(s, ",:") {
		p.add(field, "%s is not an absolute path without '.', '..', ',' and ':'", quote(s))
	}
}

// size returns no less than what c adds to an encoding, beside its invocation's own part.
func (c *Container) size() int {
	if c == nil {
		return 0
	}
	n := 512 + len(c.Image) + len(c.User) + len(c.Network) + len(c.Platform) + len(c.Pull)
	for _, list := range [][]string{c.Entrypoint, c.Ports} {
		for _, s := range list {
			n += len(s) + 5
		}
	}
	for _, t := range c.Tmpfs {
		n += len(t.Path) + 48
	}
	for _, m := range c.Mounts {
		n += len(m.Source) + len(m.Target) + 48
	}
	return n + c.Setup.size()
}

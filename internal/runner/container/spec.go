package container

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-connections/nat"
	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

const (
	defaultUser  = "1000:1000" // S24
	defaultTmpfs = 64 << 20
	loopback     = "127.0.0.1"
)

// spec is what the engine is asked for.
type spec struct {
	name     string
	config   container.Config
	host     container.HostConfig
	platform *ocispec.Platform
	kept     bool     // the image is one that a setup left, which others may remove
	dir      string   // where the work starts
	disk     int64    // how many bytes the work may keep on the disk
	dirs     []string // below the workspace, made before the work begins
}

// spec turns an invocation into what the engine is asked for, or rejects what the worker's policy does not allow.
func (r *Runner) spec(job runner.Job, e *engine) (*spec, error) {
	c := job.Container
	if c == nil {
		return nil, runner.Reject(contracts.ReasonBadInvocation, "container: must not be absent for kind %s", job.Kind)
	}
	if len(job.EnvironmentPass) > 0 {
		return nil, runner.Reject(contracts.ReasonBadInvocation,
			"environment_pass: a container gets nothing of the worker's environment; set what it needs in environment")
	}
	if c.Sandbox != nil && r.cfg.Sandboxes == nil {
		return nil, runner.Reject(contracts.ReasonNoRunner, "container.sandbox: this worker opens none")
	}
	s := &spec{name: "runnel-" + job.Run, platform: platform(c.Platform)}
	dir, err := s.workdir(job.WorkingDirectory)
	if err != nil {
		return nil, err
	}
	s.dir = dir
	labels := r.owner.labels()
	maps.Copy(labels, map[string]string{labelInvocation: job.ID, labelTenant: job.Tenant, labelRun: job.Run})
	s.config = container.Config{
		Image: c.Image, Entrypoint: c.Entrypoint, Cmd: job.Command, User: user(c), Env: environment(job), WorkingDir: dir,
		AttachStdout: true, AttachStderr: true, AttachStdin: job.Stdin != nil, OpenStdin: job.Stdin != nil, StdinOnce: job.Stdin != nil,
		Labels: labels,
		// A health check of the image's would run a second process, on a timer.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	limits, err := r.limits(c, e)
	if err != nil {
		return nil, err
	}
	if s.disk = cmp.Or(c.DiskBytes, r.cfg.MaxDisk); s.disk > r.cfg.MaxDisk {
		return nil, runner.Reject(contracts.ReasonNotAllowed, "container.disk_bytes %d: this worker allows %d", s.disk, r.cfg.MaxDisk)
	}
	network, err := r.network(c)
	if err != nil {
		return nil, err
	}
	mounts, err := r.mounts(c)
	if err != nil {
		return nil, err
	}
	s.host = container.HostConfig{
		NetworkMode: network, ReadonlyRootfs: !c.WritableRoot, CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		Resources: limits, Tmpfs: tmpfs(c), Mounts: append(mounts, workVolume(labels)), Init: new(!c.NoInit),
		IpcMode: container.IPCModePrivate, LogConfig: container.LogConfig{Type: "none"},
	}
	s.publish(c)
	if c.Sandbox != nil {
		hosting(&s.config, &s.host)
	}
	return s, nil
}

func user(c *contracts.Container) string {
	if c.User == "" {
		return defaultUser
	}
	return c.User
}

// workdir returns where the work starts. A directory of the workspace is made in it, any other is the image's.
func (s *spec) workdir(dir string) (string, error) {
	switch {
	case dir == "":
		return contracts.ContainerWorkspace, nil
	case strings.ContainsRune(dir, 0):
		return "", runner.Reject(contracts.ReasonBadInvocation, "working_directory: must not hold a NUL byte")
	case path.IsAbs(dir):
		return path.Clean(dir), nil
	case !filepath.IsLocal(dir):
		return "", runner.Reject(contracts.ReasonBadInvocation, "working_directory %q: leaves the workspace", dir)
	}
	for at := path.Clean(dir); at != "."; at = path.Dir(at) {
		s.dirs = append(s.dirs, at)
	}
	slices.Reverse(s.dirs)
	return path.Join(contracts.ContainerWorkspace, dir), nil
}

// environment returns the variables that are set over the image's own. Nothing of the worker's is among them.
func environment(job runner.Job) []string {
	vars := map[string]string{"HOME": contracts.ContainerWorkspace, "TMPDIR": "/tmp"}
	maps.Copy(vars, job.Environment)
	vars["RUNNEL_INVOCATION_ID"] = job.ID
	vars["RUNNEL_ATTEMPT"] = strconv.Itoa(job.Attempt)
	vars["RUNNEL_WORKSPACE"] = contracts.ContainerWorkspace
	vars["RUNNEL_ARTIFACTS"] = contracts.ContainerArtifacts
	list := make([]string, 0, len(vars))
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// limits returns what bounds the work, or rejects what is asked for beyond the worker's caps.
func (r *Runner) limits(c *contracts.Container, e *engine) (container.Resources, error) {
	most := r.cfg
	fill(&most.MaxMemory, e.info.MemTotal)
	fill(&most.MaxCPUs, float64(e.info.NCPU))
	// A default never asks for more than there is.
	memory, cpus, pids := min(most.Memory, most.MaxMemory), min(most.CPUs, most.MaxCPUs), min(most.PIDs, most.MaxPIDs)
	if c.MemoryBytes != 0 {
		memory = c.MemoryBytes
	}
	if c.CPUs != 0 {
		cpus = c.CPUs
	}
	if c.PIDs != 0 {
		pids = c.PIDs
	}
	switch {
	case memory > most.MaxMemory:
		return container.Resources{}, runner.Reject(contracts.ReasonNotAllowed, "container.memory_bytes %d: this worker allows %d", memory, most.MaxMemory)
	case cpus > most.MaxCPUs:
		return container.Resources{}, runner.Reject(contracts.ReasonNotAllowed, "container.cpus %v: this worker allows %v", cpus, most.MaxCPUs)
	case pids > most.MaxPIDs:
		return container.Resources{}, runner.Reject(contracts.ReasonNotAllowed, "container.pids %d: this worker allows %d", pids, most.MaxPIDs)
	}
	limits := container.Resources{
		Ulimits: []*units.Ulimit{
			{Name: "fsize", Soft: most.MaxFile, Hard: most.MaxFile}, {Name: "core"},
		},
	}
	// What the engine cannot do would make it refuse the container: it is among the capabilities instead.
	if e.info.MemoryLimit {
		limits.Memory = memory
		if e.info.SwapLimit {
			limits.MemorySwap = memory
		}
	}
	if e.info.CPUCfsQuota {
		limits.NanoCPUs = int64(math.Round(cpus * 1e9))
	}
	if e.info.PidsLimit {
		limits.PidsLimit = &pids
	}
	return limits, nil
}

func (r *Runner) network(c *contracts.Container) (container.NetworkMode, error) {
	switch name := c.Network; {
	case name == "" || name == "none":
		return "none", nil
	case name == "bridge" || slices.Contains(r.cfg.AllowNetwork, name):
		return container.NetworkMode(name), nil
	default:
		return "", runner.Reject(contracts.ReasonNotAllowed, "container.network %s: this worker does not allow it (it allows none, bridge and %q)", name, r.cfg.AllowNetwork)
	}
}

// mounts returns what of the engine's machine is seen inside. Where a path leads counts, as far as it can be seen
// from here: a link must not lead out of what is allowed.
func (r *Runner) mounts(c *contracts.Container) ([]mount.Mount, error) {
	var list []mount.Mount
	for _, m := range c.Mounts {
		source := path.Clean(m.Source)
		if real, err := filepath.EvalSymlinks(source); err == nil {
			source = real
		}
		if !slices.ContainsFunc(r.cfg.AllowMount, func(dir string) bool { return within(filepath.Clean(dir), source) }) {
			return nil, runner.Reject(contracts.ReasonNotAllowed, "container.mounts: this worker does not allow %s (it allows %q)", m.Source, r.cfg.AllowMount)
		}
		list = append(list, mount.Mount{Type: mount.TypeBind, Source: source, Target: m.Target, ReadOnly: !m.Writable})
	}
	return list, nil
}

// workVolume is what the work's directories are on: it has no name, so that it goes with its container, and labels, so that it is found
// where an engine ended between the two.
func workVolume(labels map[string]string) mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Target: contracts.ContainerRoot, VolumeOptions: &mount.VolumeOptions{Labels: labels}}
}

// within reports whether path is dir or below. Both are clean and absolute.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

func tmpfs(c *contracts.Container) map[string]string {
	options := func(size int64) string {
		if size == 0 {
			size = defaultTmpfs
		}
		// An inode costs memory that no limit of size counts.
		return "rw,nosuid,nodev,mode=1777,size=" + strconv.FormatInt(size, 10) + ",nr_inodes=" + strconv.FormatInt(max(1024, size/4096), 10)
	}
	all := map[string]string{"/tmp": options(0)}
	for _, m := range c.Mounts {
		if m.Target == "/tmp" {
			delete(all, "/tmp")
		}
	}
	for _, t := range c.Tmpfs {
		all[t.Path] = options(t.SizeBytes)
	}
	return all
}

// publish asks for the ports, on a free one of the engine's loopback address.
func (s *spec) publish(c *contracts.Container) {
	for _, port := range c.Ports {
		if s.config.ExposedPorts == nil {
			s.config.ExposedPorts, s.host.PortBindings = nat.PortSet{}, nat.PortMap{}
		}
		p := nat.Port(contracts.PortName(port))
		s.config.ExposedPorts[p] = struct{}{}
		s.host.PortBindings[p] = []nat.PortBinding{{HostIP: loopback}}
	}
}

// addresses returns where the published ports are, by the keys of a result's metadata.
func addresses(ports nat.PortMap) map[string]string {
	found := map[string]string{}
	for port, bindings := range ports {
		for _, b := range bindings {
			if ip, err := netip.ParseAddr(b.HostIP); err == nil && b.HostPort != "" {
				found["container.port."+string(port)] = netip.AddrPortFrom(ip, number(b.HostPort)).String()
			}
		}
	}
	return found
}

func number(port string) uint16 {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func platform(text string) *ocispec.Platform {
	if text == "" {
		return nil
	}
	parts := append(strings.SplitN(text, "/", 3), "", "")
	return &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

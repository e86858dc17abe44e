package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

// containerFlags say in what a container runs. They are named after those of docker run.
type containerFlags struct {
	image, entrypoint, user, network, platform, pull string
	publish, tmpfs, volume                           []string
	memory, disk                                     settings.Size
	cpus                                             float64
	pids                                             int64
	writable, noInit                                 unless
	warm                                             bool
	setup                                            setupFlags
}

func (f *containerFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&f.image, "image", "", "run it in a container of `IMAGE`; the flags below go with it, and are strict unless they say otherwise")
	fs.StringVar(&f.entrypoint, "entrypoint", "", "`PROGRAM` in place of the image's entrypoint")
	fs.StringVarP(&f.user, "user", "u", "", "run as `UID[:GID]`, or names that the image knows (default 1000:1000)")
	fs.StringVar(&f.network, "network", "", "none, bridge or a `NAME` that the worker allows (default none)")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "publish `PORT[/udp]`; the result says where (repeatable)")
	fs.VarP(&f.memory, "memory", "m", "bound memory: `SIZE` (default 512MiB)")
	fs.Var(&f.disk, "disk", "bound what is kept on the disk: `SIZE` (default is the worker's)")
	fs.Float64Var(&f.cpus, "cpus", 0, "bound processor time: `N` processors (default 1)")
	fs.Int64Var(&f.pids, "pids-limit", 0, "bound processes and threads: `N` (default 512)")
	fs.StringArrayVar(&f.tmpfs, "tmpfs", nil, "`PATH[:SIZE]` of a directory in memory; /tmp is one (repeatable)")
	fs.StringArrayVarP(&f.volume, "volume", "v", nil, "`SOURCE:TARGET[:rw]` of the engine's machine, that the worker allows (repeatable)")
	fs.BoolVar(&f.warm, "warm", false, "use a container that has started already, where the worker has one that fits; the result says if it had")
	fs.StringVar(&f.platform, "platform", "", "`OS/ARCHITECTURE` of the image")
	fs.StringVar(&f.pull, "pull", "", "fetch the image: missing, always or never (default missing): `WHEN`")
	fs.VarPF(&f.writable, "read-only", "", "keep the image's file system from being written to").NoOptDefVal = "true"
	fs.VarPF(&f.noInit, "init", "", "run an init that reaps processes and passes on signals").NoOptDefVal = "true"
	f.setup.bind(fs)
}

// unless is a flag that is true unless it is said not to be: it holds whether that was said.
type unless bool

func (u *unless) Type() string { return "bool" }

func (u *unless) String() string { return strconv.FormatBool(!bool(*u)) }

func (u *unless) Set(text string) error {
	v, err := strconv.ParseBool(text)
	*u = unless(!v)
	return err
}

// set puts the container into the invocation, if an image is named.
func (f *containerFlags) set(inv *runnel.Invocation) error {
	c := runnel.Container{
		Image: f.image, User: f.user, Network: f.network, Ports: f.publish, MemoryBytes: f.memory.Bytes, CPUs: f.cpus, PIDs: f.pids, DiskBytes: f.disk.Bytes,
		WritableRoot: bool(f.writable), Platform: f.platform, Pull: runnel.Pull(f.pull), NoInit: bool(f.noInit), Warm: f.warm,
	}
	if f.entrypoint != "" {
		c.Entrypoint = []string{f.entrypoint}
	}
	var errs []error
	for _, item := range f.tmpfs {
		path, text, sized := strings.Cut(item, ":")
		var bytes settings.Size
		if sized {
			if err := bytes.Set(strings.TrimPrefix(text, "size=")); err != nil {
				errs = append(errs, fmt.Errorf("--tmpfs %q: %w", item, err))
			}
		}
		c.Tmpfs = append(c.Tmpfs, runnel.Tmpfs{Path: path, SizeBytes: bytes.Bytes})
	}
	for _, item := range f.volume {
		parts := strings.Split(item, ":")
		if len(parts) < 2 || len(parts) > 3 || len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw" {
			errs = append(errs, fmt.Errorf("--volume %q: it is SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw", item))
			continue
		}
		c.Mounts = append(c.Mounts, runnel.Mount{Source: parts[0], Target: parts[1], Writable: len(parts) == 3 && parts[2] == "rw"})
	}
	var err error
	if c.Setup, err = f.setup.of(); err != nil {
		errs = append(errs, err)
	}
	if f.image == "" {
		if f.given(c) {
			errs = append(errs, errors.New("these flags go with a container: name its image with --image"))
		}
		return errors.Join(errs...)
	}
	inv.Kind, inv.Container = runnel.KindContainer, &c
	return errors.Join(errs...)
}

// given reports whether a flag that goes with an image says something.
func (f *containerFlags) given(c runnel.Container) bool {
	return c.User != "" || c.Network != "" || c.MemoryBytes != 0 || c.CPUs != 0 || c.PIDs != 0 || c.DiskBytes != 0 || c.WritableRoot || c.NoInit || c.Warm || c.Setup != nil ||
		c.Platform != "" || c.Pull != "" || len(c.Entrypoint)+len(c.Ports)+len(c.Tmpfs)+len(c.Mounts) > 0 || len(f.tmpfs)+len(f.volume) > 0
}

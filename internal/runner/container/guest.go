package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// What an agent may need of a container's limits, beyond those of the work.
const (
	agentMemory = 16 << 20
	agentPIDs   = 16
)

// guest is a container that stays, with an agent in it for one command after another.
type guest struct {
	name, id string
	volume   string // where the work's directories are on this machine, or ""
	session  *agent.Session
	owner    agent.Owner

	// The pool's, under its lock.
	shape  string
	tenant string // whose it is; "" until it has run anything
	jobs   int
	born   time.Time
}

// invite makes a container as s says, of an image that the engine has, with an agent in place of the command. Its directories are owner's.
// What is made is removed if it cannot be used; the caller removes it in the end (dismiss).
func (r *Runner) invite(ctx context.Context, s *spec, img image.InspectResponse, owner agent.Owner) (_ *guest, err error) {
	program, err := agent.Program(img.Os, img.Architecture)
	if err != nil {
		return nil, err
	}
	e, err := r.known()
	if err != nil {
		return nil, err
	}
	run := contracts.NewRun()
	g := &guest{name: "runnel-" + run, owner: owner, born: time.Now()}
	config, host := s.config, s.host
	labels := r.owner.labels()
	maps.Copy(labels, map[string]string{labelRun: run})
	config.Image, config.Labels = img.ID, labels
	hosting(&config, &host)
	host.Mounts = append(host.Mounts[:len(host.Mounts)-1:len(host.Mounts)-1], workVolume(labels))
	r.owns(g.name)
	defer func() {
		if err != nil {
			r.dismiss(ctx, g)
		}
	}()
	call, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	// Not ended with ctx: an engine goes on with what was asked for, and would make it after it was removed.
	made, err := r.api.ContainerCreate(call, &config, &host, nil, nil, g.name)
	if err != nil {
		return nil, r.asked("create", err)
	}
	g.id = made.ID
	call, cancel = bounded(ctx)
	defer cancel()
	if g.session, err = r.enter(call, g.id, program); err != nil {
		return nil, err
	}
	g.volume = r.near(ctx, g.id, e)
	if err := g.session.Wipe(call, owner); err != nil {
		return nil, err
	}
	r.direct(call, g.session, g.id)
	return g, nil
}

// hosting has a container made with an agent in place of the command, which is root to be the work's user and nobody else. What the
// agent takes of the limits comes on top of the work's.
func hosting(config *container.Config, host *container.HostConfig) {
	config.Entrypoint, config.Cmd, config.User, config.Env = []string{agent.Path}, nil, "0:0", nil
	config.AttachStdin, config.AttachStdout, config.AttachStderr, config.OpenStdin, config.StdinOnce = true, true, true, true, true
	if within(contracts.ContainerWorkspace, config.WorkingDir) {
		config.WorkingDir = "/"
	}
	host.CapAdd, host.Init = agent.Capabilities, new(false)
	if host.Memory > 0 {
		host.Memory += agentMemory
	}
	if host.MemorySwap > 0 {
		host.MemorySwap += agentMemory
	}
	if host.PidsLimit != nil {
		host.PidsLimit = new(*host.PidsLimit + agentPIDs)
	}
}

// enter starts a container that was made so, and returns the way to its agent. Once that is open it is the caller's to close.
func (r *Runner) enter(ctx context.Context, id string, program []byte) (*agent.Session, error) {
	if err := r.api.CopyToContainer(ctx, id, frame.Root, bytes.NewReader(program), container.CopyToContainerOptions{}); err != nil {
		return nil, r.asked("copy the agent in", err)
	}
	conn, err := r.api.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, r.asked("attach", err)
	}
	if err := r.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		conn.Close()
		return nil, r.asked("start", err)
	}
	return agent.Open(ctx, agent.Attached(conn.Conn, conn.Reader))
}

// dismiss ends and removes the container. What cannot be removed now goes with the next sweep.
func (r *Runner) dismiss(ctx context.Context, g *guest) {
	if g.session != nil {
		g.session.Close()
	}
	r.settled(g.name, r.remove(ctx, g.name) == nil)
}

// starved reports whether a container whose agent is gone was killed, and memory had run out in it. An engine says no more than that: it does
// not say of whom.
func (r *Runner) starved(ctx context.Context, id string) (bool, error) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	// The end, and the kernel's word on why, may reach the engine late.
	for until := time.Now().Add(oomLate); ; <-time.After(50 * time.Millisecond) {
		info, err := r.api.ContainerInspect(call, id)
		if err != nil {
			return false, r.asked("inspect", err)
		}
		switch s := info.State; {
		case s != nil && !s.Running && s.ExitCode != bySignal+killSignal:
			return false, nil
		case s != nil && !s.Running && s.OOMKilled:
			return true, nil
		case time.Now().After(until):
			return false, nil
		}
	}
}

// numeric returns who a user is that is given as two numbers, and is not root.
func numeric(user string) (agent.Owner, error) {
	var who agent.Owner
	var rest string
	if n, _ := fmt.Sscanf(user, "%d:%d%s", &who.UID, &who.GID, &rest); n != 2 {
		return who, errors.New("its user is not UID:GID in numbers")
	}
	if who.UID == 0 {
		return who, errors.New("its user is root")
	}
	return who, nil
}

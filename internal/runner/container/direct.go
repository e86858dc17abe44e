package container

import (
	"context"
	"fmt"
	"net"

	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

// direct has the output of an agent's commands read straight from their pipes, where that can be done from here. Through the agent, the
// container's shim and the engine it takes five times as long.
func (r *Runner) direct(ctx context.Context, session *agent.Session, id string) {
	if r.cfg.relayed {
		return
	}
	info, err := r.api.ContainerInspect(ctx, id)
	if err != nil || info.State == nil {
		return // there is more wrong than this
	}
	if err = session.Near(info.State.Pid, info.ID); session.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relayed = err
}

// beyond returns why output will come through the engine, as far as that can be told before there is a container.
func (r *Runner) beyond(ctx context.Context) error {
	conn, err := r.api.Dialer()(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("the engine is at %s, not at a socket of this machine", r.api.DaemonHost())
	}
	return visible(socket)
}

// outputCapability says which way output comes.
func (r *Runner) outputCapability() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.relayed != nil {
		return "through the engine: " + r.relayed.Error()
	}
	return "direct"
}

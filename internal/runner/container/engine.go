package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

const (
	lookEvery  = 2 * time.Second  // how soon it is seen that an engine has gone or come
	lookWithin = 5 * time.Second  // one question to the engine
	sweepEvery = 60 * time.Second // what other workers left
	callWithin = 2 * time.Minute  // one call of a run; a busy engine may take its time
)

// engine is what is known of the engine that answers.
type engine struct {
	info system.Info
	api  string // version of its API that is spoken
}

// keep watches the engine until ctx ends, and removes what dead workers left on it.
func (r *Runner) keep(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var swept time.Time
	for {
		if r.Available() && time.Since(swept) > sweepEvery {
			swept = time.Now()
			r.sweep(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		was := r.Available()
		r.look(ctx)
		if !was && r.Available() {
			swept = time.Time{}
		}
	}
}

// look asks the engine whether it is there.
func (r *Runner) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if r.Available() {
		if _, err := r.api.Ping(ctx); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			r.lost(err)
		}
		return
	}
	found, err := r.meet(ctx)
	relayed := r.beyond(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.why, r.relayed = found, err, relayed
}

// meet asks an engine who it is, once it answers.
func (r *Runner) meet(ctx context.Context) (*engine, error) {
	if _, err := r.api.Ping(ctx); err != nil {
		return nil, err
	}
	info, err := r.api.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.OSType != "linux" {
		return nil, fmt.Errorf("the engine runs %s containers, not linux", info.OSType)
	}
	if r.owner == nil {
		own, err := newOwner(r.cfg.WorkRoot)
		if err != nil {
			return nil, fmt.Errorf("lock file of this worker: %w", err)
		}
		r.owner = own
	}
	return &engine{info: info, api: r.api.ClientVersion()}, nil
}

// lost notes that the engine does not answer.
func (r *Runner) lost(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.why = nil, err
}

// asked wraps an error of the engine, and notes when it was that it did not answer.
func (r *Runner) asked(what string, err error) error {
	if client.IsErrConnectionFailed(err) {
		r.lost(err)
	}
	return fmt.Errorf("container engine: %s: %w", what, err)
}

// stays returns an error if the engine takes no new connection. One that is being stopped closes its door first, then ends what runs on
// it, and answers who is connected until all has ended: such an end is none of the work's own doing.
func (r *Runner) stays(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	conn, err := r.api.Dialer()(ctx)
	if err != nil {
		r.lost(err)
		return fmt.Errorf("container engine: it is being stopped: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// Somebody else may hold the door open for an engine that is to come.
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err == nil {
		err = ask.Write(conn)
	}
	if err == nil {
		var answer *http.Response
		if answer, err = http.ReadResponse(bufio.NewReader(conn), ask); err == nil {
			answer.Body.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("container engine: it does not answer any more: %w", err)
	}
	return nil
}

// known returns what is known of the engine, or why there is none.
func (r *Runner) known() (*engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.engine == nil {
		return nil, fmt.Errorf("container engine: %w", r.why)
	}
	return r.engine, nil
}

// Capabilities says which engine there is, and which limits really work on it.
func (r *Runner) Capabilities() map[string]string {
	e, err := r.known()
	if err != nil {
		return map[string]string{"container.engine": "none, so the kind is not served: " + err.Error()}
	}
	i := e.info
	found := map[string]string{
		"container.engine":  fmt.Sprintf("engine %s, API %s, %s/%s", i.ServerVersion, e.api, i.OSType, i.Architecture),
		"container.storage": i.Driver,
		"container.cgroup":  fmt.Sprintf("v%s, driver %s", i.CgroupVersion, i.CgroupDriver),
	}
	var works, not []string
	for _, limit := range []struct {
		name string
		ok   bool
	}{
		{"memory", i.MemoryLimit}, {"swap", i.SwapLimit}, {"cpus", i.CPUCfsQuota}, {"pids", i.PidsLimit},
	} {
		if limit.ok {
			works = append(works, limit.name)
		} else {
			not = append(not, limit.name)
		}
	}
	// Only some storage drivers can bound a container's disk, and none of them bounds a volume: what is seen of it from here is watched.
	if _, err := os.Stat(filepath.Join(i.DockerRootDir, "volumes")); err == nil && e.mayBeNear() && strings.HasPrefix(r.api.DaemonHost(), "unix:") {
		works = append(works, "disk (watched)")
	} else {
		not = append(not, "disk in all")
	}
	found["container.limits"] = strings.Join(append(works, "size of one file"), ", ")
	if len(not) > 0 {
		found["container.limits.missing"] = strings.Join(not, ", ")
	}
	if len(i.Warnings) > 0 {
		found["container.warnings"] = strings.Join(i.Warnings, "; ")
	}
	found["container.warm"] = r.pool.capability(e)
	if os, machine := architecture(e); !agent.Runs(os, machine) {
		found["container.sandboxes"] = "no: there is no agent for " + os + "/" + machine
	} else if r.cfg.Slots > 0 {
		found["container.sandboxes"] = fmt.Sprintf("%d open of %d", r.boxes.Load(), r.cfg.Slots)
	}
	found["container.output"] = r.outputCapability()
	var security []string
	for _, s := range i.SecurityOptions {
		name, _, _ := strings.Cut(strings.TrimPrefix(s, "name="), ",")
		security = append(security, name)
	}
	if len(security) > 0 {
		found["container.security"] = strings.Join(security, ", ")
	}
	return found
}

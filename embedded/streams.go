package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue"
)

const (
	// electing is how long a cluster may take to say what it has: without a quorum it cannot.
	electing = time.Minute
	// ensureTry bounds one question: one that is lost in an election is never answered.
	ensureTry = 10 * time.Second
)

// ensure makes the streams, and returns the topology as it is: who reads has to
// know on how many servers a stream really is.
func (cfg WorkerConfig) ensure(ctx context.Context, nc *nats.Conn) (queue.Topology, error) {
	topo := queue.Topology{Prefix: cfg.Prefix, Replicas: cfg.Replicas}
	clustered := nc.ConnectedClusterName() != ""
	if topo.Replicas == 0 && clustered {
		topo.Replicas = 3
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return topo, fmt.Errorf("open JetStream: %w", err)
	}
	for until := time.Now().Add(electing); ; {
		once, cancel := context.WithTimeout(ctx, ensureTry)
		found, err := cfg.ensureOnce(once, js, topo)
		cancel()
		if err == nil || !clustered || !errors.Is(err, queue.ErrUnknown) || time.Now().After(until) {
			return found, err
		}
		cfg.Log.Warn().Err(err).Msg("waiting for the cluster")
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return topo, context.Cause(ctx)
		}
	}
}

func (cfg WorkerConfig) ensureOnce(ctx context.Context, js jetstream.JetStream, topo queue.Topology) (queue.Topology, error) {
	drift, err := queue.Ensure(ctx, js, topo)
	if err != nil {
		return topo, err
	}
	for _, d := range drift {
		cfg.Log.Info().Stringer("drift", d).Msg("stream differs")
	}
	for _, name := range []string{topo.InvokeStream(), topo.ReplyStream(), topo.DeadStream()} {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return topo, fmt.Errorf("%w: read stream %s: %w", queue.ErrUnknown, name, err) // it was there a moment ago
		}
		topo.Replicas = max(topo.Replicas, s.CachedInfo().Config.Replicas)
	}
	return topo, nil
}

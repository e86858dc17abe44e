package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue"
)

// ensureTry bounds the questions of one start: one that is lost in an election is never answered, and Work asks again.
const ensureTry = 10 * time.Second

// ensure makes the streams, and returns the topology as it is: who reads has to
// know on how many servers a stream really is.
func (cfg WorkerConfig) ensure(ctx context.Context, nc *nats.Conn) (queue.Topology, error) {
	topo := queue.Topology{Prefix: cfg.Prefix, Replicas: cfg.Replicas}
	if topo.Replicas == 0 && nc.ConnectedClusterName() != "" {
		topo.Replicas = 3
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return topo, fmt.Errorf("open JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, ensureTry)
	defer cancel()
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

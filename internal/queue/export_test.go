package queue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SetHoleWait shortens how long followers wait for an overtaken chunk.
func (p *Producer) SetHoleWait(d time.Duration) { p.holeWait = d }

// SetGoneEvery shortens how seldom silent followers have it proven that their invocation exists.
func (p *Producer) SetGoneEvery(d time.Duration) { p.goneEvery = d }

// SetPollMost shortens how seldom those who wait ask for a result.
func (p *Producer) SetPollMost(d time.Duration) { p.pollMost = d }

// RemoveOrphans looks for acknowledged messages in the queue once, as a worker does at times.
func (t *Taker) RemoveOrphans(ctx context.Context, js jetstream.JetStream) (int, error) {
	return t.removeOrphans(ctx, js)
}

// SetExecBeat has both sides of a command in a sandbox say every d that they live.
func (p *Producer) SetExecBeat(d time.Duration) { p.execBeat = d }

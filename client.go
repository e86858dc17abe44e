package runnel

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Client hands in invocations and reads what became of them, for one tenant. It is safe for concurrent use. It holds
// no state but its connection, which is the caller's: there is nothing to close.
type Client struct {
	queue *queue.Producer
	files *artifacts.Store
	js    jetstream.JetStream
	topo  queue.Topology
}

// New binds a Client to a connection; see ConnectOptions. It asks the server nothing.
func New(nc *nats.Conn, opts ...Option) (*Client, error) {
	if nc == nil {
		return nil, errors.New("a client needs a connection")
	}
	var s settings
	for _, o := range opts {
		o(&s)
	}
	topo := queue.Topology{Prefix: s.prefix, Replicas: s.replicas}
	q, err := queue.NewProducer(nc, queue.ProducerConfig{Topology: topo, Tenant: s.tenant, Follow: s.follow})
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	files, err := artifacts.Open(context.Background(), js, artifacts.Config{Tenant: s.tenant, Prefix: s.prefix, Replicas: s.replicas})
	if err != nil {
		return nil, err
	}
	return &Client{queue: q, files: files, js: js, topo: topo}, nil
}

// Tenant returns whose invocations the Client handles.
func (c *Client) Tenant() string { return c.queue.Tenant() }

// Ensure creates the streams of the fleet that do not exist. Of those that do it changes nothing; it returns where they
// differ from what it would create: where the server's disk is small, also by less room. A setting that makes them unsafe is
// ErrForbidden, a server that will not reserve the least ErrFull, a user who may not ask ErrDenied.
func (c *Client) Ensure(ctx context.Context) ([]Drift, error) {
	return queue.Ensure(ctx, c.js, c.topo)
}

// Inspect looks at every stream of the fleet and changes none. In each that takes invocations, answers or dead letters it stores a
// message that is nobody's, and removes it again, if this user may.
func (c *Client) Inspect(ctx context.Context) []Inspection {
	return queue.Inspect(ctx, c.js, c.topo, c.Tenant())
}

// SubmitAll hands in every invocation of a sequence, up to 256 at once, and yields a receipt or an error for each, in
// the order of the sequence. An error concerns its own invocation, whose id is in the receipt, and the rest goes on.
// It ends with the sequence, or when the caller stops ranging; when ctx ends, the last pair is its cause.
// What was accepted by then stays.
func (c *Client) SubmitAll(ctx context.Context, invs iter.Seq[Invocation]) iter.Seq2[Receipt, error] {
	return c.queue.SubmitAll(ctx, invs)
}

// RunAll hands in every invocation of a sequence and yields their results in the order in which they end. No more than
// 1,024 are open at once: the sequence is read as results are taken. What cannot be handed in yields a
// Result with its ID alone and the error, and the rest goes on. When ctx ends, the last pair is its
// cause; what was accepted stays.
func (c *Client) RunAll(ctx context.Context, invs iter.Seq[Invocation]) iter.Seq2[Result, error] {
	return c.queue.RunAll(ctx, invs)
}

// Watch shows what becomes of an invocation, live: the output of its run in order, and its result last. Whoever comes
// late sees the same from the beginning; after the end, only the run that counted. Nothing is read faster than the
// caller ranges. Output that cannot be had is an EventGap; a second run is an EventRestarted, and what was
// shown before it does not count.
//
// It ends after the EventResult, or with an error: ErrNotFound if there is no such invocation (any more), the cause
// of ctx if that ends.
func (c *Client) Watch(ctx context.Context, id string) iter.Seq2[Event, error] {
	return c.queue.Watch(ctx, id)
}

// WatchRun shows what is stored of one run, or of every run if run is AllRuns, and does not wait for more. The result
// comes last if there is one and it is that run's. Nothing stored is ErrNotFound.
func (c *Client) WatchRun(ctx context.Context, id, run string) iter.Seq2[Event, error] {
	return c.queue.WatchRun(ctx, id, run)
}

// Wait yields the result of each invocation in the order in which they end; those that have ended already come first.
// An id that is unknown, or whose result is not kept any more, yields a Result with its ID alone and ErrNotFound.
// When ctx ends, the last pair is its cause.
func (c *Client) Wait(ctx context.Context, ids ...string) iter.Seq2[Result, error] {
	return c.queue.Wait(ctx, ids...)
}

// Get returns what is known of an invocation, or ErrNotFound.
func (c *Client) Get(ctx context.Context, id string) (Info, error) { return c.queue.Get(ctx, id) }

// List yields the tenant's invocations that match: first what is queued or running, the newest first, then what has
// ended, the latest end first. After an error nothing more comes.
func (c *Client) List(ctx context.Context, o ListOptions) iter.Seq2[Info, error] {
	return c.queue.List(ctx, o)
}

// Resolve returns the one id that begins with prefix, of at least 4 characters; a whole id is itself. Several are an
// *AmbiguousError that lists them, none is ErrNotFound. It takes 2 seconds at most.
func (c *Client) Resolve(ctx context.Context, prefix string) (string, error) {
	return c.queue.Resolve(ctx, prefix)
}

// Cancel ends an invocation: a queued one never starts, a running one is killed, and its result is `cancelled`. The
// report says what was met and what was killed; AlreadyEnded says that it was too late. An unknown id is ErrNotFound.
// It takes up to the grace of the work and 5 seconds. Where no worker answers, nothing is killed there and then: a worker that
// holds the run ends it when it sees the result, and for http_async the next one that comes tells the remote run.
func (c *Client) Cancel(ctx context.Context, id string) (CancelReport, error) {
	return c.queue.Cancel(ctx, id)
}

// Answer ends an invocation of kind manual by hand and returns its result, which names the answer. It asks until that is
// stored, whichever worker holds the run. If it has ended otherwise the error is ErrAnswered, and
// the Result that one; an unknown id is ErrNotFound. Without a deadline of ctx it takes 30 seconds at most.
func (c *Client) Answer(ctx context.Context, id string, o ManualOutcome) (Result, error) {
	return c.queue.Answer(ctx, id, o)
}

// Withdraw removes a queued invocation that no worker has taken, as if it had never been handed in. If one has,
// nothing changes and the error is ErrTaken. It needs the right to delete messages of the queue.
func (c *Client) Withdraw(ctx context.Context, id string) error { return c.queue.Withdraw(ctx, id) }

// Workers returns the workers that live, of every pool, by name: those that have said so within the last 15 seconds.
func (c *Client) Workers(ctx context.Context) ([]Presence, error) { return c.queue.Workers(ctx) }

// Served reports whether a worker that lives, and is not draining, takes invocations of kind in pool ("" is DefaultPool).
func (c *Client) Served(ctx context.Context, kind Kind, pool string) (bool, error) {
	return c.queue.Served(ctx, kind, pool)
}

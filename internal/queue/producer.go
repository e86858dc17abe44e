package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// DefaultPatience is how long a call of a Producer that asks for one answer goes on asking where its
// context has no deadline. A cluster that loses a leader stalls for 4 to 6 seconds.
const DefaultPatience = 30 * time.Second

const (
	// An answer that has not come by then is asked for again: the server may have lost its leader meanwhile.
	askTimeout = 2 * time.Second
	// A holder that does not say within this that it heard a cancel is gone, cut off or frozen.
	cancelTimeout = 500 * time.Millisecond
	// What a holder may need beyond the grace of the work: to store its tail, its end and its result.
	cancelMargin = 5 * time.Second
	// Submissions of one Producer that ask at once, under a chosen id or because no answer came.
	turnsAtOnce = 64
	// The grace of an invocation that sets none.
	defaultGrace = 5 * time.Second
)

// ProducerConfig says whose invocations a Producer handles.
type ProducerConfig struct {
	Topology Topology
	// Tenant is whose they are; "" is "default". An invocation of another tenant is refused.
	Tenant string
	// Follow is the connection on which output comes in. nil is the Producer's own: then the answers it
	// waits for stand behind the output that it follows.
	Follow *nats.Conn
}

// Producer is the asking side of the queue, bound to one tenant: it submits invocations,
// follows them, reads how they ended and cancels them. It is safe for concurrent use and holds nothing
// between calls but its connections, which are the caller's.
type Producer struct {
	topo   Topology
	tenant string
	names  Names
	nc     *nats.Conn
	follow *nats.Conn

	invoke  *Store
	reply   *Store
	output  *Store // the reply stream, read on follow
	workers *Presences

	turns chan struct{} // of submissions that ask; see turn
	ears  atomic.Int64  // that listen on follow

	// holeWait bounds how long a follower waits for a chunk that was overtaken by a later one.
	holeWait time.Duration
	// goneEvery is how often a silent follower has it proven that its invocation still exists.
	goneEvery time.Duration
	// pollMost is how seldom those who wait ask for a result that does not come by itself; each time
	// they have it proven that its invocation still exists.
	pollMost time.Duration
	// execBeat is how often both sides of a command in a sandbox say that they live.
	execBeat time.Duration
}

// NewProducer returns a producer on nc. It asks the server nothing.
func NewProducer(nc *nats.Conn, cfg ProducerConfig) (*Producer, error) {
	if nc == nil {
		return nil, errors.New("a producer needs a connection")
	}
	if cfg.Tenant == "" {
		cfg.Tenant = contracts.DefaultTenant
	}
	if !contracts.ValidToken(cfg.Tenant) {
		return nil, fmt.Errorf("tenant %q: must be 1 to 64 of a-z 0-9 _ -", cfg.Tenant)
	}
	if p := cfg.Topology.Prefix; p != "" && !contracts.ValidToken(p) {
		return nil, fmt.Errorf("prefix %q: must be 1 to 64 of a-z 0-9 _ -", p)
	}
	if cfg.Follow == nil {
		cfg.Follow = nc
	}
	topo := cfg.Topology
	// A producer does not rely on how many replicas it was told of: it has absence proven by the
	// leader always, which is an answer it seldom needs.
	replicas := max(topo.ReplicaCount(), 2)
	return &Producer{
		topo:     topo,
		tenant:   cfg.Tenant,
		names:    topo.Names(),
		nc:       nc,
		follow:   cfg.Follow,
		invoke:   NewStore(nc, topo.InvokeStream(), replicas),
		reply:    NewStore(nc, topo.ReplyStream(), replicas),
		output:   NewStore(cfg.Follow, topo.ReplyStream(), replicas),
		workers:  NewPresences(nc, topo),
		turns:    make(chan struct{}, turnsAtOnce),
		holeWait: 10 * time.Second, goneEvery: 30 * time.Second, pollMost: 16 * time.Second,
		execBeat: contracts.SandboxHeartbeats * time.Second,
	}, nil
}

// Tenant returns whose invocations the producer handles.
func (p *Producer) Tenant() string { return p.tenant }

// bounded gives ctx the default bound if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, DefaultPatience,
		fmt.Errorf("%w within %s", ErrUnknown, DefaultPatience))
}

// permanent reports whether err stays what it is however often one asks.
func permanent(err error) bool {
	for _, e := range [...]error{ErrNotFound, ErrOccupied, ErrIDInUse, ErrFull, ErrDenied, ErrNoStream, ErrTooLarge, ErrRefused, ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// insist asks until there is an answer that decides, err is permanent, or ctx ends.
func insist[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		once, cancel := context.WithTimeout(ctx, askTimeout)
		v, err := ask(once)
		cancel()
		if err == nil || permanent(err) {
			return v, err
		}
		if !sleep(ctx, wait) {
			var none T
			return none, endOf(ctx, err)
		}
	}
}

// endOf is the error of a call whose ctx ended while it was still asking; last is what it was told last.
func endOf(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if last == nil || errors.Is(last, context.Canceled) || errors.Is(last, context.DeadlineExceeded) || errors.Is(last, cause) {
		if errors.Is(last, ErrUnknown) && !errors.Is(cause, ErrUnknown) {
			return fmt.Errorf("%w: %w", ErrUnknown, cause)
		}
		return cause
	}
	return fmt.Errorf("%w (last: %w)", cause, last)
}

// read decodes what is stored.
func read[T contracts.Document](s Stored) (T, error) {
	doc, err := contracts.Decode[T](s.Data, metaOf(s.Header))
	if err != nil {
		return doc, fmt.Errorf("%s: %w", s.Subject, err)
	}
	return doc, nil
}

// digestOf is the digest of a stored invocation: the header's, else that of the body as it is.
func digestOf(h nats.Header, body []byte) string {
	if d := h.Get(contracts.HeaderDigest); validDigest(d) {
		return d
	}
	return contracts.BodyDigest(body)
}

// result reads the result of id from the leader; ErrNotFound proves that there is none.
func (p *Producer) result(ctx context.Context, id string) (contracts.Result, Stored, error) {
	s, err := insist(ctx, func(ctx context.Context) (Stored, error) {
		return p.reply.Last(ctx, p.names.Result(p.tenant, id))
	})
	if err != nil {
		return contracts.Result{}, s, err
	}
	r, err := read[contracts.Result](s)
	return r, s, err
}

// queued reads the invocation message of id from the leader, whatever its kind, pool and lane.
func (p *Producer) queued(ctx context.Context, id string) (Stored, error) {
	return insist(ctx, func(ctx context.Context) (Stored, error) {
		return p.invoke.Last(ctx, p.names.AnyInvoke(p.tenant, id))
	})
}

func (p *Producer) checkID(id string) error {
	if !contracts.ValidID(id) {
		return fmt.Errorf("id %.140q: must be a letter or digit and up to 127 of A-Z a-z 0-9 _ -", id)
	}
	return nil
}

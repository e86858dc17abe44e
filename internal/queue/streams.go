package queue

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

// The limits of the streams where a Topology sets none. Sizes are reserved on
// the server's disk when a stream is created; where that much is not to be
// had, Ensure halves them down to MinMaxBytes and says so.
const (
	DefaultReplyAge       = 24 * time.Hour
	DefaultDeadAge        = 30 * 24 * time.Hour
	DefaultInvokeMaxBytes = 1 << 30
	DefaultReplyMaxBytes  = 8 << 30
	DefaultDeadMaxBytes   = 256 << 20
	DefaultWorkersTTL     = 15 * time.Second

	// MinMaxBytes is the least that a stream is created with: below it not even a few full messages fit.
	MinMaxBytes = 32 << 20

	workersMaxBytes = 16 << 20
	// A dead letter holds a whole invocation message and says why beside it.
	deadMessageBytes = contracts.MaxMessageBytes + 16<<10
	// The least that a server takes. We send no Nats-Msg-Id (it is stream-wide: a stranger's equal
	// id would swallow a job); who sends one by hand is forgotten as soon as can be.
	duplicatesWindow = 100 * time.Millisecond
	// Three for each kind that a pool serves. Where a stream does not say, a server of today allows 1,000, which
	// some forty pools use up, and it cannot be changed later.
	maxConsumers = 16384

	ackWait    = 10 * time.Second
	maxWaiting = 16384 // 512 by default, fixed once created, and pulls beyond it are dropped in silence
)

// Topology is the streams and consumers of one fleet. The zero value is that
// of a fleet of its own on one server.
type Topology struct {
	// Prefix is the first token of every subject and, in upper case, of every stream; "" is DefaultPrefix.
	Prefix string
	// Replicas is how many servers keep each stream: 0 and 1 are one, 3 is usual on a cluster.
	Replicas int
	// ReplyAge is how long results and output are kept, and so how long an id is remembered; 0 is DefaultReplyAge.
	ReplyAge time.Duration
	// DeadAge is how long dead letters are kept; 0 is DefaultDeadAge.
	DeadAge time.Duration
	// InvokeMaxBytes, ReplyMaxBytes and DeadMaxBytes bound the streams; 0 is the default, which is
	// lowered at creation where the server has less room. A size that is set is created as it is or not at all; -1 has no
	// bound, and reserves nothing.
	InvokeMaxBytes, ReplyMaxBytes, DeadMaxBytes int64
	// WorkersMaxBytes bounds the bucket of workers; 0 is 16 MiB.
	WorkersMaxBytes int64
	// WorkersTTL is how long a worker counts as alive after its last sign of life; 0 is DefaultWorkersTTL.
	WorkersTTL time.Duration
}

func (t Topology) upper() string { return strings.ToUpper(t.Names().prefix()) }

// Names returns the subjects of the fleet.
func (t Topology) Names() Names { return Names{Prefix: t.Prefix} }

// InvokeStream is the name of the work queue.
func (t Topology) InvokeStream() string { return t.upper() + "_INVOKE" }

// ReplyStream is the name of the stream of output, starts, ends and results.
func (t Topology) ReplyStream() string { return t.upper() + "_REPLY" }

// DeadStream is the name of the stream of dead letters.
func (t Topology) DeadStream() string { return t.upper() + "_DEAD" }

// WorkersBucket is the name of the key-value bucket in which workers say that they live.
func (t Topology) WorkersBucket() string { return t.upper() + "_WORKERS" }

// WorkersStream is the name of the stream behind WorkersBucket.
func (t Topology) WorkersStream() string { return "KV_" + t.WorkersBucket() }

// ReplicaCount is Replicas, at least 1.
func (t Topology) ReplicaCount() int { return max(t.Replicas, 1) }

// Age is ReplyAge with its default filled in.
func (t Topology) Age() time.Duration { return or(t.ReplyAge, DefaultReplyAge) }

// Streams returns the three streams. All have the fence: one message per
// subject, and a second one is refused, whoever sends it. Rollup, message TTLs
// and delete markers stay off: a marker TTL silently allows rollup, and with
// that one sender's header empties everybody's queue.
func (t Topology) Streams() []jetstream.StreamConfig {
	p := t.Names().prefix()
	fenced := func(name, what string, size int64, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:                 name,
			Description:          what,
			Subjects:             subjects,
			Retention:            jetstream.LimitsPolicy,
			Storage:              jetstream.FileStorage,
			Replicas:             t.ReplicaCount(),
			MaxMsgsPerSubject:    1,
			Discard:              jetstream.DiscardNew,
			DiscardNewPerSubject: true,
			AllowDirect:          true,
			MaxMsgs:              -1,
			MaxConsumers:         -1,
			MaxBytes:             size,
			MaxMsgSize:           contracts.MaxMessageBytes,
			Duplicates:           duplicatesWindow,
		}
	}
	// A subject of a lane that does not exist is refused when it is published, and not
	// accepted to wait for ever: no consumer would ever hand it out.
	var invokes []string
	for _, l := range contracts.Lanes() {
		invokes = append(invokes, p+".invoke.*.*."+string(l)+".*.*.*")
	}
	invoke := fenced(t.InvokeStream(), "invocations that wait or run", or(t.InvokeMaxBytes, DefaultInvokeMaxBytes), invokes...)
	invoke.Retention = jetstream.WorkQueuePolicy
	invoke.MaxConsumers = maxConsumers

	reply := fenced(t.ReplyStream(), "output, starts, ends and results", or(t.ReplyMaxBytes, DefaultReplyMaxBytes),
		p+".reply.*.*.result", p+".reply.*.*.*.*")
	reply.MaxAge = t.Age()
	reply.RePublish = &jetstream.RePublish{Source: p + ".reply.>", Destination: p + ".live.>"}

	dead := fenced(t.DeadStream(), "invocations that were put aside", or(t.DeadMaxBytes, DefaultDeadMaxBytes), p+".dead.*.*")
	dead.MaxAge = or(t.DeadAge, DefaultDeadAge)
	dead.MaxMsgSize = deadMessageBytes
	return []jetstream.StreamConfig{invoke, reply, dead}
}

// Workers returns the bucket in which workers say that they live. It is on
// disk, so that a restarted server does not take every worker for dead.
func (t Topology) Workers() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      t.WorkersBucket(),
		Description: "workers that live",
		TTL:         or(t.WorkersTTL, DefaultWorkersTTL),
		History:     1,
		MaxBytes:    or(t.WorkersMaxBytes, workersMaxBytes),
		Storage:     jetstream.FileStorage,
		Replicas:    t.ReplicaCount(),
	}
}

// Consumer returns the one durable pull consumer that hands out what waits for
// a kind, pool, lane and shard. Its name is these four with `=` between: a
// token may hold `_` and `-`, so that neither would keep two consumers apart.
func (t Topology) Consumer(kind contracts.Kind, pool string, lane contracts.Lane, shard string) jetstream.ConsumerConfig {
	name := strings.Join([]string{string(kind), pool, string(lane), shard}, "=")
	return jetstream.ConsumerConfig{
		Name:          name,
		Durable:       name,
		FilterSubject: t.Names().InvokesOf(kind, pool, lane, shard),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		ReplayPolicy:  jetstream.ReplayInstantPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    maxWaiting,
	}
}

func or[T int64 | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

package runnel

import (
	"time"

	"github.com/nats-io/nats.go"
)

type settings struct {
	tenant, prefix string
	replicas       int
	follow         *nats.Conn

	concurrency int
	middleware  []Middleware
	problems    func(error)
}

// Option changes how New binds a Client, or Handle a Responder; each says which, unless it is New.
type Option func(*settings)

// WithTenant says whose invocations the Client handles; "" is DefaultTenant.
func WithTenant(name string) Option { return func(s *settings) { s.tenant = name } }

// WithPrefix names the fleet where several share one NATS: the first token of every subject and, in upper case, of
// every stream; "" is "runnel". It is for New and Handle.
func WithPrefix(prefix string) Option { return func(s *settings) { s.prefix = prefix } }

// WithReplicas says on how many servers Ensure, and the storage of inputs, keep what they create: 1, which is the
// default, or 3 and more on a cluster.
func WithReplicas(n int) Option { return func(s *settings) { s.replicas = n } }

// WithFollowConn has output and results come in on a connection of their own. On a shared one, which is the
// default, an answer stands behind the output that comes before it. The caller closes it after the last call.
func WithFollowConn(nc *nats.Conn) Option { return func(s *settings) { s.follow = nc } }

// ConnectOptions returns the options with which to connect a Client: it reconnects for ever and soon, so that a
// server's restart is a pause and not an end. name is shown by the server's monitoring. The first connect still
// fails where no server is; add nats.RetryOnFailedConnect(true) to wait for one.
func ConnectOptions(name string) []nats.Option {
	return []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond),
		// A peer that is gone without a word is noticed within half a minute and not within four.
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		// Async errors reach their caller as ErrDenied; the default handler would print them too.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
}

// Package webtest has what tests of the HTTP kinds need: a client that may call this machine, and that counts its
// connections.
package webtest

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/web"
)

// Loopback allows this machine.
var Loopback = []string{"127.0.0.0/8", "::1"}

// Client is a client and the connections that it has.
type Client struct {
	*web.Client
	open, dialed atomic.Int64
}

// Open opens a client, which the test closes. Where cfg allows nothing, this machine is allowed.
func Open(t testing.TB, cfg web.Config) *Client {
	t.Helper()
	if cfg.Allow == nil {
		cfg.Allow = Loopback
	}
	c := &Client{}
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c.open.Add(1)
		c.dialed.Add(1)
		return &counted{Conn: conn, closed: func() { c.open.Add(-1) }}, nil
	}
	var err error
	if c.Client, err = web.Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Connections is how many connections are open, also idle ones.
func (c *Client) Connections() int { return int(c.open.Load()) }

// Dialed is how many were opened so far.
func (c *Client) Dialed() int { return int(c.dialed.Load()) }

type counted struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (c *counted) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// Job is a job of an HTTP kind. Its metadata are those of base and the pairs of names and values that follow.
func Job(t testing.TB, kind contracts.Kind, base map[string]string, pairs ...string) runner.Job {
	t.Helper()
	m := maps.Clone(base)
	if m == nil {
		m = map[string]string{}
	}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return runner.Job{
		Invocation: contracts.Invocation{ID: "job", Kind: kind, Tenant: "default", Metadata: m},
		Attempt:    1, Run: "abcd2345", Dir: t.TempDir(), Artifacts: t.TempDir(),
	}
}

// Resolver answers for each host with the next of its lists of addresses, and with the last one from then on.
type Resolver struct {
	mu    sync.Mutex
	Hosts map[string][][]string
	Asked int
}

// LookupNetIP is web.Config's.
func (r *Resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Asked++
	answers := r.Hosts[host]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		r.Hosts[host] = answers[1:]
	}
	var addrs []netip.Addr
	for _, text := range answers[0] {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs, nil
}

// Package web is what the runners of the HTTP kinds share: whom they may call, the secrets that they send, the
// requests themselves and reading of answers.
package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

const (
	dialTimeout      = 30 * time.Second
	handshakeTimeout = 15 * time.Second
	idleTimeout      = 30 * time.Second // of a connection between two jobs
	maxIdlePerHost   = 8
	maxTransports    = 128      // tenants whose connections are kept
	maxHeaderBytes   = 64 << 10 // of an answer
)

// Config is a worker's policy for requests. With the zero value public addresses may be called, and there are no secrets.
type Config struct {
	// Allow opens networks (as 10.0.0.0/8) that are refused otherwise: loopback, link-local, private, shared,
	// multicast and reserved ones.
	Allow []string
	// Deny refuses networks and hosts, as 10.1.0.0/16, example.com (and all below it); it goes before everything else.
	Deny []string
	// Only lists the hosts that may be called, and those below them; none is every one.
	Only []string
	// CAFile has certificates (PEM) that are trusted besides those of the system.
	CAFile string
	// Proxy is the URL of a proxy that every request goes through; "" is none, whatever the environment says. Names are still
	// looked up and judged here, but it is the proxy that connects: it has to hold the policy too.
	Proxy string
	// SecretsDir has a file for each secret, SecretsFile a line NAME=value; SecretsEnv begins the names of
	// variables. They are asked in this order, each time that one is needed.
	SecretsDir, SecretsFile, SecretsEnv string

	// Resolver finds the addresses of a host; nil is the system's.
	Resolver interface {
		LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	}
	// Dial connects to an address that was checked; nil is net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client sends the requests of every tenant. Connections are used again by the jobs of one tenant only.
type Client struct {
	cfg     Config
	policy  policy
	roots   *x509.CertPool
	proxy   *url.URL
	secrets secrets

	mu         sync.Mutex
	transports map[transportKey]*transport
	closed     bool
}

type transportKey struct {
	tenant, tlsMin string
}

type transport struct {
	*http.Transport
	used time.Time
}

// Open checks the policy. Close the Client after the last call.
func Open(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, transports: map[transportKey]*transport{}, secrets: secrets{dir: cfg.SecretsDir, file: cfg.SecretsFile, env: cfg.SecretsEnv}}
	var err error
	if c.policy, err = newPolicy(cfg); err != nil {
		return nil, err
	}
	if cfg.Proxy != "" {
		if c.proxy, err = url.Parse(cfg.Proxy); err != nil || c.proxy.Scheme != "http" && c.proxy.Scheme != "https" || c.proxy.Host == "" {
			return nil, errors.New("proxy: not a URL as http://proxy.example.com:3128") // which is not shown: it may have a password
		}
	}
	if c.cfg.Resolver == nil {
		c.cfg.Resolver = net.DefaultResolver
	}
	if c.cfg.Dial == nil {
		dialer := &net.Dialer{Timeout: dialTimeout, Control: c.policy.control}
		if c.proxy != nil {
			dialer.Control = nil // whom the operator named may be anywhere
		}
		c.cfg.Dial = dialer.DialContext
	}
	if cfg.CAFile != "" {
		if c.roots, err = x509.SystemCertPool(); err != nil {
			c.roots = x509.NewCertPool() // a machine without any
		}
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		if !c.roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates: %s has none in PEM", cfg.CAFile)
		}
	}
	return c, c.secrets.check()
}

// Close closes the connections that are idle. It may be called more than once.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for key, t := range c.transports {
		t.CloseIdleConnections()
		delete(c.transports, key)
	}
	return nil
}

// Capabilities says what the policy of a kind is, for presence and doctor.
func (c *Client) Capabilities(kind contracts.Kind) map[string]string {
	return map[string]string{
		string(kind) + ".hosts":   c.policy.String(),
		string(kind) + ".secrets": c.secrets.String(),
	}
}

// transport returns the connections of a tenant. The least used are given up where there are too many tenants.
func (c *Client) transport(tenant, tlsMin string) *http.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := transportKey{tenant, tlsMin}
	t := c.transports[key]
	if t == nil {
		if len(c.transports) >= maxTransports {
			var oldest transportKey
			for key, t := range c.transports {
				if old := c.transports[oldest]; old == nil || t.used.Before(old.used) {
					oldest = key
				}
			}
			c.transports[oldest].CloseIdleConnections()
			delete(c.transports, oldest)
		}
		version := uint16(tls.VersionTLS12)
		if tlsMin == "1.3" {
			version = tls.VersionTLS13
		}
		t = &transport{Transport: &http.Transport{
			DialContext:     c.dial,
			TLSClientConfig: &tls.Config{MinVersion: version, RootCAs: c.roots},
			Proxy:           http.ProxyURL(c.proxy), // never that of the environment
			// Bytes as the other side sent them.
			DisableCompression:     true,
			TLSHandshakeTimeout:    handshakeTimeout,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    maxIdlePerHost,
			MaxIdleConns:           4 * maxIdlePerHost,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ExpectContinueTimeout:  time.Second,
			DisableKeepAlives:      c.closed,
		}}
		c.transports[key] = t
	}
	t.used = time.Now()
	return t.Transport
}

// dial resolves, checks every address, and connects to those that it checked: a name that says something else
// when it is asked again gains nothing.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if c.proxy != nil {
		return c.cfg.Dial(ctx, network, address) // the proxy: the target was judged before
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := c.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, addr := range addrs {
		conn, err := c.cfg.Dial(ctx, network, net.JoinHostPort(addr.String(), port))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// resolve returns the addresses of a host. One that may not be called refuses them all: who answers with
// one of each wants the other one to be dialled.
func (c *Client) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if err := c.policy.host(host); err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, addr)
	} else if addrs, err = c.cfg.Resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")); err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("host %s has no address", host)
	}
	for _, addr := range addrs {
		if refused := c.policy.judge(addr); refused != nil {
			return nil, &Refused{"host " + host + ": " + refused.text}
		}
	}
	return addrs, nil
}

// Refused says what the worker's policy does not allow.
type Refused struct{ text string }

func (r *Refused) Error() string { return r.text + ": not allowed by this worker" }

// reject turns what is wrong with an invocation into a rejection.
func reject(reason contracts.Reason, err error) error { return runner.Reject(reason, "%v", err) }

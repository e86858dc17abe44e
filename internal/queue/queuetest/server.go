// Package queuetest gives tests real NATS servers with JetStream: one in this
// process, which starts in 27 ms, or child processes that can be killed and
// frozen, alone and as a cluster. All read the configurations of deploy/nats.
package queuetest

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startTimeout bounds how long a server may take until it is ready.
const startTimeout = 20 * time.Second

// maxStore is what the streams of a server may reserve. Without it that is a share of what is free on the disk at its start,
// and tests fail on a machine whose disk somebody fills.
const maxStore = 64 << 30

// Node is a nats-server with JetStream in this process.
type Node struct {
	opts *server.Options
	srv  *server.Server
}

// Server starts a nats-server in this process, with its data in a directory of
// the test, and stops it when the test ends. adjust may change its options first.
func Server(t testing.TB, adjust ...func(*server.Options)) *Node {
	t.Helper()
	return ServerOf(t, "single.conf", adjust...)
}

// ServerOf is Server with another configuration of deploy/nats.
func ServerOf(t testing.TB, config string, adjust ...func(*server.Options)) *Node {
	t.Helper()
	opts, err := server.ProcessConfigFile(Config(t, config))
	if err != nil {
		t.Fatalf("read %s: %v", config, err)
	}
	opts.Port, opts.StoreDir = server.RANDOM_PORT, t.TempDir()
	opts.NoLog, opts.NoSigs, opts.JetStreamMaxStore = true, true, maxStore
	for _, a := range adjust {
		a(opts)
	}
	n := &Node{opts: opts}
	n.start(t)
	t.Cleanup(n.stop)
	return n
}

func (n *Node) start(t testing.TB) {
	t.Helper()
	srv, err := server.NewServer(n.opts)
	if err != nil {
		t.Fatalf("new nats-server: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		t.Fatalf("nats-server is not ready after %v", startTimeout)
	}
	n.srv = srv
	// A restart comes back under the same address.
	if u, err := url.Parse(srv.ClientURL()); err == nil {
		if p, err := strconv.Atoi(u.Port()); err == nil {
			n.opts.Port = p
		}
	}
}

func (n *Node) stop() {
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
}

// URL is where clients connect.
func (n *Node) URL() string { return n.srv.ClientURL() }

// Server is the server itself, for what only it can say.
func (n *Node) Server() *server.Server { return n.srv }

// Shutdown stops the server and keeps its data; Restart starts it again.
func (n *Node) Shutdown() { n.stop() }

// Restart stops the server, if it runs, and starts it again under the same address with the same data.
func (n *Node) Restart(t testing.TB) {
	t.Helper()
	n.stop()
	n.start(t)
}

// Connect connects to the server and closes the connection when the test ends.
func (n *Node) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, n.URL(), opts...)
}

func connect(t testing.TB, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	opts = append([]nats.Option{
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		// Quiet: a test that waits for an async error installs its own handler.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)
	opts = append(opts, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed // so that goleak finds none of its goroutines
	})
	return nc
}

// Config returns the path of a file of deploy/nats.
func Config(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "deploy", "nats", name)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}

// Package embedded runs NATS and a Runnel worker inside this process: for
// `submit run --embedded`, for `worker dev`, and for tests of programs that use
// Runnel. A test needs nothing installed:
//
//	node, err := embedded.Start(ctx, embedded.Config{})
//	if err != nil { … }
//	defer node.Close(ctx)
//	nc, err := node.Connect()
//	client, err := runnel.New(nc)
//	result, err := client.Run(ctx, runnel.Invocation{Kind: "subprocess", Command: []string{"true"}}, runnel.RunOptions{})
//
// # Re-execution
//
// The worker starts a second process from this program's own executable: the
// guard, which ends the work's processes when the program itself is killed. That
// process is told apart by argv[0] in an init function of this package's
// dependencies and never reaches main or TestMain; init functions that run before
// it must therefore be harmless to run twice, and must not print.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/runnel-project/runnel"
)

// ErrInUse says that another process uses the data directory.
var ErrInUse = errors.New("in use")

// Config says what a Node is made of. The zero value is a server that only this
// process can reach, with its data in a temporary directory, and a worker.
type Config struct {
	// Listen is the HOST:PORT that other processes connect to; "" is no listener, port 0 a free one.
	Listen string
	// Token is what a client of the listener must show; "" makes one (see Node.Token).
	Token string
	// Share leaves the token in the account's state directory, where `submit` and `worker`
	// find it by the server's address, and takes the one that is there.
	Share bool
	// StoreDir keeps the server's data, and is this process's alone while the Node lives
	// (ErrInUse); "" is a temporary directory that Close removes.
	StoreDir string
	// MaxStore bounds the server's data in bytes; 0 is three quarters of what the disk has free.
	MaxStore int64
	// Worker describes the worker. Its Prefix counts without one, too.
	Worker WorkerConfig
	// NoWorker leaves the worker out.
	NoWorker bool
	// Log takes the server's log, and the worker's unless that has its own; the zero value drops it.
	Log zerolog.Logger
}

// Node is a NATS server with Runnel's streams, and a worker unless left out.
type Node struct {
	server *natsServer
	worker *working // nil without one
	once   sync.Once
	err    error
}

// Start starts the server, makes the streams and starts the worker; it returns
// when the worker has asked for work. The Node lives until Close, not until the
// end of ctx, which bounds the start only.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	s, err := startServer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	n := &Node{server: s}
	if err := n.furnish(ctx, cfg); err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, n.Close(end))
	}
	return n, nil
}

func (n *Node) furnish(ctx context.Context, cfg Config) error {
	if cfg.NoWorker {
		nc, err := n.Connect()
		if err != nil {
			return err
		}
		defer nc.Close()
		_, err = cfg.Worker.ensure(ctx, nc)
		return err
	}
	if cfg.Worker.WorkDir == "" {
		cfg.Worker.WorkDir = filepath.Join(n.server.dir, "work")
	}
	var err error
	n.worker, err = n.startWorker(ctx, cfg.Worker)
	return err
}

// working is a worker under way.
type working struct {
	drain context.CancelFunc
	stop  chan struct{} // closed to cut the drain short
	done  chan error
	conns []*nats.Conn
}

func (n *Node) startWorker(ctx context.Context, cfg WorkerConfig) (*working, error) {
	w := &working{stop: make(chan struct{}), done: make(chan error, 1)}
	for _, name := range []string{"worker control", "worker data"} {
		nc, err := n.Connect(runnel.ConnectOptions(name)...)
		if err != nil {
			w.disconnect()
			return nil, err
		}
		w.conns = append(w.conns, nc)
	}
	cfg.Stop = w.stop
	ready, tell := make(chan struct{}), cfg.Ready
	cfg.Ready = func(name string) {
		close(ready)
		if tell != nil {
			tell(name)
		}
	}
	var working context.Context
	working, w.drain = context.WithCancel(context.WithoutCancel(ctx))
	go func() { w.done <- Work(working, w.conns[0], w.conns[1], cfg) }()
	select {
	case <-ready:
		return w, nil
	case err := <-w.done:
		w.drain()
		w.disconnect()
		return nil, fmt.Errorf("start a worker: %w", err)
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start a worker: %w", context.Cause(ctx)), w.close(ctx))
	}
}

// close drains until ctx ends, and then stops what still runs.
func (w *working) close(ctx context.Context) error {
	w.drain()
	var err error
	select {
	case err = <-w.done:
	case <-ctx.Done():
		close(w.stop)
		err = <-w.done // bounded by the stop settings of what runs
	}
	w.disconnect()
	return err
}

func (w *working) disconnect() {
	for _, nc := range w.conns {
		nc.Close()
	}
}

// Connect opens a connection to the server that does not go through the network. Who opens it closes it.
func (n *Node) Connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{nats.InProcessServer(n.server)}, opts...)
	if n.server.token != "" {
		opts = append(opts, nats.Token(n.server.token))
	}
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect inside of this process: %w", err)
	}
	return nc, nil
}

// URL is the address of the listener, nats://HOST:PORT; "" without one.
func (n *Node) URL() string { return n.server.url }

// Token is what a client of the listener must show: nats.Connect(node.URL(), nats.Token(node.Token())).
func (n *Node) Token() string { return n.server.token }

// Close drains the worker until ctx ends, stops what still runs, ends the server
// and removes its data if it was temporary. Further calls return what the first did.
func (n *Node) Close(ctx context.Context) error {
	n.once.Do(func() {
		if n.worker != nil {
			n.err = n.worker.close(ctx)
		}
		// The worker may have used up the time; the server's data is not left half closed for that.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		n.err = errors.Join(n.err, n.server.close(end))
	})
	return n.err
}

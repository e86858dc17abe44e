package queuetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// childEnv makes a test binary that is started with it a nats-server: its
// value is the childConfig in JSON.
const childEnv = "RUNNEL_QUEUETEST_SERVER"

type childConfig struct {
	Config   string   // file of deploy/nats
	Listen   int      // port of clients
	Cluster  int      // port of routes; 0 is none
	Routes   []string // of the cluster
	StoreDir string
	LogFile  string
}

// A test binary is its own nats-server: nothing has to be built or installed.
func init() {
	v, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	if err := child(v); err != nil {
		fmt.Fprintln(os.Stderr, "nats-server child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(v string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(v), &c); err != nil {
		return err
	}
	opts, err := server.ProcessConfigFile(c.Config)
	if err != nil {
		return err
	}
	opts.Host, opts.Port, opts.StoreDir = "127.0.0.1", c.Listen, c.StoreDir
	opts.LogFile, opts.Logtime, opts.NoSigs, opts.JetStreamMaxStore = c.LogFile, true, true, maxStore
	if c.Cluster != 0 {
		opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1", c.Cluster
		opts.Routes = server.RoutesFromStr(strings.Join(c.Routes, ","))
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	srv.ConfigureLogger()
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		return fmt.Errorf("not ready after %v", startTimeout)
	}
	fmt.Println("ready", srv.ClientURL())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// The parent holds the other end, and dies with it, however it dies.
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case <-stop:
		srv.Shutdown()
		srv.WaitForShutdown()
	case <-gone: // as if killed: what a clean stop would write, a crash would not
	}
	return nil
}

// Servers is one nats-server or a cluster of them, each a child process.
type Servers struct {
	t     testing.TB
	nodes []*process
}

type process struct {
	cfg childConfig
	// mu guards the process that runs now; nil when it was killed.
	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

// Process starts one nats-server as a child process, which can be killed.
func Process(t testing.TB) *Servers { t.Helper(); return start(t, "", "single.conf") }

// ProcessIn is Process with its data in dir, on a disk of the test's.
func ProcessIn(t testing.TB, dir string) *Servers { t.Helper(); return start(t, dir, "single.conf") }

// Cluster starts n nats-servers (at most three) as child processes that form
// one cluster, and waits until JetStream has a leader.
func Cluster(t testing.TB, n int) *Servers {
	t.Helper()
	return start(t, "", []string{"node1.conf", "node2.conf", "node3.conf"}[:n]...)
}

func start(t testing.TB, store string, configs ...string) *Servers {
	t.Helper()
	s := &Servers{t: t}
	ports := freePorts(t, 2*len(configs))
	var routes []string
	for i := range configs {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[len(configs)+i]))
	}
	dir := t.TempDir()
	if store == "" {
		store = dir
	}
	for i, file := range configs {
		c := childConfig{
			Config:   Config(t, file),
			Listen:   ports[i],
			StoreDir: filepath.Join(store, fmt.Sprint(i)),
			LogFile:  filepath.Join(dir, fmt.Sprintf("%d.log", i)),
		}
		if len(configs) > 1 {
			c.Cluster, c.Routes = ports[len(configs)+i], routes
		}
		s.nodes = append(s.nodes, &process{cfg: c})
	}
	t.Cleanup(s.close)
	var wg sync.WaitGroup
	for i := range s.nodes {
		wg.Go(func() { s.Restart(i) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	s.WaitReady()
	return s
}

// freePorts returns ports that nobody listens on. They are let go before the
// servers take them, as routes must be known before any server starts.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// URL is where clients connect: all the servers.
func (s *Servers) URL() string {
	var all []string
	for i := range s.nodes {
		all = append(all, s.URLOf(i))
	}
	return strings.Join(all, ",")
}

// URLOf is the address of server i.
func (s *Servers) URLOf(i int) string {
	return fmt.Sprintf("nats://127.0.0.1:%d", s.nodes[i].cfg.Listen)
}

// Log returns what server i has logged, over all its restarts.
func (s *Servers) Log(i int) string {
	text, err := os.ReadFile(s.nodes[i].cfg.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Len is how many servers there are.
func (s *Servers) Len() int { return len(s.nodes) }

// Connect connects to the servers and closes the connection when the test ends.
func (s *Servers) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, s.URL(), append([]nats.Option{nats.DontRandomize()}, opts...)...)
}

// ConnectTo connects to server i alone and closes the connection when the test ends.
func (s *Servers) ConnectTo(t testing.TB, i int, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, s.URLOf(i), append([]nats.Option{nats.IgnoreDiscoveredServers()}, opts...)...)
}

// Kill kills server i as kill -9 does, and returns when it is gone.
func (s *Servers) Kill(i int) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.done
	_ = n.stdin.Close()
	n.cmd = nil
}

// Stop ends server i in order, as its operator does, and returns when it is gone.
func (s *Servers) Stop(i int) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Errorf("stop nats-server %d: %v", i, err)
	}
	select {
	case <-n.done:
	case <-time.After(startTimeout):
		s.t.Errorf("nats-server %d did not stop within %v", i, startTimeout)
		_ = n.cmd.Process.Kill()
		<-n.done
	}
	_ = n.stdin.Close()
	n.cmd = nil
}

// Restart kills server i if it runs and starts it again with the same data under
// the same address. It returns when the server accepts connections; WaitReady
// waits until JetStream answers.
func (s *Servers) Restart(i int) {
	s.t.Helper()
	s.Kill(i)
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.start(); err != nil {
		s.t.Errorf("start nats-server %d: %v", i, err)
	}
}

func (n *process) start() error {
	cfg, err := json.Marshal(n.cfg)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	// Under the race detector a process otherwise sleeps for a second before it exits.
	cmd.Env = append(os.Environ(), childEnv+"="+string(cfg), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("said %q, not ready", line), err, cmd.Wait())
	}
	n.cmd, n.stdin, n.done = cmd, stdin, make(chan struct{})
	go func() {
		defer close(n.done)
		_ = cmd.Wait()
	}()
	return nil
}

func (s *Servers) close() {
	for i, n := range s.nodes {
		s.Kill(i)
		if s.t.Failed() {
			log, _ := os.ReadFile(n.cfg.LogFile)
			s.t.Logf("end of the log of nats-server %d:\n%s", i, log[max(0, len(log)-4000):])
		}
	}
}

// WaitReady waits until JetStream has a leader and every server that runs is current.
func (s *Servers) WaitReady() {
	s.t.Helper()
	s.wait("JetStream is ready", func(ctx context.Context, js jetstream.JetStream) bool {
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// Leader returns which server leads a stream.
func (s *Servers) Leader(stream string) int {
	s.t.Helper()
	return s.leader("stream "+stream, func(ctx context.Context, js jetstream.JetStream) (*jetstream.ClusterInfo, error) {
		str, err := js.Stream(ctx, stream)
		if err != nil {
			return nil, err
		}
		return str.CachedInfo().Cluster, nil
	})
}

// ConsumerLeader returns which server leads a consumer.
func (s *Servers) ConsumerLeader(stream, consumer string) int {
	s.t.Helper()
	return s.leader("consumer "+consumer, func(ctx context.Context, js jetstream.JetStream) (*jetstream.ClusterInfo, error) {
		c, err := js.Consumer(ctx, stream, consumer)
		if err != nil {
			return nil, err
		}
		return c.CachedInfo().Cluster, nil
	})
}

func (s *Servers) leader(what string, info func(context.Context, jetstream.JetStream) (*jetstream.ClusterInfo, error)) int {
	s.t.Helper()
	if len(s.nodes) == 1 {
		return 0
	}
	leader := -1
	s.wait("leader of "+what, func(ctx context.Context, js jetstream.JetStream) bool {
		c, err := info(ctx, js)
		if err != nil || c == nil {
			return false
		}
		// server_name of nodeN.conf is runnel-N.
		_, err = fmt.Sscanf(c.Leader, "runnel-%d", &leader)
		leader--
		return err == nil && leader >= 0 && leader < len(s.nodes)
	})
	return leader
}

// StepDown has the leader of a stream hand its place to another.
func (s *Servers) StepDown(stream string) { s.t.Helper(); s.stepDown("STREAM", stream) }

// StepDownConsumer has the leader of a consumer hand its place to another.
func (s *Servers) StepDownConsumer(stream, consumer string) {
	s.t.Helper()
	s.stepDown("CONSUMER", stream+"."+consumer)
}

func (s *Servers) stepDown(what, name string) {
	s.t.Helper()
	s.wait("step-down of "+name, func(ctx context.Context, js jetstream.JetStream) bool {
		m, err := js.Conn().RequestWithContext(ctx, "$JS.API."+what+".LEADER.STEPDOWN."+name, nil)
		if err != nil {
			return false
		}
		var answer struct {
			Success bool `json:"success"`
		}
		return json.Unmarshal(m.Data, &answer) == nil && answer.Success
	})
}

// Current waits until every replica of a stream has all of it.
func (s *Servers) Current(stream string) {
	s.t.Helper()
	s.wait("replicas of "+stream, func(ctx context.Context, js jetstream.JetStream) bool {
		str, err := js.Stream(ctx, stream)
		if err != nil || str.CachedInfo().Cluster == nil {
			return false
		}
		replicas := str.CachedInfo().Cluster.Replicas
		for _, r := range replicas {
			if !r.Current || r.Offline {
				return false
			}
		}
		return len(replicas) == len(s.nodes)-1
	})
}

// wait asks until the answer is yes. It has a connection of its own, so that it
// disturbs none of the test's.
func (s *Servers) wait(what string, ask func(context.Context, jetstream.JetStream) bool) {
	s.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		s.t.Fatalf("wait for %s: %v", what, err)
	}
	defer func() { nc.Close(); <-closed }()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatalf("wait for %s: %v", what, err)
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		ok := ask(try, js)
		cancel()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("wait for %s: not within a minute", what)
		case <-again.C:
		}
	}
}

// Package fleet runs whole fleets of real processes for the integration tests:
// nats-servers, workers and submitters, each a child of the test, so that each
// can be killed, frozen and cut off while the others go on.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// Patience is the deadline of whatever must happen at all: about ten times what it takes.
const Patience = 2 * time.Minute

// Rounds is how often a fault run repeats each fault: RUNNEL_ROUNDS (make soak), else short.
func Rounds(t testing.TB, short int) int {
	t.Helper()
	text := os.Getenv("RUNNEL_ROUNDS")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RUNNEL_ROUNDS=%q: a number of at least 1", text)
	}
	return n
}

// Config says what fleet to start. The zero value is one server, no worker yet.
type Config struct {
	// Nodes is the number of nats-servers, each with a replica of everything; 0 is 1.
	Nodes int
	// URL is where a server is that the test has started itself; "" starts Nodes of them.
	URL string
	// StoreDir is where the one server keeps its data; "" is a directory of the fleet's.
	StoreDir string
	// ReplyAge is how long results are kept; 0 is the default.
	ReplyAge time.Duration
	// Sizes bounds the streams; 0 is the default.
	InvokeMaxBytes, ReplyMaxBytes, DeadMaxBytes int64
}

// Fleet is what a test breaks.
type Fleet struct {
	// Servers are those that the fleet has started; nil if the test did.
	Servers  *queuetest.Servers
	Topology queue.Topology
	// Conn is the harness's own connection, past every proxy.
	Conn *nats.Conn
	// Dir holds everything that the fleet writes.
	Dir string

	t        testing.TB
	url      string
	observer *observer
	proxies  []*proxy.Proxy

	mu        sync.Mutex
	workers   []*Worker
	followers []*follower
	pools     map[string]bool
	next      int
}

// Start starts the servers, makes the streams and begins to watch.
func Start(t testing.TB, cfg Config) *Fleet {
	t.Helper()
	f := &Fleet{t: t, Dir: t.TempDir(), pools: map[string]bool{}}
	switch {
	case cfg.URL != "":
	case cfg.Nodes > 1:
		f.Servers = queuetest.Cluster(t, cfg.Nodes)
	case cfg.StoreDir != "":
		f.Servers = queuetest.ProcessIn(t, cfg.StoreDir)
	default:
		f.Servers = queuetest.Process(t)
	}
	f.Topology = queue.Topology{
		Replicas: max(cfg.Nodes, 1), ReplyAge: cfg.ReplyAge,
		InvokeMaxBytes: cfg.InvokeMaxBytes, ReplyMaxBytes: cfg.ReplyMaxBytes, DeadMaxBytes: cfg.DeadMaxBytes,
	}
	if f.url = cfg.URL; f.Servers != nil {
		f.url = f.Servers.URL()
		f.Conn = f.Servers.Connect(t)
	} else {
		f.Conn = f.dial(f.url)
	}
	js, err := jetstream.New(f.Conn)
	if err != nil {
		t.Fatal(err)
	}
	f.Await("streams are there", Patience, func(ctx context.Context) (bool, string) {
		_, err := queue.Ensure(ctx, js, f.Topology)
		if err != nil && !errors.Is(err, queue.ErrUnknown) { // a young cluster cannot say yet
			t.Fatalf("ensure streams: %v", err)
		}
		return err == nil, fmt.Sprint(err)
	})
	for _, dir := range []string{f.ledger(), f.WorkRoot()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if f.observer, err = observe(f.Conn, f.Topology, f.ledger()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func (f *Fleet) ledger() string { return filepath.Join(f.Dir, "ledger") }

// WorkRoot is where the workers make their workspaces.
func (f *Fleet) WorkRoot() string { return filepath.Join(f.Dir, "work") }

// close ends what the fleet started, and what its jobs left.
func (f *Fleet) close() {
	f.observer.stop()
	for _, w := range f.workers {
		w.Kill()
	}
	for _, p := range f.proxies {
		p.Close()
	}
	for _, e := range f.observer.live {
		_ = e.Kill()
	}
	races, _ := filepath.Glob(filepath.Join(f.Dir, "race.*"))
	for _, race := range races {
		text, _ := os.ReadFile(race)
		f.t.Errorf("data race in a child:\n%s", text)
	}
}

// Proxy puts a way to the first server that can be slowed and cut; URL is where to connect to it.
func (f *Fleet) Proxy() (p *proxy.Proxy, address string) {
	f.t.Helper()
	u, err := url.Parse(f.Servers.URLOf(0))
	if err != nil {
		f.t.Fatal(err)
	}
	if p, err = proxy.New(u.Host); err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proxies = append(f.proxies, p)
	return p, "nats://" + p.Addr()
}

// dial connects until the test ends.
func (f *Fleet) dial(address string) *nats.Conn {
	f.t.Helper()
	nc, err := nats.Connect(address, append(runnel.ConnectOptions("integration"), nats.DontRandomize(), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		f.t.Fatalf("connect to %s: %v", address, err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

// Client returns a client of one tenant on a connection of its own; address "" is all servers.
func (f *Fleet) Client(tenant, address string) *runnel.Client {
	f.t.Helper()
	if address == "" {
		address = f.url
	}
	nc := f.dial(address)
	c, err := runnel.New(nc, runnel.WithTenant(tenant), runnel.WithReplicas(f.Topology.ReplicaCount()))
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// ID returns an id that no other invocation of the fleet has.
func (f *Fleet) ID(prefix string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return fmt.Sprintf("%s%d", prefix, f.next)
}

// Count is an invocation of the counting job; args are its flags. The checker knows its output.
func (f *Fleet) Count(tenant, id string, args ...string) contracts.Invocation {
	argv := append([]string{Job(f.t), "count", "-tenant", tenant, "-ledger", f.ledger()}, args...)
	return contracts.Invocation{ID: id, Kind: contracts.KindSubprocess, Tenant: tenant, Command: argv}
}

// Hold is an invocation of a job that stays, silent, until it is stopped.
func (f *Fleet) Hold(tenant, id string) contracts.Invocation {
	inv := f.Count(tenant, id)
	inv.Command = []string{Job(f.t), "hold", "-tenant", tenant, "-ledger", f.ledger()}
	return inv
}

// Submitted notes inv before somebody submits it past Submit.
func (f *Fleet) Submitted(inv contracts.Invocation) {
	s := check.Submission{Attempts: 1, Counted: len(inv.Command) > 1 && inv.Command[1] == "count" && !slices.Contains(inv.Command, "-trap")}
	if inv.Retry != nil {
		s.Attempts = inv.Retry.Attempts
	}
	f.observer.submit(check.Key{Tenant: inv.WithDefaults().Tenant, ID: inv.ID}, s)
}

// Accepted notes that the submission of an invocation was confirmed.
func (f *Fleet) Accepted(tenant, id, digest string) {
	f.observer.accept(check.Key{Tenant: tenant, ID: id}, digest)
}

// Submit submits invocations of c's tenant and fails the test if one is not accepted.
func (f *Fleet) Submit(c *runnel.Client, invs ...contracts.Invocation) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), Patience)
	defer cancel()
	for _, inv := range invs {
		f.Submitted(inv)
	}
	tenant := invs[0].WithDefaults().Tenant
	n := 0
	for receipt, err := range c.SubmitAll(ctx, slices.Values(invs)) {
		if err != nil {
			f.t.Fatalf("submit: %v", err)
		}
		f.Accepted(tenant, receipt.ID, receipt.Digest)
		n++
	}
	if n != len(invs) {
		f.t.Fatalf("SubmitAll() gave %d receipts, want %d", n, len(invs))
	}
}

// Excuse lets runs of an invocation overlap until now.
func (f *Fleet) Excuse(tenant, id, why string) {
	f.observer.mu.Lock()
	defer f.observer.mu.Unlock()
	f.observer.excused[check.Key{Tenant: tenant, ID: id}] = check.Excuse{Why: why, Until: time.Now()}
}

// ExcuseRunning lets the runs of everything that is accepted and has no result overlap until now, and returns what that is.
func (f *Fleet) ExcuseRunning(why string) (excused []check.Key) {
	f.observer.mu.Lock()
	defer f.observer.mu.Unlock()
	for k := range f.observer.submitted {
		if _, ended := f.observer.heard[k]; !ended {
			f.observer.excused[k] = check.Excuse{Why: why, Until: time.Now()}
			excused = append(excused, k)
		}
	}
	return excused
}

// AwaitResults waits until every accepted invocation has a result, as the stream says.
func (f *Fleet) AwaitResults(within time.Duration) {
	f.t.Helper()
	f.Await("results", within, func(ctx context.Context) (bool, string) {
		f.observer.mu.Lock()
		var missing []check.Key
		for k := range f.observer.accepted {
			if _, ok := f.observer.heard[k]; !ok {
				missing = append(missing, k)
			}
		}
		f.observer.mu.Unlock()
		if len(missing) == 0 {
			return true, ""
		}
		// What was stored while this connection was away was not heard.
		store := queue.NewStore(f.Conn, f.Topology.ReplyStream(), f.Topology.ReplicaCount())
		left := 0
		for _, k := range missing {
			s, err := store.Last(ctx, f.Topology.Names().Result(k.Tenant, k.ID))
			if err != nil {
				left++
				continue
			}
			f.observer.mu.Lock()
			f.observer.heard[k] = s.Time
			f.observer.mu.Unlock()
		}
		return left == 0, fmt.Sprintf("%d of them missing, %s the first", left, missing[0])
	})
}

// Results returns how many results have been heard of.
func (f *Fleet) Results() int {
	f.observer.mu.Lock()
	defer f.observer.mu.Unlock()
	return len(f.observer.heard)
}

// Await asks until the answer is yes, and fails the test with the last no if it is not within d.
func (f *Fleet) Await(what string, d time.Duration, ask func(context.Context) (ok bool, why string)) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	said := ""
	for {
		ok, why := ask(ctx)
		if ok {
			return
		}
		if ctx.Err() == nil || said == "" { // the last question may have had no time
			said = why
		}
		select {
		case <-ctx.Done():
			f.t.Fatalf("%s: not within %v: %s", what, d, said)
		case <-again.C:
		}
	}
}

// Alive returns how many processes of a job live.
func (f *Fleet) Alive(tenant, id string) int {
	return f.observer.alive(check.Key{Tenant: tenant, ID: id})
}

// Running returns the jobs that have a process which lives.
func (f *Fleet) Running() []check.Key {
	f.observer.track()
	f.observer.mu.Lock()
	defer f.observer.mu.Unlock()
	there := map[check.Key]bool{}
	for name := range f.observer.live {
		there[f.observer.tracked[name].Key] = true
	}
	return slices.Collect(maps.Keys(there))
}

// Second returns when each job began again that ran before.
func (f *Fleet) Second() (again []time.Time) {
	seen := map[check.Key]string{}
	for _, e := range f.observer.executions() { // in the order of their starts
		if first, ok := seen[e.Key]; ok && first != e.Token {
			again = append(again, e.Started)
		}
		seen[e.Key] = e.Token
	}
	return again
}

// Executions returns how many processes of a job ran so far.
func (f *Fleet) Executions(tenant, id string) int {
	tokens := map[string]bool{}
	for _, e := range f.observer.executions() {
		if e.Key == (check.Key{Tenant: tenant, ID: id}) {
			tokens[e.Token] = true
		}
	}
	return len(tokens)
}

// AwaitEmpty waits until no invocation waits or is held.
func (f *Fleet) AwaitEmpty() {
	f.t.Helper()
	f.Await("INVOKE is empty", Patience, func(ctx context.Context) (bool, string) {
		js, err := jetstream.New(f.Conn)
		if err != nil {
			return false, err.Error()
		}
		there, err := f.observer.waiting(ctx, js)
		if err == nil && len(there) > 0 {
			return false, fmt.Sprintf("%v are in it; %s", slices.Collect(maps.Keys(there)), f.observer.held(ctx, js))
		}
		return err == nil, fmt.Sprint(err)
	})
}

// AwaitGone waits until an invocation has left INVOKE.
func (f *Fleet) AwaitGone(tenant, id string) {
	f.t.Helper()
	f.Await(id+" has left INVOKE", Patience, func(ctx context.Context) (bool, string) {
		js, err := jetstream.New(f.Conn)
		if err != nil {
			return false, err.Error()
		}
		there, err := f.observer.waiting(ctx, js)
		return err == nil && !there[check.Key{Tenant: tenant, ID: id}], fmt.Sprint(err)
	})
}

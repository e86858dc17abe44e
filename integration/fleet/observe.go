package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/ledger"
	"github.com/runnel-project/runnel/internal/queue"
)

const (
	sampleEvery = 250 * time.Millisecond
	trackEvery  = 50 * time.Millisecond
)

// observer looks at a fleet from outside while it is being broken.
type observer struct {
	topology queue.Topology
	nc       *nats.Conn
	ledger   string
	quit     context.CancelFunc
	loops    sync.WaitGroup

	mu        sync.Mutex
	submitted map[check.Key]check.Submission
	accepted  map[check.Key]bool
	results   map[check.Key][]uint64
	heard     map[check.Key]time.Time // when its first result was heard
	samples   []check.Sample
	tracked   map[string]*check.Execution // by name in the ledger
	live      map[string]ledger.Entry
	excused   map[check.Key]check.Excuse
	news      chan struct{} // closed and replaced when something is heard
}

func observe(nc *nats.Conn, topology queue.Topology, ledgerDir string) (*observer, error) {
	ctx, quit := context.WithCancel(context.Background())
	o := &observer{
		topology: topology, nc: nc, ledger: ledgerDir, quit: quit,
		submitted: map[check.Key]check.Submission{}, accepted: map[check.Key]bool{},
		results: map[check.Key][]uint64{}, heard: map[check.Key]time.Time{},
		tracked: map[string]*check.Execution{}, live: map[string]ledger.Entry{}, excused: map[check.Key]check.Excuse{}, news: make(chan struct{}),
	}
	names := topology.Names()
	if _, err := nc.Subscribe(names.Live(strings.Replace(names.Results("x"), ".x.", ".*.", 1)), o.hear); err != nil {
		quit()
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		quit()
		return nil, err
	}
	o.loops.Go(func() { o.every(ctx, sampleEvery, func() { o.sample(ctx, js) }) })
	o.loops.Go(func() { o.every(ctx, trackEvery, o.track) })
	return o, nil
}

func (o *observer) stop() {
	o.quit()
	o.loops.Wait()
}

func (o *observer) every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// hear notes a result as it is stored: a second one shows here even if the stream keeps one.
func (o *observer) hear(m *nats.Msg) {
	a, err := o.topology.Names().ParseReply(m.Subject)
	if err != nil {
		return
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	k := check.Key{Tenant: a.Tenant, ID: a.ID}
	o.results[k] = append(o.results[k], seq)
	if _, ok := o.heard[k]; !ok {
		o.heard[k] = time.Now()
	}
	close(o.news)
	o.news = make(chan struct{})
}

// submit notes that an invocation is about to be submitted: until it is accepted, it may exist or not.
func (o *observer) submit(k check.Key, s check.Submission) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.accepted[k] {
		return // it is submitted again
	}
	s.Maybe = true
	o.submitted[k] = s
}

func (o *observer) accept(k check.Key, digest string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.submitted[k]
	s.Maybe, s.Digest = false, digest
	o.submitted[k] = s
	o.accepted[k] = true
}

// sample looks where every accepted invocation is. INVOKE is read before REPLY: a job moves that way only.
func (o *observer) sample(ctx context.Context, js jetstream.JetStream) {
	o.mu.Lock()
	s := check.Sample{At: time.Now(), Accepted: slices.Collect(maps.Keys(o.accepted)), Replied: map[check.Key]bool{}}
	for k := range o.heard {
		s.Replied[k] = true
	}
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var err error
	if s.Invoke, err = o.waiting(ctx, js); err != nil {
		return // the servers are being broken: what is there cannot be seen now
	}
	store := queue.NewStore(o.nc, o.topology.ReplyStream(), o.topology.ReplicaCount())
	for _, k := range s.Accepted {
		if s.Invoke[k] || s.Replied[k] {
			continue
		}
		_, err := store.Last(ctx, o.topology.Names().Result(k.Tenant, k.ID))
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return
		}
		s.Replied[k] = err == nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.samples = append(o.samples, s)
}

// waiting returns what is in INVOKE, as its leader says.
func (o *observer) waiting(ctx context.Context, js jetstream.JetStream) (map[check.Key]bool, error) {
	// A question that is lost in an election is never answered: ask another time.
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, o.topology.InvokeStream())
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, err
	}
	there := make(map[check.Key]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if a, err := o.topology.Names().ParseInvoke(subject); err == nil {
			there[check.Key{Tenant: a.Tenant, ID: a.ID}] = true
		}
	}
	return there, nil
}

// held says which consumers have something that is not acknowledged, for whom asks why INVOKE is not empty.
func (o *observer) held(ctx context.Context, js jetstream.JetStream) string {
	stream, err := js.Stream(ctx, o.topology.InvokeStream())
	if err != nil {
		return err.Error()
	}
	var all []string
	list := stream.ListConsumers(ctx)
	for c := range list.Info() {
		if c.NumAckPending > 0 || c.NumPending > 0 {
			all = append(all, fmt.Sprintf("%s: %d pending, %d held, %d waiting pulls, delivered %d, floor %d",
				c.Name, c.NumPending, c.NumAckPending, c.NumWaiting, c.Delivered.Stream, c.AckFloor.Stream))
		}
	}
	return fmt.Sprintf("of the consumers %v (%v)", all, list.Err())
}

// track follows the processes in the ledger until they are gone.
func (o *observer) track() {
	o.mu.Lock()
	defer o.mu.Unlock()
	names, err := ledger.Names(o.ledger)
	if err != nil {
		return
	}
	for _, name := range names {
		if o.tracked[name] != nil {
			continue
		}
		e, err := ledger.Read(o.ledger, name)
		if err != nil {
			continue // the checker misses it
		}
		o.tracked[name] = &check.Execution{Key: check.Key{Tenant: e.Tenant, ID: e.ID}, Token: e.Token, PID: e.PID, Started: e.Started}
		o.live[name] = e
	}
	for name, e := range o.live {
		if alive, err := e.Alive(); err == nil && !alive {
			o.tracked[name].Gone = time.Now()
			delete(o.live, name)
		}
	}
}

// alive returns how many processes of k live.
func (o *observer) alive(k check.Key) int {
	o.track()
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for name := range o.live {
		if o.tracked[name].Key == k {
			n++
		}
	}
	return n
}

func (o *observer) executions() []check.Execution {
	o.track()
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []check.Execution
	for _, e := range o.tracked {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b check.Execution) int { return a.Started.Compare(b.Started) })
	return all
}

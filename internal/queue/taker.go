package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// freshFor is how long after its pull a first delivery cannot have been handed to anybody else: AckWait less a margin.
	freshFor = ackWait - 2*time.Second
	// checkAtOnce bounds the deliveries of one pre-run check.
	checkAtOnce = 256
	// poisonStarts is how many runs may begin without an end before the invocation is put aside.
	poisonStarts = 5
	// suspectStarts is how many such runs make it run with nothing beside it: what shares a worker
	// with one that takes workers down gathers starts without an end as well.
	suspectStarts = 3
)

// Desk is the worker as the taker sees it. Its methods must not block.
type Desk interface {
	// Admit reserves a place for one more delivery; false has it handed back at once.
	Admit() bool
	// Take receives an admitted delivery that may run. The desk owes it a last word:
	// Finish, Retry, Return, Reject or Leave.
	Take(*Delivery)
	// Dismiss frees the place of an admitted delivery that needs no run after all.
	Dismiss()
	// Presence is what the worker says of itself now.
	Presence() contracts.Presence
}

// TakerConfig says for whom a Taker takes what.
type TakerConfig struct {
	Topology Topology
	Kinds    []contracts.Kind
	Pool     string // "" is "default"
	Worker   string // unique in the fleet
	Host     string
	// MaxDisconnect ends the runs under way when the server has not answered for so long; 0 is 5 minutes.
	MaxDisconnect time.Duration
	// Problem hears what went wrong beside the way of one delivery; nil drops it. It must not block.
	Problem func(error)
	// Serves reports whether a kind can be served now: nothing is asked for of one that cannot. nil is yes. It must not block.
	Serves func(contracts.Kind) bool
	// OrphansWithin is how soon after a server has come back what it kept by mistake is removed from the queue; 0 is
	// 30 s. Tests do not wait so long.
	OrphansWithin time.Duration
	// Elsewhere reports whether a run of a kind may leave something elsewhere that goes on without its worker: what
	// was cancelled after such a run was lost goes to the desk, see Delivery.Cancelled. nil is no kind.
	Elsewhere func(contracts.Kind) bool
	// Clock is this machine's; nil is time.Now. Tests have it wrong.
	Clock func() time.Time
	// Step observes each delivery at the named steps of its life (see the Step constants); nil is nobody.
	Step func(step Step, id, run string)
}

// Step names a point in the life of a delivery at which a crash has consequences of its own.
type Step string

// The steps, in the order in which a delivery passes them.
const (
	StepReceived       Step = "received"        // message received, unread
	StepChecked        Step = "checked"         // after the pre-run check
	StepStarted        Step = "started"         // .start stored
	StepSpawned        Step = "spawned"         // the work runs (the worker calls it)
	StepChunkPublished Step = "chunk-published" // a chunk published, unconfirmed
	StepCollecting     Step = "collecting"      // its files are about to be stored (the worker calls it)
	StepCollected      Step = "collected"       // its files are stored, and nothing names them yet (the worker calls it)
	StepChunksStored   Step = "chunks-stored"   // between the last chunk and the result
	StepResultSent     Step = "result-sent"     // result published, unconfirmed
	StepResultStored   Step = "result-stored"   // result confirmed, unacked
	StepAcked          Step = "acked"
	StepEndStored      Step = "end-stored"  // between .end and the nak
	StepDeadStored     Step = "dead-stored" // between dead letter and result
	StepNaked          Step = "naked"       // handed back (in a drain: before exit)
)

// Taker takes invocations off the queue for one worker and stands for them until their last word.
type Taker struct {
	cfg    TakerConfig
	names  Names
	nc     *nats.Conn // control
	reply  *Store     // on control
	dead   *Store
	output *Store // the reply stream, on data
	people *Presences
	pulls  *puller
	index  map[string]int // "<kind>.<lane>" → consumer

	beatInbox string
	alive     atomic.Int64 // unix nanoseconds of the last answer to a beat

	calm     calm
	first    precheck
	arrivals chan *Delivery
	checks   sync.WaitGroup

	mu   sync.Mutex
	desk Desk
	held map[string]*Delivery // "<tenant>.<id>"
	// saidFull is when it was said last that a stream is full, or dead.
	saidFull map[string]time.Time
	// askedFor is when the server was asked last for a stream that had not answered a message, and answered when it answered last.
	askedFor, answered map[string]time.Time
}

// Conns are the two connections of a worker: on a shared one, beats were seen to wait 9.6 s behind output.
type Conns struct {
	Control *nats.Conn // pulls, acks, beats, results
	Data    *nats.Conn // output
}

// NewTaker returns a taker. The caller owns the connections and closes them after Run has returned.
func NewTaker(conns Conns, cfg TakerConfig) (*Taker, error) {
	control, data := conns.Control, conns.Data
	if control == data {
		return nil, errors.New("a taker needs two connections: on one, beats wait behind output")
	}
	if len(cfg.Kinds) == 0 {
		return nil, errors.New("a taker needs at least one kind")
	}
	if cfg.Pool == "" {
		cfg.Pool = contracts.DefaultPool
	}
	if cfg.MaxDisconnect <= 0 {
		cfg.MaxDisconnect = 5 * time.Minute
	}
	if cfg.OrphansWithin <= 0 {
		cfg.OrphansWithin = orphansWithin
	}
	if cfg.Problem == nil {
		cfg.Problem = func(error) {}
	}
	if cfg.Step == nil {
		cfg.Step = func(Step, string, string) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Serves == nil {
		cfg.Serves = func(contracts.Kind) bool { return true }
	}
	topo := cfg.Topology
	if cfg.Elsewhere == nil {
		cfg.Elsewhere = func(contracts.Kind) bool { return false }
	}
	t := &Taker{
		cfg:       cfg,
		names:     topo.Names(),
		nc:        control,
		reply:     NewStore(control, topo.ReplyStream(), topo.ReplicaCount()),
		dead:      NewStore(control, topo.DeadStream(), topo.ReplicaCount()),
		output:    NewStore(data, topo.ReplyStream(), topo.ReplicaCount()),
		people:    NewPresences(control, topo),
		pulls:     newPuller(control, topo, cfg.Kinds, cfg.Pool, cfg.Serves),
		index:     map[string]int{},
		beatInbox: control.NewInbox(),
		arrivals:  make(chan *Delivery, 4*checkAtOnce),
		held:      map[string]*Delivery{},
		saidFull:  map[string]time.Time{},
		askedFor:  map[string]time.Time{},
		answered:  map[string]time.Time{},
	}
	t.people.wall = cfg.Clock
	i := 0
	for _, k := range cfg.Kinds {
		for _, l := range contracts.Lanes() {
			t.index[string(k)+"."+string(l)] = i
			i++
		}
	}
	return t, nil
}

// Run makes the consumers, takes what the desk wants and keeps the leases of what it took,
// until ctx ends; then nothing is held any more by it. A drain is Stop, then the last words
// of what is in hand, then the end of ctx. ready is called when the desk may begin to want
// something, and out once the first pulls are with the server.
func (t *Taker) Run(ctx context.Context, desk Desk, ready, out func()) error {
	t.desk = desk
	js, err := jetstream.New(t.nc)
	if err != nil {
		return err
	}
	if err := t.insist(ctx, func(ctx context.Context) error {
		_, err := EnsureConsumers(ctx, js, t.cfg.Topology, t.cfg.Kinds, t.cfg.Pool)
		return err
	}); err != nil {
		return err
	}
	var subs []*nats.Subscription
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}()
	for subject, handle := range map[string]nats.MsgHandler{
		t.pulls.inbox + ".>": t.receive,
		t.beatInbox + ".*":   t.beatAnswered,
		t.names.Cancels():    t.cancelAsked,
	} {
		s, err := t.nc.Subscribe(subject, handle)
		if err != nil {
			return fmt.Errorf("subscribe to %q: %w", subject, err)
		}
		if err := s.SetPendingLimits(-1, -1); err != nil {
			return err
		}
		subs = append(subs, s)
	}
	if err := t.insist(ctx, func(ctx context.Context) error { return t.people.Put(ctx, desk.Presence()) }); err != nil {
		return fmt.Errorf("tell of this worker: %w", err)
	}
	if err := t.flush(ctx); err != nil {
		return err
	}
	t.alive.Store(time.Now().UnixNano())
	t.calm.since(t.nc)

	var loops sync.WaitGroup
	loops.Go(func() { t.check(ctx) })
	loops.Go(func() { t.keep(ctx) })
	loops.Go(func() { t.announce(ctx) })
	loops.Go(func() { t.seekOrphans(ctx, js) })
	t.pulls.tick(true)
	if ready != nil {
		ready() // the desk wants something from now on: the first pulls go out
	}
	if err := t.flush(ctx); err == nil && out != nil {
		out()
	}
	<-ctx.Done()
	t.pulls.stop()
	loops.Wait()
	t.checks.Wait()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := t.people.Remove(bye, t.cfg.Worker); err != nil && !t.nc.IsClosed() {
		t.cfg.Problem(fmt.Errorf("take back presence: %w", err))
	}
	return nil
}

// insist does what a worker must have done before it begins, and goes on for as long as no server answers:
// one that is busy or is being elected is no reason to end.
func (t *Taker) insist(ctx context.Context, do func(context.Context) error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := do(once)
		cancel()
		if err == nil || !errors.Is(err, ErrUnknown) {
			return err
		}
		t.cfg.Problem(err)
		if !sleep(ctx, wait) {
			return err
		}
	}
}

// flush waits until the server has read all that was sent.
func (t *Taker) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return t.nc.FlushWithContext(ctx)
}

// Want says how many deliveries the desk could take now; 0 asks for nothing more.
func (t *Taker) Want(n int) { t.pulls.setWant(n) }

// Stop asks for nothing more. Leases are kept until Run's ctx ends.
func (t *Taker) Stop() { t.pulls.stop() }

// Now is the server's time as far as it is known: queue ages and deadlines use it.
func (t *Taker) Now() time.Time { return t.people.Now() }

// announce keeps the presence of this worker fresh: what is older than two of these intervals is not counted as alive.
func (t *Taker) announce(ctx context.Context) {
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sent := time.Now()
		put, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := t.people.Put(put, t.desk.Presence())
		cancel()
		if err != nil && ctx.Err() == nil {
			t.cfg.Problem(fmt.Errorf("tell of this worker: %w", err))
			t.silent(ctx, t.people.store, sent, err)
		}
	}
}

// receive is called for every message on the pull inbox, one at a time.
func (t *Taker) receive(m *nats.Msg) {
	if strings.HasPrefix(m.Subject, t.pulls.inbox) {
		t.pulls.status(m.Subject, m)
		return
	}
	meta, err := m.Metadata()
	if err != nil {
		t.cfg.Problem(fmt.Errorf("a delivery on %q without metadata: %w", m.Subject, err))
		return
	}
	addr, addrErr := t.names.ParseInvoke(m.Subject)
	raw := strings.Split(m.Subject, ".")
	tail := raw[max(0, len(raw)-6):] // kind, pool, lane, shard, tenant, id
	if len(tail) < 6 {
		t.cfg.Problem(fmt.Errorf("a delivery on %q, which is no invocation subject", m.Subject))
		return
	}
	if addrErr != nil {
		addr = Address{Kind: contracts.Kind(tail[0]), Pool: tail[1], Lane: contracts.Lane(tail[2]), Shard: tail[3], Tenant: tail[4], ID: tail[5]}
	}
	pulled := time.Now()
	if i, ok := t.index[tail[0]+"."+tail[2]]; ok {
		pulled = t.pulls.arrived(i, int(meta.NumPending))
	}
	d := newDelivery(t, m, meta, addr, addrErr, pulled)
	t.cfg.Step(StepReceived, addr.ID, d.run)
	if !t.cfg.Serves(addr.Kind) || !t.desk.Admit() {
		d.nak(0) // a pull that was out when its kind was withdrawn, or the slot went
		return
	}
	switch {
	case t.reply.replicas != 1 || !d.fresh():
		t.later(d)
	case t.surelyNew(d):
		t.decide(d, false)
	default:
		t.ask(d)
	}
}

// check is the pre-run check of what precheck could not do: is there a result already? Everything
// in hand is asked about at once.
func (t *Taker) check(ctx context.Context) {
	for {
		var batch []*Delivery
		select {
		case <-ctx.Done():
			return
		case d := <-t.arrivals:
			batch = append(batch, d)
		}
	more:
		for len(batch) < checkAtOnce {
			select {
			case d := <-t.arrivals:
				batch = append(batch, d)
			default:
				break more
			}
		}
		fresh := batch[:0]
		for _, d := range batch {
			if d.fresh() {
				fresh = append(fresh, d)
				continue
			}
			t.checks.Go(func() { t.checkWhole(ctx, d) })
		}
		if len(fresh) > 0 {
			t.checkFresh(ctx, fresh)
		}
	}
}

// checkFresh asks for the results of first deliveries; nobody else can hold those.
func (t *Taker) checkFresh(ctx context.Context, batch []*Delivery) {
	subjects := make([]string, len(batch))
	for i, d := range batch {
		subjects[i] = d.resultSubject()
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		found, err := t.reply.LastMany(ask, subjects)
		cancel()
		if err == nil {
			ended := make(map[string]bool, len(found))
			for _, s := range found {
				ended[s.Subject] = true
			}
			for i, d := range batch {
				t.decide(d, ended[subjects[i]])
			}
			return
		}
		// Unknown is not absent: ask again, do not run.
		t.cfg.Problem(fmt.Errorf("pre-run check of %d: %w", len(batch), err))
		if !sleep(ctx, wait) || !batch[0].fresh() {
			for _, d := range batch {
				t.drop(d) // the server hands it out again after AckWait
			}
			return
		}
	}
}

func (t *Taker) decide(d *Delivery, ended bool) {
	t.cfg.Step(StepChecked, d.addr.ID, d.run)
	switch {
	case ended && d.count == 1 && t.cfg.Elsewhere(d.addr.Kind):
		d.count++ // a server that was killed forgets that it was handed out: all that is stored of it is looked at
		t.later(d)
	case ended:
		d.ack()
		t.desk.Dismiss()
	case !t.hold(d):
		// The same id is in hand already, from another lane or an earlier handing-over. That run answers for both.
		d.nak(ackWait)
		t.desk.Dismiss()
	default:
		t.desk.Take(d)
	}
}

// drop forgets an admitted delivery without a word to the server.
func (t *Taker) drop(d *Delivery) {
	d.release()
	t.desk.Dismiss()
}

func (t *Taker) hold(d *Delivery) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.held[d.key]; ok {
		return false
	}
	t.held[d.key] = d
	return true
}

func (t *Taker) holding(key string) *Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[key]
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

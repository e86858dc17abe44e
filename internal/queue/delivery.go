package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// startAfter is when the start of a run is stored that has stored nothing else.
	startAfter = time.Second
	putTimeout = 2 * time.Second
)

// Delivery is one handing-over of an invocation to this worker. Every delivery gets
// exactly one last word: Finish, Retry, Return, Reject, Bury or Leave. Before that the
// lease is kept, whether or not it is being run.
type Delivery struct {
	t        *Taker
	key      string // "<tenant>.<id>"
	addr     Address
	addrErr  error
	msg      *nats.Msg
	seq      uint64
	stored   time.Time // when the invocation was stored, server time
	count    int       // how often it was handed over, about
	pulled   time.Time // no later than its delivery
	received time.Time
	run      string
	digest   string
	json     bool // it came in JSON, and who sent it reads what is stored of it

	// What the pre-run check found.
	attempt  int
	again    bool // somebody may have run it before: store .start first
	poisoned int
	suspect  bool
	seenSeq  uint64 // of the newest start of another run
	spent    map[string]contracts.End
	lost     []string // runs of this attempt that were lost or handed back, the newest last

	cancelled bool // over the heads of those runs

	window   chan struct{} // a token for each 64 KiB, or message, of this run that is unconfirmed
	entrance chan struct{} // held by who waits for tokens
	emitted  atomic.Bool   // something went through the window

	mu       sync.Mutex
	hold     context.CancelCauseFunc // nil until Hold
	ended    error                   // why the hold ended
	began    time.Time               // the run
	starting bool
	startSeq uint64
	lastBeat time.Time
	over     bool
	askers   []asker // who waits to hear of a cancel
	failed   error   // a chunk that could not be stored
}

func newDelivery(t *Taker, m *nats.Msg, meta *nats.MsgMetadata, addr Address, addrErr error, pulled time.Time) *Delivery {
	now := time.Now()
	return &Delivery{
		t: t, key: addr.Tenant + "." + addr.ID, addr: addr, addrErr: addrErr, msg: m,
		seq: meta.Sequence.Stream, stored: meta.Timestamp.UTC(), count: int(meta.NumDelivered),
		pulled: pulled, received: now, lastBeat: now, run: contracts.NewRun(), attempt: 1,
		window: make(chan struct{}, windowTokens), entrance: make(chan struct{}, 1),
		json: contracts.SpeaksJSON(m.Data, metaOf(m.Header)),
	}
}

// Now is the time by the server's clock.
func (d *Delivery) Now() time.Time { return d.t.Now() }

// fresh reports whether nobody else can have been handed this delivery yet.
func (d *Delivery) fresh() bool { return d.count == 1 && time.Since(d.pulled) < freshFor }

// ID is the invocation's, from the subject.
func (d *Delivery) ID() string { return d.addr.ID }

// Tenant is the invocation's, from the subject.
func (d *Delivery) Tenant() string { return d.addr.Tenant }

// Kind is the invocation's, from the subject.
func (d *Delivery) Kind() contracts.Kind { return d.addr.Kind }

// Size is how many bytes were delivered.
func (d *Delivery) Size() int { return len(d.msg.Data) }

// Run is the name of the run that this delivery is good for.
func (d *Delivery) Run() string { return d.run }

// Attempt is 1 plus the attempts that ended before by the work's own doing.
func (d *Delivery) Attempt() int { return d.attempt }

// Submitted is when the invocation was stored, by the server's clock.
func (d *Delivery) Submitted() time.Time { return d.stored }

// Began reports whether an earlier run of the invocation began.
func (d *Delivery) Began() bool { return d.again && d.seenSeq > 0 }

// Poisoned is the number of runs that began and never ended, where that is too many to try again; else 0.
func (d *Delivery) Poisoned() int { return d.poisoned }

// Cancelled reports whether the invocation was cancelled when its run was lost or handed back, by an asker whom no worker
// answered: it is not to be run. What that run left elsewhere (Note) has to be ended, and then Told is the last word.
func (d *Delivery) Cancelled() bool { return d.cancelled }

// Suspect reports whether so many of its runs began and never ended that it must run with nothing
// beside it: it may take its worker down, and the others would be blamed.
func (d *Delivery) Suspect() bool { return d.suspect }

// Handed is how many runs of the invocation ended for no fault of its own and were handed back.
func (d *Delivery) Handed() (n int) {
	for _, e := range d.spent {
		if !e.Counted {
			n++
		}
	}
	return n
}

// Spent is the end of the last attempt, if attempts have ended before.
func (d *Delivery) Spent() (contracts.End, bool) {
	var last contracts.End
	for _, e := range d.spent {
		if e.Counted && (last.Run == "" || e.Attempt > last.Attempt) {
			last = e
		}
	}
	return last, last.Run != ""
}

// Invocation decodes and checks what was delivered. Subject tokens win: what the body
// leaves out they fill in, and where it disagrees with them it is refused.
// contracts.ErrNewerMajor is not for this worker to judge: hand it back.
func (d *Delivery) Invocation() (contracts.Invocation, error) {
	d.digest = digestOf(d.msg.Header, d.msg.Data)
	inv, err := contracts.Decode[contracts.Invocation](d.msg.Data, metaOf(d.msg.Header))
	if err != nil {
		return inv, err
	}
	if d.addrErr != nil {
		return inv, d.addrErr
	}
	var wrong contracts.ValidationError
	token := func(field string, body *string, subject string) {
		if *body != "" && *body != subject {
			wrong.Fields = append(wrong.Fields, contracts.FieldError{Field: field, Problem: fmt.Sprintf("is %q in the body and %q in the subject: publish to the subject that the body names", short(*body), subject)})
		}
		*body = subject
	}
	token("invocation_id", &inv.ID, d.addr.ID)
	token("tenant", &inv.Tenant, d.addr.Tenant)
	token("pool", &inv.Pool, d.addr.Pool)
	token("runtime_kind", (*string)(&inv.Kind), string(d.addr.Kind))
	token("lane", (*string)(&inv.Lane), string(d.addr.Lane))
	if len(wrong.Fields) > 0 {
		return inv, &wrong
	}
	return inv, inv.Validate()
}

// Result begins a result for this delivery: what is known without running it.
func (d *Delivery) Result(inv contracts.Invocation) contracts.Result {
	return contracts.Result{
		ID: d.addr.ID, Name: inv.Name, Kind: d.addr.Kind, Tenant: d.addr.Tenant, Pool: d.addr.Pool, Lane: d.addr.Lane,
		Labels: inv.Labels, Digest: d.digest, Attempt: d.attempt,
		Worker: d.t.cfg.Worker, Host: d.t.cfg.Host, SubmittedAt: d.stored, FinishedAt: d.t.Now().UTC(),
	}
}

// Hold begins the run: the context that it returns ends with ErrCancelled when somebody
// asks for it, and with ErrLeaseLost when the run is not this worker's any more. Where
// somebody may have run it before, the start is stored first.
func (d *Delivery) Hold(ctx context.Context) (context.Context, error) {
	if time.Since(d.received) > freshFor/2 && !d.stillOurs(ctx) {
		d.lose(ErrLeaseLost)
		return nil, ErrLeaseLost
	}
	held, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	d.hold, d.began = cancel, time.Now()
	ended := d.ended
	d.mu.Unlock()
	if ended != nil {
		cancel(ended)
		return held, nil
	}
	if d.again {
		if err := d.storeStart(ctx); err != nil {
			return held, err
		}
	}
	return held, nil
}

func (d *Delivery) startMessage() (string, []byte, error) {
	data, err := d.encode(contracts.Start{
		Run: d.run, Attempt: d.attempt, Worker: d.t.cfg.Worker, Host: d.t.cfg.Host, At: d.t.Now().UTC(), Digest: d.digest,
	})
	return d.t.names.Start(d.addr.Tenant, d.addr.ID, d.run), data, err
}

// storeStart stores the start and waits for it.
func (d *Delivery) storeStart(ctx context.Context) error {
	d.mu.Lock()
	if d.starting {
		d.mu.Unlock()
		return nil
	}
	d.starting = true
	d.mu.Unlock()
	subject, data, err := d.startMessage()
	if err != nil {
		return err
	}
	seq, err := d.persist(ctx, d.t.reply, subject, data, nil)
	if err != nil && !errors.Is(err, ErrOccupied) {
		return fmt.Errorf("store start: %w", err)
	}
	d.mu.Lock()
	d.startSeq = seq
	d.mu.Unlock()
	d.t.cfg.Step(StepStarted, d.addr.ID, d.run)
	return nil
}

// resultSubject is where the result goes, also of an invocation with a tenant or an id
// that nobody may use: the tokens are those of the subject that it came on.
func (d *Delivery) resultSubject() string {
	if d.addrErr != nil {
		return d.t.names.prefix() + ".reply." + d.key + ".result"
	}
	return d.t.names.Result(d.addr.Tenant, d.addr.ID)
}

func (d *Delivery) deadSubject() string {
	if d.addrErr != nil {
		return d.t.names.prefix() + ".dead." + d.key
	}
	return d.t.names.Dead(d.addr.Tenant, d.addr.ID)
}

func (d *Delivery) ack() { d.word("+ACK") }

func (d *Delivery) nak(delay time.Duration) {
	if delay <= 0 {
		d.word("-NAK")
	} else {
		d.word(`-NAK {"delay":` + strconv.FormatInt(int64(delay), 10) + `}`)
	}
	d.t.cfg.Step(StepNaked, d.addr.ID, d.run)
}

func (d *Delivery) word(w string) {
	if err := d.t.nc.Publish(d.msg.Reply, []byte(w)); err != nil {
		// The lease runs out by itself, and the pre-run check of the next holder mends what was meant.
		d.t.cfg.Problem(fmt.Errorf("tell the server %.4s of %s: %w", w, d.addr.ID, err))
	}
}

// beat extends the lease. The answer comes to beatAnswered: it proves a live server, not ownership,
// for the server answers a stale holder too.
func (d *Delivery) beat() {
	d.mu.Lock()
	d.lastBeat = time.Now()
	d.mu.Unlock()
	if err := d.t.nc.PublishRequest(d.msg.Reply, d.t.beatInbox+".b", []byte("+WPI")); err != nil && !d.t.nc.IsClosed() {
		d.t.cfg.Problem(fmt.Errorf("beat: %w", err))
	}
}

// release takes the delivery off the desk: no beats, no cancels.
func (d *Delivery) release() {
	d.mu.Lock()
	d.over = true
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		hold(context.Canceled)
	}
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	if d.t.held[d.key] == d {
		delete(d.t.held, d.key)
	}
}

// lose ends the hold with a cause; the first one counts, but for a lease lost after a cancel.
func (d *Delivery) lose(cause error) {
	d.mu.Lock()
	if d.ended == nil {
		d.ended = cause
	}
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		hold(cause)
	}
}

// persist stores one message on the fence and stays at it until it is stored or the lease is over, however long that
// takes: while the server answers beats, whom the work was done for waits, and who gave up would have it done again.
// sent, if not nil, is called once the message is out for the first time.
func (d *Delivery) persist(ctx context.Context, s *Store, subject string, data []byte, sent func()) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		began := time.Now()
		done := make(chan answer, 1)
		s.PutAsync(subject, headerFor(d.json), data, func(seq uint64, err error) { done <- answer{seq, err} })
		if sent != nil {
			sent()
			sent = nil
		}
		var a answer
		select {
		case a = <-done: // comes within the time that the store gives each message
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if a.err == nil || errors.Is(a.err, ErrOccupied) || hopeless(a.err) {
			return a.seq, a.err
		}
		if lost := d.trouble(); lost != nil {
			return 0, lost
		}
		d.t.full(s, a.err)
		d.t.silent(ctx, s, began, a.err)
		if !sleep(ctx, wait) {
			return 0, fmt.Errorf("%w (last: %w)", context.Cause(ctx), a.err)
		}
	}
}

// hopeless reports whether trying to store the same again cannot help. A full stream can be emptied.
func hopeless(err error) bool {
	return errors.Is(err, ErrDenied) || errors.Is(err, ErrNoStream) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrRefused) || errors.Is(err, ErrClosed)
}

func metaOf(h nats.Header) contracts.Meta {
	return contracts.Meta{ContentType: h.Get(contracts.HeaderContentType), Version: h.Get(contracts.HeaderVersion)}
}

func newHeader() nats.Header {
	return nats.Header{contracts.HeaderVersion: {contracts.Version}}
}

// headerFor is newHeader of a message that may be JSON.
func headerFor(isJSON bool) nats.Header {
	h := newHeader()
	if isJSON {
		h[contracts.HeaderContentType] = []string{contracts.ContentJSON}
	}
	return h
}

// encode writes what is stored of the invocation in the encoding that it came in: a client that
// knows JSON alone must be able to follow what it submitted.
func (d *Delivery) encode(v any) ([]byte, error) { return contracts.EncodeFor(v, d.json) }

func validDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func short(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}

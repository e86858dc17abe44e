package runnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Handler does the work of one invocation of kind manual. nil is succeeded; an error is failed, with exit code 1 or that
// of an *ExitError in its chain, or rejected if it wraps a *RejectedError. A panic is failed, too.
//
// ctx ends when the invocation is cancelled, its time is over, its worker is gone or the Responder closes;
// context.Cause says which. A Handler must then return soon. An invocation may come to a second Handler
// when a worker or a responder dies: its ID says that it is the same.
type Handler func(ctx context.Context, t *Task) error

// Middleware goes around a Handler: logs, measures, checks who may call.
type Middleware func(Handler) Handler

// ExitError has a Handler end failed with an exit code.
type ExitError struct {
	Code int // not 0; negative is a signal
	Text string
}

func (e *ExitError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Text
}

// RejectedError has a Handler end rejected: nobody should try this again.
type RejectedError struct{ Text string }

func (e *RejectedError) Error() string { return e.Text }

// What ends the context of a Handler.
var (
	// ErrStopped says that the worker told the responder to stop: the invocation was cancelled, answered by a
	// person or out of time; the text says which.
	ErrStopped = errors.New("told to stop")
	// ErrNobodyWaits says that the worker is gone, or has ended the run otherwise.
	ErrNobodyWaits = errors.New("nobody waits for this run")
	// ErrClosing says that the Responder is closing.
	ErrClosing = errors.New("the responder is closing")
)

// WithConcurrency says how many Handlers of a Responder run at once; 0 is 16. What comes beyond goes to another.
func WithConcurrency(n int) Option { return func(s *settings) { s.concurrency = n } }

// WithMiddleware puts middleware around the Handler, the first one outermost.
func WithMiddleware(m ...Middleware) Option {
	return func(s *settings) { s.middleware = append(s.middleware, m...) }
}

// WithProblems has a Responder say what it cannot make sense of, or send: messages of a stranger, a lost outcome.
func WithProblems(f func(error)) Option { return func(s *settings) { s.problems = f } }

// Responder answers invocations of kind manual.
type Responder struct {
	nc       *nats.Conn
	names    queue.Names
	settings settings
	name     string
	id       string // who it is to workers
	handler  Handler
	inbox    string
	requests *nats.Subscription
	controls *nats.Subscription
	slots    chan struct{}

	mu      sync.Mutex
	tasks   map[string]*Task // by run
	closing bool
	all     sync.WaitGroup // tasks, to the last word
	once    sync.Once
	err     error
}

// responders is the queue group that all of them share: a request comes to one.
const responders = "runnel"

// Handle answers the invocations of kind manual whose runtime_name is name ([a-z0-9_-]{1,64}) with handler, until the
// Responder is closed. All that handle one name share its invocations. Of the Options, WithPrefix, WithConcurrency,
// WithMiddleware and WithProblems count. The connection is the caller's, who closes it after the Responder.
func Handle(nc *nats.Conn, name string, handler Handler, opts ...Option) (*Responder, error) {
	if nc == nil || handler == nil {
		return nil, errors.New("handle: a connection and a handler are needed")
	}
	var s settings
	for _, o := range opts {
		o(&s)
	}
	if s.concurrency < 0 {
		return nil, fmt.Errorf("handle: concurrency %d is negative", s.concurrency)
	}
	if s.concurrency == 0 {
		s.concurrency = 16
	}
	if s.problems == nil {
		s.problems = func(error) {}
	}
	r := &Responder{
		nc: nc, names: queue.Names{Prefix: s.prefix}, settings: s, name: name, id: contracts.NewID(), handler: handler,
		inbox: nc.NewInbox(), slots: make(chan struct{}, s.concurrency), tasks: map[string]*Task{},
	}
	for i := len(s.middleware) - 1; i >= 0; i-- {
		r.handler = s.middleware[i](r.handler)
	}
	subject := r.names.Manual(name)
	if subject == "" {
		return nil, fmt.Errorf("handle: name %.80q, prefix %.80q: each must be 1 to 64 of a-z 0-9 _ -", name, s.prefix)
	}
	var err error
	if r.controls, err = nc.Subscribe(r.inbox+".*", r.controlled); err != nil {
		return nil, fmt.Errorf("handle %s: %w", name, err)
	}
	if r.requests, err = nc.QueueSubscribe(subject, responders, r.asked); err == nil {
		err = nc.FlushTimeout(10 * time.Second) // from now on a request finds it
	}
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("handle %s: %w", name, err)
	}
	return r, nil
}

// Close ends the Responder at once: what it does is stopped, and done again by another.
func (r *Responder) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Drain(ctx)
}

// afterClosing bounds how long Drain waits for handlers that were told to return.
const afterClosing = 30 * time.Second

// Drain takes nothing more and waits until what the Responder does has ended, or ctx has: what is left then is
// stopped, and done again by another responder. A Handler that does not return is an error.
func (r *Responder) Drain(ctx context.Context) error {
	r.once.Do(func() { r.err = r.drain(ctx) })
	return r.err
}

func (r *Responder) drain(ctx context.Context) error {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	if r.requests != nil {
		// What has come already is declined, which is quicker than to let its worker wait for a dead responder.
		if err := r.requests.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			r.settings.problems(err)
		}
	}
	idle := make(chan struct{})
	go func() {
		r.all.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		r.mu.Lock()
		for _, t := range r.tasks {
			t.cancel(ErrClosing)
		}
		r.mu.Unlock()
	}
	patience := time.NewTimer(afterClosing)
	defer patience.Stop()
	var err error
	select {
	case <-idle:
	case <-patience.C:
		err = fmt.Errorf("handle %s: a handler has not returned %s after its context ended", r.name, afterClosing)
	}
	_ = r.controls.Unsubscribe() // fails on a closed connection only
	return errors.Join(err, r.flush())
}

// flush has the last words out before the caller closes the connection.
func (r *Responder) flush() error {
	if !r.nc.IsConnected() {
		return nil
	}
	return r.nc.FlushTimeout(10 * time.Second)
}

// asked takes a request, or declines it.
func (r *Responder) asked(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	request, err := contracts.Decode[contracts.ManualRequest](m.Data, metaOf(m.Header))
	if err == nil {
		err = request.Validate()
	}
	if err == nil && request.Invocation.Name != r.name {
		err = fmt.Errorf("runtime_name is %q", request.Invocation.Name)
	}
	if err != nil {
		r.settings.problems(fmt.Errorf("handle %s: a request that cannot be answered: %w", r.name, err))
		return
	}
	t := r.newTask(request, m.Reply)
	r.mu.Lock()
	_, known := r.tasks[t.Run]
	closing := r.closing
	taken := false
	if !known && !closing {
		select {
		case r.slots <- struct{}{}:
			taken = true
			r.tasks[t.Run] = t
			r.all.Add(1)
		default:
		}
	}
	r.mu.Unlock()
	switch {
	case known:
		t.cancel(nil)
	case taken:
		go t.work()
	case closing:
		t.decline("closing")
	default:
		t.decline("busy")
	}
}

// controlled hears what a worker says to one of the tasks.
func (r *Responder) controlled(m *nats.Msg) {
	r.mu.Lock()
	t := r.tasks[strings.TrimPrefix(m.Subject, r.inbox+".")]
	r.mu.Unlock()
	if t == nil {
		return
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		t.unheard()
		return
	}
	c, err := contracts.Decode[contracts.ManualControl](m.Data, metaOf(m.Header))
	if err == nil {
		err = c.Validate()
	}
	if err == nil && (c.ID != t.ID || c.Run != t.Run) {
		err = fmt.Errorf("it is about run %s of %s", c.Run, c.ID)
	}
	if err != nil {
		r.settings.problems(fmt.Errorf("handle %s: %s: a message that is not a worker's: %w", r.name, t.ID, err))
		return
	}
	t.hear(c)
}

func metaOf(h nats.Header) contracts.Meta {
	return contracts.Meta{ContentType: h.Get(contracts.HeaderContentType), Version: h.Get(contracts.HeaderVersion)}
}

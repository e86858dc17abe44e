package queue_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// stage is a server with streams, a producer, and a hand that stores what a worker would.
type stage struct {
	t     testing.TB
	node  *queuetest.Node
	nc    *nats.Conn
	top   queue.Topology
	names queue.Names
	reply *queue.Store
	p     *queue.Producer
	pnc   *nats.Conn // of p
}

func newStage(t testing.TB, top queue.Topology) *stage {
	t.Helper()
	n := queuetest.Server(t)
	nc := n.Connect(t)
	ensured(t, nc, top)
	s := &stage{t: t, node: n, nc: nc, top: top, names: top.Names(), reply: queue.NewStore(nc, top.ReplyStream(), 1)}
	s.pnc = n.Connect(t)
	s.p = s.producer(s.pnc)
	return s
}

func (s *stage) producer(nc *nats.Conn) *queue.Producer {
	s.t.Helper()
	p, err := queue.NewProducer(nc, queue.ProducerConfig{Topology: s.top})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

const (
	runA = "aaaaaaaa"
	runB = "bbbbbbbb"
)

func (s *stage) put(subject string, doc any) {
	s.t.Helper()
	data, err := contracts.Encode(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	for again := false; ; again = true { // as a worker does, until it is stored
		_, err := s.reply.Put(within(s.t), subject, nats.Header{contracts.HeaderVersion: {contracts.Version}}, data)
		if err == nil || again && errors.Is(err, queue.ErrOccupied) {
			return
		}
		if !errors.Is(err, queue.ErrUnknown) {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) start(id, run string) {
	s.t.Helper()
	s.put(s.names.Start("default", id, run), contracts.Start{Run: run, Attempt: 1, Worker: "w", At: time.Now(), Digest: "d"})
}

func pieces(text string) []contracts.Piece {
	return []contracts.Piece{{Stream: contracts.Stdout, Data: []byte(text)}}
}

func (s *stage) chunk(id, run string, n int, text string) {
	s.t.Helper()
	s.put(s.names.Chunk("default", id, run, n), contracts.Chunk{N: n, At: time.Now(), Pieces: pieces(text)})
}

func (s *stage) end(id, run string, chunks int, tail string) {
	s.t.Helper()
	e := contracts.End{Run: run, Attempt: 1, Status: contracts.StatusFailed, Reason: contracts.ReasonExit, Worker: "w", At: time.Now(), Chunks: chunks}
	if tail != "" {
		e.Tail = pieces(tail)
	}
	s.put(s.names.End("default", id, run), e)
}

func (s *stage) result(id, run string, chunks int, tail string) {
	s.t.Helper()
	r := contracts.Result{
		ID: id, Kind: contracts.KindNoop, Tenant: "default", Pool: "default", Lane: contracts.LaneNormal, Digest: "d",
		Status: contracts.StatusSucceeded, Run: run, Chunks: chunks, Worker: "w", FinishedAt: time.Now(),
	}
	if tail != "" {
		r.Tail = pieces(tail)
	}
	s.put(s.names.Result("default", id), r)
}

func noop(id string) contracts.Invocation {
	return contracts.Invocation{ID: id, Kind: contracts.KindNoop}
}

func (s *stage) submit(id string) queue.Receipt {
	s.t.Helper()
	r, err := s.p.Submit(context.Background(), noop(id))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// line is an event in one line.
func line(e contracts.Event, err error) string {
	switch {
	case err != nil:
		return "error " + err.Error()
	case e.Type == contracts.EventOutput:
		return fmt.Sprintf("%s %d %s", e.Run[:1], e.N, e.Output.Data)
	case e.Type == contracts.EventGap:
		return fmt.Sprintf("%s gap %d-%d", e.Run[:1], e.Gap.From, e.Gap.To)
	case e.Type == contracts.EventResult:
		return "result " + string(e.Result.Status)
	}
	return fmt.Sprintf("%s %s", e.Run[:1], e.Type)
}

func told(events iter.Seq2[contracts.Event, error]) []string {
	var all []string
	for e, err := range events {
		all = append(all, line(e, err))
	}
	return all
}

// within is a context that no test should see the end of.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s =\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// alongside ranges over events in a goroutine and hands them on one by one.
func alongside(t testing.TB, events iter.Seq2[contracts.Event, error]) <-chan string {
	lines := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		for e, err := range events {
			lines <- line(e, err)
		}
	}()
	t.Cleanup(func() {
		for range lines {
		}
		<-done
	})
	return lines
}

// early follows id and returns once the follower hears live copies.
func (s *stage) early(id string) <-chan string {
	s.t.Helper()
	before := s.pnc.NumSubscriptions()
	lines := alongside(s.t, s.p.Watch(within(s.t), id))
	eventually(s.t, "live", func() bool { return s.pnc.NumSubscriptions() > before })
	return lines
}

func rest(lines <-chan string) (all []string) {
	for l := range lines {
		all = append(all, l)
	}
	return all
}

// users lets each publish to its subjects; its password is its name.
func users(may map[string][]string) func(*server.Options) {
	return func(o *server.Options) {
		for name, subjects := range may {
			o.Users = append(o.Users, &server.User{Username: name, Password: name, Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: subjects},
			}})
		}
	}
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// emptied throws away what a stream holds.
func emptied(t testing.TB, nc *nats.Conn, stream string, opts ...jetstream.StreamPurgeOpt) {
	t.Helper()
	str, err := jetStream(t, nc).Stream(context.Background(), stream)
	if err == nil {
		err = str.Purge(context.Background(), opts...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stored counts what a stream holds.
func stored(t testing.TB, nc *nats.Conn, stream string) uint64 {
	t.Helper()
	str, err := jetStream(t, nc).Stream(within(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	return str.CachedInfo().State.Msgs
}

func TestSubmit(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := context.Background()

	made := s.submit("")
	if !contracts.ValidID(made.ID) || made.Existed || made.Seq != 1 || made.Digest == "" {
		t.Errorf("Submit() = %+v, want a new id with seq 1", made)
	}
	first := s.submit("mine")
	again := s.submit("mine")
	if first.Existed || !again.Existed || again.Digest != first.Digest || again.Seq != first.Seq {
		t.Errorf("Submit() twice = %+v, then %+v, want the same, existed", first, again)
	}
	for name, other := range map[string]contracts.Invocation{
		"content":      {ID: "mine", Kind: contracts.KindNoop, Name: "other"},
		"another kind": {ID: "mine", Kind: contracts.KindSubprocess, Command: []string{"true"}},
		"another lane": {ID: "mine", Kind: contracts.KindNoop, Lane: contracts.LaneHigh},
	} {
		if _, err := s.p.Submit(ctx, other); !errors.Is(err, queue.ErrIDInUse) {
			t.Errorf("Submit() of %s under a used id = %v, want ErrIDInUse", name, err)
		}
	}
	// It has ended and left the queue: the result remembers it.
	emptied(t, s.nc, s.top.InvokeStream())
	s.put(s.names.Result("default", "mine"), contracts.Result{ID: "mine", Kind: contracts.KindNoop, Tenant: "default", Pool: "default",
		Lane: contracts.LaneNormal, Digest: first.Digest, Status: contracts.StatusSucceeded, FinishedAt: time.Now()})
	if r, err := s.p.Submit(ctx, noop("mine")); err != nil || !r.Existed || r.Seq != 0 {
		t.Errorf("Submit() of what has ended = %+v, %v, want existed", r, err)
	}
	if _, err := s.p.Submit(ctx, contracts.Invocation{ID: "mine", Kind: contracts.KindNoop, Name: "x"}); !errors.Is(err, queue.ErrIDInUse) {
		t.Errorf("Submit() over what has ended = %v, want ErrIDInUse", err)
	}
	if n := stored(t, s.nc, s.top.InvokeStream()); n != 0 {
		t.Errorf("%d messages are queued, want none", n)
	}
}

func TestSubmitRefuses(t *testing.T) {
	s := newStage(t, queue.Topology{})
	big := strings.Repeat("x", contracts.MaxMessageBytes)
	for name, c := range map[string]struct {
		inv  contracts.Invocation
		want string
	}{
		"an id with a path":   {noop("../x"), "invocation_id"},
		"no command":          {contracts.Invocation{Kind: contracts.KindSubprocess}, "command: must not be empty"},
		"another's tenant":    {contracts.Invocation{Kind: contracts.KindNoop, Tenant: "other"}, "tenant"},
		"more than a message": {contracts.Invocation{Kind: contracts.KindSubprocess, Command: []string{"a", big[1:]}}, "more than"},
		"a lane of no name":   {contracts.Invocation{Kind: contracts.KindNoop, Lane: "urgent"}, "lane"},
	} {
		if _, err := s.p.Submit(context.Background(), c.inv); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Submit() of %s = %.200v, want it to name %q", name, err, c.want)
		}
	}
	if n := stored(t, s.nc, s.top.InvokeStream()); n != 0 {
		t.Errorf("%d messages are queued, want none", n)
	}
}

func TestSubmitPermanentErrors(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		s := newStage(t, queue.Topology{InvokeMaxBytes: 4 << 10})
		inv := contracts.Invocation{Kind: contracts.KindSubprocess, Command: []string{"echo", strings.Repeat("x", 3<<10)}}
		if _, err := s.p.Submit(context.Background(), inv); err != nil {
			t.Fatal(err)
		}
		if _, err := s.p.Submit(context.Background(), inv); !errors.Is(err, queue.ErrFull) {
			t.Errorf("Submit() into a full stream = %v, want ErrFull", err)
		}
	})
	t.Run("no stream", func(t *testing.T) {
		n := queuetest.Server(t)
		p, err := queue.NewProducer(n.Connect(t), queue.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"", "chosen"} {
			if _, err := p.Submit(context.Background(), noop(id)); !errors.Is(err, queue.ErrNoStream) {
				t.Errorf("Submit(%q) without streams = %v, want ErrNoStream", id, err)
			}
		}
	})
	t.Run("denied", func(t *testing.T) {
		n := queuetest.Server(t, users(map[string][]string{
			"any": {">"}, "nobody": {"_INBOX.>", "$JS.API.>"},
		}))
		nc := n.Connect(t, nats.UserInfo("any", "any"))
		ensured(t, nc, queue.Topology{})
		p, err := queue.NewProducer(n.Connect(t, nats.UserInfo("nobody", "nobody")), queue.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Submit(context.Background(), noop("x"))
		if !errors.Is(err, queue.ErrDenied) || !strings.Contains(err.Error(), "runnel.invoke.noop.default.normal.0.default.x") {
			t.Errorf("Submit() of who may not = %v, want ErrDenied with the subject", err)
		}
	})
	t.Run("no server", func(t *testing.T) {
		s := newStage(t, queue.Topology{})
		s.node.Shutdown()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if _, err := s.p.Submit(ctx, noop("")); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, queue.ErrUnknown) {
			t.Errorf("Submit() without a server = %v, want the deadline", err)
		}
	})
}

// A server that goes away in the middle has every submission in the queue once when it is back.
func TestSubmitAllOverARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	const n = 600
	invs := func(yield func(contracts.Invocation) bool) {
		for i := range n {
			if i == n/2 {
				s.node.Restart(t)
			}
			id := ""
			if i%3 == 0 {
				id = fmt.Sprintf("chosen-%d", i)
			}
			if !yield(contracts.Invocation{ID: id, Kind: contracts.KindNoop, Name: fmt.Sprint(i)}) {
				return
			}
		}
	}
	ids := map[string]bool{}
	i := 0
	for r, err := range s.p.SubmitAll(within(t), invs) {
		if err != nil {
			t.Fatalf("receipt %d: %v", i, err)
		}
		if i%3 == 0 && r.ID != fmt.Sprintf("chosen-%d", i) {
			t.Fatalf("receipt %d is of %s: not in the order of submission", i, r.ID)
		}
		ids[r.ID] = true
		i++
	}
	if i != n || len(ids) != n {
		t.Errorf("%d receipts of %d ids, want %d", i, len(ids), n)
	}
	if q := stored(t, s.nc, s.top.InvokeStream()); q != n {
		t.Errorf("%d are queued, want %d", q, n)
	}
}

func TestSubmitAllErrorsAreOfTheirOwn(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.submit("used")
	invs := slices.Values([]contracts.Invocation{noop("a"), {ID: "used", Kind: contracts.KindNoop, Name: "other"}, {ID: "bad", Kind: contracts.KindSubprocess}, noop("used"), noop("")})
	var got []string
	for r, err := range s.p.SubmitAll(within(t), invs) {
		var bad *contracts.ValidationError
		switch {
		case errors.Is(err, queue.ErrIDInUse):
			got = append(got, r.ID+" in use")
		case errors.As(err, &bad):
			got = append(got, r.ID+" invalid")
		case err != nil:
			t.Fatal(err)
		case len(r.ID) == 16:
			got = append(got, "made")
		default:
			got = append(got, fmt.Sprint(r.ID, " ", r.Existed))
		}
	}
	expect(t, "SubmitAll()", got, "a false", "used in use", "bad invalid", "used true", "made")
}

// Two submit other content under one id at once, in other lanes, where the fence does not part them: one of them has it.
func TestSubmitOneIDInTwoLanes(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	both := 0
	for i := range 100 {
		id := fmt.Sprintf("j%d", i)
		var errs [3]error
		var racers sync.WaitGroup
		for k, lane := range contracts.Lanes() {
			racers.Go(func() {
				_, errs[k] = s.p.Submit(within(t), contracts.Invocation{ID: id, Kind: contracts.KindNoop, Lane: lane})
			})
		}
		racers.Wait()
		accepted := 0
		for _, err := range errs {
			switch {
			case err == nil:
				accepted++
			case !errors.Is(err, queue.ErrIDInUse):
				t.Fatal(err)
			}
		}
		if accepted != 1 {
			both++
		}
	}
	if both > 0 {
		t.Errorf("in %d rounds of 100 not exactly one was accepted", both)
	}
	if n := stored(t, s.nc, s.top.InvokeStream()); n != 100 {
		t.Errorf("%d are queued, want 100", n)
	}
}

package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

func TestStore(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	ctx := context.Background()
	names := top.Names()
	s := queue.NewStore(nc, top.ReplyStream(), 1)

	subject := names.Result("default", "a")
	if _, err := s.Last(ctx, subject); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("Last() of nothing = %v, want ErrNotFound", err)
	}
	if _, err := s.Direct(ctx, subject); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("Direct() of nothing = %v, want ErrNotFound", err)
	}
	seq, err := s.Put(ctx, subject, nats.Header{"K": {"v"}}, []byte("one"))
	if err != nil || seq != 1 {
		t.Fatalf("Put() = %d, %v, want 1", seq, err)
	}
	if _, err := s.Put(ctx, subject, nil, []byte("two")); !errors.Is(err, queue.ErrOccupied) {
		t.Fatalf("second Put() = %v, want ErrOccupied", err)
	}
	for name, get := range map[string]func(context.Context, string) (queue.Stored, error){"Last": s.Last, "Direct": s.Direct} {
		for _, filter := range []string{subject, names.ReplyAll("default", "a")} {
			m, err := get(ctx, filter)
			if err != nil || m.Subject != subject || m.Seq != 1 || string(m.Data) != "one" || m.Header.Get("K") != "v" || m.Time.IsZero() || len(m.Header) != 1 {
				t.Errorf("%s(%s) = %+v, %v", name, filter, m, err)
			}
		}
	}
	subjects := []string{names.Result("default", "none"), subject, names.Start("default", "a", "abcdefgh")}
	got, err := s.LastMany(ctx, subjects)
	if err != nil || len(got) != 1 || got[0].Subject != subject {
		t.Errorf("LastMany() = %v, %v, want the one", got, err)
	}
	if got, err = s.LastMany(ctx, subjects[:1]); err != nil || len(got) != 0 {
		t.Errorf("LastMany() of nothing = %v, %v, want none", got, err)
	}
	for i := range 10 {
		if _, err := s.Put(ctx, names.Chunk("default", "b", "abcdefgh", i+1), nil, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for m, err := range s.Walk(ctx, names.RunAll("default", "b", "abcdefgh"), 0, queue.WalkOptions{Batch: 3}) {
		if err != nil || m.Subject != names.Chunk("default", "b", "abcdefgh", i+1) || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("Walk() %d = %v, %v", i, m, err)
		}
		i++
	}
	if i != 10 {
		t.Errorf("Walk() gave %d, want 10", i)
	}
	if err := s.Delete(ctx, seq); err != nil {
		t.Errorf("Delete() = %v", err)
	}
	if err := s.Delete(ctx, seq); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("second Delete() = %v, want ErrNotFound", err)
	}
	if _, err := s.Put(ctx, subject, nil, []byte("two")); err != nil {
		t.Errorf("Put() after Delete() = %v", err)
	}
	var chunks []string
	for i := range 2000 {
		chunks = append(chunks, names.Chunk("default", "c", "abcdefgh", i+1))
	}
	putAll(t, s, chunks, func(int) []byte { return []byte("x") })
	if got, err := s.LastMany(ctx, chunks); err != nil || len(got) != len(chunks) {
		t.Errorf("LastMany() = %d, %v, want %d", len(got), err, len(chunks))
	}
}

func TestFullIsNotAlreadyThere(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	top := queue.Topology{ReplyMaxBytes: 64 << 10}
	ensured(t, nc, top)
	ctx := context.Background()
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	names := top.Names()
	body := make([]byte, 10<<10)
	var stored int
	var err error
	for ; err == nil; stored++ {
		_, err = s.Put(ctx, names.Chunk("t", "a", "abcdefgh", stored+1), nil, body)
	}
	if !errors.Is(err, queue.ErrFull) || errors.Is(err, queue.ErrOccupied) || stored < 5 {
		t.Fatalf("Put() %d of a full stream = %v, want ErrFull", stored, err)
	}
	// What is there already is still told apart.
	if _, err := s.Put(ctx, names.Chunk("t", "a", "abcdefgh", 1), nil, body); !errors.Is(err, queue.ErrOccupied) {
		t.Errorf("Put() of what is there = %v, want ErrOccupied", err)
	}
	done := make(chan error, 2)
	s.PutAsync(names.Chunk("t", "a", "abcdefgh", 1000), nil, body, func(_ uint64, err error) { done <- err })
	s.PutAsync(names.Chunk("t", "a", "abcdefgh", 1), nil, body, func(_ uint64, err error) { done <- err })
	if err := <-done; !errors.Is(err, queue.ErrFull) {
		t.Errorf("PutAsync() of a full stream = %v, want ErrFull", err)
	}
	if err := <-done; !errors.Is(err, queue.ErrOccupied) {
		t.Errorf("PutAsync() of what is there = %v, want ErrOccupied", err)
	}
	// Room again: it goes on.
	m, err := s.Last(ctx, names.Chunk("t", "a", "abcdefgh", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, m.Seq); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, names.Chunk("t", "a", "abcdefgh", 1), nil, body); err != nil {
		t.Errorf("Put() with room again = %v", err)
	}
}

func TestPermanentErrors(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	invoke := queue.NewStore(nc, top.InvokeStream(), 1)
	names := top.Names()
	for what, c := range map[string]struct {
		store   *queue.Store
		subject string
		header  nats.Header
		size    int
		want    error
	}{
		"beyond the cap of the stream":       {invoke, names.Invoke(here), nil, contracts.MaxMessageBytes + 1, queue.ErrTooLarge},
		"with its header beyond it":          {invoke, names.Invoke(here), nats.Header{"K": {"v"}}, contracts.MaxMessageBytes, queue.ErrTooLarge},
		"beyond the cap of the server":       {invoke, names.Invoke(here), nil, 2 << 20, queue.ErrTooLarge},
		"no such stream":                     {queue.NewStore(nc, "NONE", 1), "none.a", nil, 1, queue.ErrNoStream},
		"no such subject":                    {invoke, "runnel.invoke.a", nil, 1, queue.ErrNoStream},
		"a lane that does not exist":         {invoke, "runnel.invoke.noop.default.urgent.0.t.a", nil, 1, queue.ErrNoStream},
		"the subject of another stream":      {invoke, names.Result("t", "other"), nil, 1, queue.ErrNoStream},
		"a header that the stream takes not": {invoke, names.Invoke(here), nats.Header{"Nats-Rollup": {"all"}}, 1, queue.ErrRefused},
		"no subject":                         {invoke, names.Result("*", "a"), nil, 1, nats.ErrBadSubject},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := c.store.Put(context.Background(), c.subject, c.header, make([]byte, c.size)); !errors.Is(err, c.want) {
				t.Errorf("Put() = %v, want %v", err, c.want)
			}
			done := make(chan error, 1)
			c.store.PutAsync(c.subject, c.header, make([]byte, c.size), func(_ uint64, err error) { done <- err })
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("PutAsync() = %v, want %v", err, c.want)
			}
		})
	}
	// A dead letter holds a whole message, and says why beside it.
	dead := queue.NewStore(nc, top.DeadStream(), 1)
	if _, err := dead.Put(context.Background(), names.Dead("t", "large"), nil, make([]byte, contracts.MaxMessageBytes+8<<10)); err != nil {
		t.Errorf("Put() of a dead letter of the largest message = %v", err)
	}
	none := queue.NewStore(nc, "NONE", 1)
	for what, err := range map[string]error{
		"Last":     second(none.Last(context.Background(), "a")),
		"Direct":   second(none.Direct(context.Background(), "a")),
		"LastMany": second(none.LastMany(context.Background(), []string{"a"})),
		"Delete":   none.Delete(context.Background(), 1),
	} {
		if !errors.Is(err, queue.ErrNoStream) {
			t.Errorf("%s() of no stream = %v, want ErrNoStream", what, err)
		}
	}
	for _, err := range none.Walk(context.Background(), "a", 0, queue.WalkOptions{}) {
		if !errors.Is(err, queue.ErrNoStream) {
			t.Errorf("Walk() of no stream = %v, want ErrNoStream", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestDeniedAtOnce(t *testing.T) {
	n := queuetest.ServerOf(t, "secured.conf")
	var top queue.Topology
	ensured(t, n.Connect(t, nats.UserInfo("operator", "change-me-operator")), top)
	heard := make(chan error, 10)
	nc := n.Connect(t, nats.UserInfo("submitter", "change-me-submitter"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err }))
	names := top.Names()
	ctx := context.Background()
	invoke, dead := queue.NewStore(nc, top.InvokeStream(), 1), queue.NewStore(nc, top.DeadStream(), 1)
	own, others := here, here
	own.Tenant = "default"
	if _, err := invoke.Put(ctx, names.Invoke(own), nil, []byte("x")); err != nil {
		t.Fatalf("Put() of one's own = %v", err)
	}
	if _, err := invoke.Last(ctx, names.Invoke(own)); err != nil {
		t.Errorf("Last() of one's own = %v", err)
	}
	began := time.Now()
	for subject, store := range map[string]*queue.Store{names.Invoke(others): invoke, names.Dead("default", "a"): dead} {
		_, err := store.Put(ctx, subject, nil, []byte("x"))
		if want := "permission denied: " + subject; !errors.Is(err, queue.ErrDenied) || err.Error() != want {
			t.Errorf("Put() = %v, want %s", err, want)
		}
		done := make(chan error, 3)
		for range cap(done) {
			store.PutAsync(subject, nil, []byte("x"), func(_ uint64, err error) { done <- err })
		}
		for range cap(done) {
			if err := <-done; !errors.Is(err, queue.ErrDenied) {
				t.Errorf("PutAsync() = %v, want ErrDenied", err)
			}
		}
	}
	if err := queue.NewStore(nc, top.ReplyStream(), 1).Delete(ctx, 1); !errors.Is(err, queue.ErrDenied) {
		t.Errorf("Delete() = %v, want ErrDenied", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("denials took %v in all: they were waited for", took)
	}
	if err := <-heard; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("the handler that was there before heard %v", err)
	}
}

func TestWorkerPermissions(t *testing.T) {
	n := queuetest.ServerOf(t, "secured.conf")
	var top queue.Topology
	ensured(t, n.Connect(t, nats.UserInfo("operator", "change-me-operator")), top)
	nc := n.Connect(t, nats.UserInfo("worker", "change-me-worker"))
	ctx := context.Background()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.EnsureConsumers(ctx, js, top, []contracts.Kind{"noop"}, "default"); err != nil {
		t.Errorf("EnsureConsumers() = %v", err)
	}
	if err := queue.NewPresences(nc, top).Put(ctx, contracts.Presence{Name: "w"}); err != nil {
		t.Errorf("Presences.Put() = %v", err)
	}
	if _, err := queue.NewPresences(nc, top).All(ctx); err != nil {
		t.Errorf("Presences.All() = %v", err)
	}
	if _, err := queue.NewStore(nc, top.ReplyStream(), 1).Put(ctx, top.Names().Result("acme", "a"), nil, nil); err != nil {
		t.Errorf("Put() of a result = %v", err)
	}
	if _, err := queue.NewStore(nc, top.InvokeStream(), 1).Put(ctx, top.Names().Invoke(here), nil, nil); !errors.Is(err, queue.ErrDenied) {
		t.Errorf("Put() of an invocation = %v, want ErrDenied", err)
	}
	// A job is taken and acknowledged with what a worker may.
	op := n.Connect(t, nats.UserInfo("operator", "change-me-operator"))
	a := here
	a.Kind = "noop"
	if _, err := queue.NewStore(op, top.InvokeStream(), 1).Put(ctx, top.Names().Invoke(a), nil, []byte("x")); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(ctx, top.InvokeStream(), top.Consumer("noop", "default", contracts.LaneNormal, "0").Durable)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatalf("Next() = %v", err)
	}
	if err := m.DoubleAck(ctx); err != nil {
		t.Errorf("DoubleAck() = %v", err)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	names := top.Names()
	ctx := context.Background()
	const count = 10_000
	var subjects []string
	for i := range count { // every other message is another tenant's
		subjects = append(subjects, names.Chunk([]string{"a", "b"}[i%2], "id", "abcdefgh", i/2+1))
	}
	putAll(t, s, subjects, func(i int) []byte { return fmt.Append(nil, i/2+1) })
	for what, o := range map[string]queue.WalkOptions{
		"defaults":       {},
		"small batches":  {Batch: 97},
		"small in bytes": {MaxBytes: 5000},
	} {
		t.Run(what, func(t *testing.T) {
			i, seq := 0, uint64(0)
			for m, err := range s.Walk(ctx, names.Replies("b"), 0, o) {
				if err != nil {
					t.Fatal(err)
				}
				i++
				if want := names.Chunk("b", "id", "abcdefgh", i); m.Subject != want || string(m.Data) != fmt.Sprint(i) || m.Seq <= seq {
					t.Fatalf("Walk() %d = %s %q, want %s", i, m.Subject, m.Data, want)
				}
				seq = m.Seq
			}
			if i != count/2 {
				t.Errorf("Walk() gave %d, want %d", i, count/2)
			}
			// From the middle, and not to the end.
			for m, err := range s.Walk(ctx, names.Replies("b"), seq-1, o) {
				if err != nil || m.Seq != seq {
					t.Errorf("Walk() from %d = %d, %v, want %d", seq-1, m.Seq, err, seq)
				}
			}
			for range s.Walk(ctx, names.Replies("b"), 0, o) {
				break
			}
			for m, err := range s.Walk(ctx, names.Replies("c"), 0, o) {
				t.Errorf("Walk() of nothing = %v, %v", m, err)
			}
			for m, err := range s.Walk(ctx, names.Replies("a"), seq+1000, o) {
				t.Errorf("Walk() from beyond the end = %v, %v", m, err)
			}
		})
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range s.Walk(ended, names.Replies("a"), 0, queue.WalkOptions{}) {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, queue.ErrUnknown) {
			t.Errorf("Walk() of an ended context = %v", err)
		}
	}
}

func TestLastManyOfMany(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	names := top.Names()
	ctx := context.Background()
	// 1,500 subjects are two requests, 1,500 × 6 KiB are more than one answer may weigh.
	const count = 1500
	body := make([]byte, 6<<10)
	var subjects, stored []string
	for i := range count {
		subjects = append(subjects, names.Result("t", fmt.Sprint("id", i)))
		if i%3 > 0 {
			stored = append(stored, subjects[i])
		}
	}
	putAll(t, s, stored, func(int) []byte { return body })
	got, err := s.LastMany(ctx, subjects)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range got {
		if len(m.Data) != len(body) {
			t.Errorf("%s has %d bytes, want %d", m.Subject, len(m.Data), len(body))
		}
		seen[m.Subject] = true
	}
	for i, subject := range subjects {
		if seen[subject] != (i%3 > 0) {
			t.Errorf("LastMany() has %s: %v, want %v", subject, seen[subject], i%3 > 0)
		}
	}
	if len(got) != len(seen) {
		t.Errorf("LastMany() gave %d of %d subjects", len(got), len(seen))
	}
	if got, err := s.LastMany(ctx, nil); err != nil || len(got) != 0 {
		t.Errorf("LastMany() of none = %v, %v", got, err)
	}
	if _, err := s.LastMany(ctx, []string{names.Results("t")}); err != nil {
		t.Errorf("LastMany() of a filter with 1,000 matches = %v", err)
	}
	for i := range 100 {
		if _, err := s.Put(ctx, names.Result("t", fmt.Sprint("more", i)), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.LastMany(ctx, []string{names.Results("t")}); !errors.Is(err, queue.ErrTooLarge) {
		t.Errorf("LastMany() of a filter with 1,100 matches = %v, want ErrTooLarge", err)
	}
}

package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// hostile is what a sender can write into the header of a message on a subject
// that it may publish to, and what becomes of that message. Permissions cannot
// see headers, so the settings of the streams must hold.
var hostile = map[string]struct {
	header nats.Header
	// stored says that the message is stored like any other; else it is refused, or not answered.
	stored bool
	// fatal says that nats-server 2.15.2 does not survive it on a replicated stream (ran): it refuses
	// the message after it has replicated it, every replica takes that for a write error, and the
	// stream is gone, also after a restart of all servers. No setting prevents it; users.conf says so.
	fatal bool
}{
	"rollup of the stream":       {header: nats.Header{"Nats-Rollup": {"all"}}},
	"rollup of the subject":      {header: nats.Header{"Nats-Rollup": {"sub"}}},
	"a time to live":             {header: nats.Header{"Nats-TTL": {"1s"}}},
	"never expires":              {header: nats.Header{"Nats-TTL": {"never"}}},
	"an expected stream":         {header: nats.Header{"Nats-Expected-Stream": {"OTHER"}}},
	"an expected sequence":       {header: nats.Header{"Nats-Expected-Last-Sequence": {"4711"}}},
	"an expected subject's":      {header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"4711"}}},
	"an expected subject":        {header: nats.Header{"Nats-Expected-Last-Subject-Sequence-Subject": {"runnel.invoke.>"}}},
	"an expected message id":     {header: nats.Header{"Nats-Expected-Last-Msg-Id": {"x"}}, fatal: true},
	"a schedule":                 {header: nats.Header{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"runnel.invoke.noop.default.high.0.t.x"}}},
	"a scheduler's purge":        {header: nats.Header{"Nats-Scheduler": {"runnel.invoke.noop.default.high.0.victim.job"}, "Nats-Schedule-Next": {"purge"}}},
	"a counter":                  {header: nats.Header{"Nats-Incr": {"+1"}}},
	"an atomic batch":            {header: nats.Header{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}}},
	"a source":                   {header: nats.Header{"Nats-Stream-Source": {"OTHER 1 > >"}}},
	"only a trace":               {header: nats.Header{"Nats-Trace-Dest": {"trace.to"}, "Nats-Trace-Only": {"true"}}},
	"a trace":                    {header: nats.Header{"Nats-Trace-Dest": {"trace.to"}}, stored: true},
	"a message id":               {header: nats.Header{"Nats-Msg-Id": {"the same for all"}}, stored: true},
	"a status":                   {header: nats.Header{"Status": {"404"}, "Description": {"No Results"}}, stored: true},
	"an end of batch":            {header: nats.Header{"Status": {"204"}, "Nats-Num-Pending": {"0"}, "Nats-Last-Sequence": {"0"}}, stored: true},
	"no responders":              {header: nats.Header{"Status": {"503"}}, stored: true},
	"another's place":            {header: nats.Header{"Nats-Subject": {"runnel.reply.victim.job.result"}, "Nats-Sequence": {"1"}, "Nats-Stream": {"OTHER"}, "Nats-Time-Stamp": {"1970-01-01T00:00:00Z"}}, stored: true},
	"a deletion in a key bucket": {header: nats.Header{"KV-Operation": {"PURGE"}}, stored: true},
}

// A job and a result of a victim are there; then somebody sends every header
// on a subject of his own, new, and on the victim's. The victim's are there as
// before, and what the hostile stored reads back as his, under his subject.
func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	n := queuetest.Server(t)
	hostileHeaders(t, n.Connect(t), n.Connect(t), queue.Topology{})
}

func hostileHeaders(t *testing.T, nc, foe *nats.Conn, top queue.Topology) {
	ensured(t, nc, top)
	names := top.Names()
	ctx := context.Background()
	js, err := jetstream.New(foe)
	if err != nil {
		t.Fatal(err)
	}
	address := func(tenant, id string) string {
		a := here
		a.Tenant, a.ID = tenant, id
		return names.Invoke(a)
	}
	for _, kind := range []struct {
		stream  string
		subject func(tenant, id string) string
	}{{top.InvokeStream(), address}, {top.ReplyStream(), names.Result}, {top.DeadStream(), names.Dead}} {
		s := queue.NewStore(nc, kind.stream, top.ReplicaCount())
		victim := kind.subject("victim", "job")
		was, err := s.Put(ctx, victim, nats.Header{"K": {"v"}}, []byte("untouched"))
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for what, h := range hostile {
			if h.fatal && top.ReplicaCount() > 1 {
				continue
			}
			t.Run(kind.stream+"/"+what, func(t *testing.T) {
				i++
				own := kind.subject("foe", fmt.Sprint("job", i))
				for _, subject := range []string{own, victim} {
					// A message that only traces is never answered.
					try, stop := context.WithTimeout(ctx, 500*time.Millisecond)
					_, err := js.PublishMsg(try, &nats.Msg{Subject: subject, Header: clone(h.header), Data: []byte("foe")}, jetstream.WithRetryAttempts(0))
					stop()
					if stored := err == nil; stored != (h.stored && subject == own) && what != "a message id" {
						t.Errorf("publish to %s = %v, want it stored: %v", subject, err, h.stored && subject == own)
					}
				}
				for how, get := range map[string]func() (queue.Stored, error){
					"Last":   func() (queue.Stored, error) { return s.Last(ctx, victim) },
					"Direct": func() (queue.Stored, error) { return s.Direct(ctx, victim) },
				} {
					if m, err := get(); err != nil || m.Seq != was || m.Subject != victim || string(m.Data) != "untouched" || m.Header.Get("K") != "v" {
						t.Errorf("%s() of the victim's = %+v, %v", how, m, err)
					}
				}
				if !h.stored || what == "a message id" {
					return
				}
				last, err := s.Last(ctx, own)
				if err != nil {
					t.Fatal(err)
				}
				check := func(how string, m queue.Stored, err error) {
					t.Helper()
					if err != nil || m.Subject != own || m.Seq != last.Seq || !m.Time.Equal(last.Time) || string(m.Data) != "foe" {
						t.Errorf("%s() = %+v, %v, want it as stored, %+v", how, m, err, last)
					}
				}
				m, err := s.Direct(ctx, own)
				check("Direct", m, err)
				many, err := s.LastMany(ctx, []string{own, victim})
				if err != nil || len(many) != 2 {
					t.Fatalf("LastMany() = %v, %v, want both", many, err)
				}
				check("LastMany", many[1], nil)
				walked := 0
				for m, err := range s.Walk(ctx, own, 0, queue.WalkOptions{}) {
					check("Walk", m, err)
					walked++
				}
				if walked != 1 {
					t.Errorf("Walk() gave %d, want 1", walked)
				}
			})
		}
	}
}

func clone(h nats.Header) nats.Header {
	c := nats.Header{}
	for k, v := range h {
		c[k] = append([]string(nil), v...)
	}
	return c
}

// A message id is the stream's, not the tenant's: a second message with it is
// swallowed, whoever sends it. Runnel sends none, and the window is the
// shortest that there is; who sends one by hand loses only his own.
func TestMessageIDsAreNotOurs(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	ctx := context.Background()
	with := nats.Header{"Nats-Msg-Id": {"x"}}
	if _, err := s.Put(ctx, top.Names().Result("a", "job"), with, nil); err != nil {
		t.Fatal(err)
	}
	// Within the window the second is swallowed, and Put does not call that stored.
	_, err := s.Put(ctx, top.Names().Result("b", "job"), with, nil)
	if err != nil && !errors.Is(err, queue.ErrRefused) {
		t.Errorf("Put() of a swallowed message = %v, want ErrRefused", err)
	}
	if _, err := s.Put(ctx, top.Names().Result("c", "job"), nil, nil); err != nil {
		t.Errorf("Put() without an id = %v", err)
	}
	eventually(t, "the id is forgotten", func() bool {
		_, err := s.Put(ctx, top.Names().Result("d", "job"), with, nil)
		return err == nil
	})
}

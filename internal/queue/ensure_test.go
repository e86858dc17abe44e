package queue_test

import (
	"cmp"
	"context"
	"errors"
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

func TestEnsureByManyAtOnce(t *testing.T) {
	n := queuetest.Server(t)
	var top queue.Topology
	kinds := []contracts.Kind{contracts.KindSubprocess, contracts.KindNoop}
	var wg sync.WaitGroup
	for range 8 {
		nc := n.Connect(t)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if drift, err := queue.Ensure(context.Background(), js, top); err != nil || len(drift) > 0 {
				t.Errorf("Ensure() = %v, %v", drift, err)
			}
			if drift, err := queue.EnsureConsumers(context.Background(), js, top, kinds, "default"); err != nil || len(drift) > 0 {
				t.Errorf("EnsureConsumers() = %v, %v", drift, err)
			}
		})
	}
	wg.Wait()
	js, _ := jetstream.New(n.Connect(t))
	var streams, consumers []string
	for name := range js.StreamNames(context.Background()).Name() {
		streams = append(streams, name)
	}
	slices.Sort(streams)
	if want := []string{"KV_RUNNEL_WORKERS", "RUNNEL_DEAD", "RUNNEL_INVOKE", "RUNNEL_REPLY"}; !slices.Equal(streams, want) {
		t.Errorf("streams %v, want %v", streams, want)
	}
	s, err := js.Stream(context.Background(), top.InvokeStream())
	if err != nil {
		t.Fatal(err)
	}
	for c := range s.ListConsumers(context.Background()).Info() {
		consumers = append(consumers, c.Name)
		want := top.Consumer(contracts.Kind(strings.Split(c.Name, "=")[0]), "default", contracts.Lane(strings.Split(c.Name, "=")[2]), "0")
		have := c.Config
		if have.AckWait != want.AckWait || have.MaxDeliver != -1 || have.MaxAckPending != -1 || have.MaxWaiting != want.MaxWaiting ||
			have.AckPolicy != jetstream.AckExplicitPolicy || have.FilterSubject != want.FilterSubject {
			t.Errorf("consumer %s is %+v, want %+v", c.Name, have, want)
		}
	}
	if len(consumers) != 6 {
		t.Errorf("consumers %v, want one per kind and lane", consumers)
	}
}

func TestEnsureRefusesForbiddenSettings(t *testing.T) {
	for setting, change := range map[string]func(*jetstream.StreamConfig){
		"AllowRollup":            func(c *jetstream.StreamConfig) { c.AllowRollup = true },
		"AllowMsgTTL":            func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
		"SubjectDeleteMarkerTTL": func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Hour },
		"AllowMsgSchedules": func(c *jetstream.StreamConfig) {
			c.AllowMsgSchedules, c.Discard, c.DiscardNewPerSubject = true, jetstream.DiscardOld, false
		},
		"AllowMsgCounter": func(c *jetstream.StreamConfig) {
			c.AllowMsgCounter, c.Discard, c.DiscardNewPerSubject = true, jetstream.DiscardOld, false
		},
		"AllowAtomicPublish":   func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true },
		"AllowBatchPublish":    func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true },
		"DiscardNewPerSubject": func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = false },
		"MaxMsgsPerSubject":    func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 },
		"AllowDirect":          func(c *jetstream.StreamConfig) { c.AllowDirect = false },
		"NoAck":                func(c *jetstream.StreamConfig) { c.NoAck = true },
		"SubjectTransform": func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "runnel.dead.*.a", Destination: "runnel.dead.{{wildcard(1)}}.b"}
		},
	} {
		t.Run(setting, func(t *testing.T) {
			n := queuetest.Server(t)
			js, err := jetstream.New(n.Connect(t))
			if err != nil {
				t.Fatal(err)
			}
			var top queue.Topology
			cfg := top.Streams()[2]
			change(&cfg)
			if _, err := js.CreateStream(context.Background(), cfg); err != nil {
				t.Fatalf("create a bad stream: %v", err)
			}
			_, err = queue.Ensure(context.Background(), js, top)
			if !errors.Is(err, queue.ErrForbidden) || !strings.Contains(err.Error(), "RUNNEL_DEAD") {
				t.Fatalf("Ensure() = %v, want ErrForbidden that names the stream", err)
			}
			// Some settings bring others with them, which are named first.
			named := map[string]string{"SubjectDeleteMarkerTTL": "Allow", "AllowMsgSchedules": "Allow", "AllowMsgCounter": "Allow"}
			if !strings.Contains(err.Error(), cmp.Or(named[setting], setting)) {
				t.Errorf("Ensure() = %v, want it to name %s", err, setting)
			}
		})
	}
}

func TestEnsureReportsDriftAndChangesNothing(t *testing.T) {
	n := queuetest.Server(t)
	js := ensured(t, n.Connect(t), queue.Topology{ReplyAge: time.Hour, ReplyMaxBytes: 100 << 20, WorkersTTL: time.Minute})
	drift, err := queue.Ensure(context.Background(), js, queue.Topology{ReplyAge: 30 * time.Minute, ReplyMaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range drift {
		got = append(got, d.String())
	}
	want := []string{
		"RUNNEL_REPLY: MaxBytes is 104857600, not 67108864",
		"RUNNEL_REPLY: MaxAge is 1h0m0s, not 30m0s",
		"KV_RUNNEL_WORKERS: MaxAge is 1m0s, not 15s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Ensure() drift\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s, err := js.Stream(context.Background(), "RUNNEL_REPLY")
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CachedInfo().Config; c.MaxAge != time.Hour || c.MaxBytes != 100<<20 {
		t.Errorf("Ensure() changed the stream to MaxAge %v, MaxBytes %d", c.MaxAge, c.MaxBytes)
	}
}

func TestEnsureConsumersDrift(t *testing.T) {
	n := queuetest.Server(t)
	var top queue.Topology
	js := ensured(t, n.Connect(t), top)
	ctx := context.Background()
	other := top.Consumer("noop", "default", contracts.LaneHigh, "0")
	other.MaxWaiting, other.AckWait = 512, 30*time.Second
	if _, err := js.CreateConsumer(ctx, top.InvokeStream(), other); err != nil {
		t.Fatal(err)
	}
	drift, err := queue.EnsureConsumers(ctx, js, top, []contracts.Kind{"noop"}, "default")
	if err != nil || len(drift) != 2 || drift[0].Setting != "AckWait" || drift[1].String() != "RUNNEL_INVOKE consumer noop=default=high=0: MaxWaiting is 512, not 16384" {
		t.Errorf("EnsureConsumers() = %v, %v, want AckWait and MaxWaiting", drift, err)
	}
	wrong := top.Consumer("http", "default", contracts.LaneHigh, "0")
	wrong.FilterSubject = top.Names().InvokesOf("http", "else", contracts.LaneHigh, "0")
	if _, err := js.CreateConsumer(ctx, top.InvokeStream(), wrong); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.EnsureConsumers(ctx, js, top, []contracts.Kind{"http"}, "default"); !errors.Is(err, queue.ErrForbidden) {
		t.Errorf("EnsureConsumers() over one of another filter = %v, want ErrForbidden", err)
	}
	if _, err := queue.EnsureConsumers(ctx, js, top, []contracts.Kind{"a.b"}, "default"); err == nil {
		t.Error("EnsureConsumers() of the kind a.b = nil")
	}
	if _, err := queue.EnsureConsumers(ctx, js, queue.Topology{Prefix: "none"}, []contracts.Kind{"noop"}, "default"); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("EnsureConsumers() without the stream = %v, want ErrNoStream", err)
	}
}

// With the defaults 9.25 GiB are reserved. A server with less room gets less
// reserved and everything works; a size that was asked for is never changed.
func TestEnsureFitsASmallDisk(t *testing.T) {
	n := queuetest.Server(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 30 })
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = queue.Ensure(context.Background(), js, queue.Topology{InvokeMaxBytes: 2 << 30})
	if !errors.Is(err, queue.ErrFull) || !strings.Contains(err.Error(), "RUNNEL_INVOKE") {
		t.Fatalf("Ensure() of 2 GiB on 1 GiB = %v, want ErrFull that names the stream", err)
	}
	drift, err := queue.Ensure(context.Background(), js, queue.Topology{})
	if err != nil {
		t.Fatalf("Ensure() = %v", err)
	}
	for _, d := range drift {
		if d.Setting != "MaxBytes" {
			t.Errorf("drift %v, want MaxBytes only", d)
		}
	}
	if len(drift) == 0 {
		t.Error("Ensure() on a small disk reports no drift")
	}
	nc := n.Connect(t)
	for _, stream := range []string{"RUNNEL_INVOKE", "RUNNEL_REPLY", "RUNNEL_DEAD"} {
		s, err := js.Stream(context.Background(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if b := s.CachedInfo().Config.MaxBytes; b < queue.MinMaxBytes {
			t.Errorf("%s has %d bytes, want at least %d", stream, b, queue.MinMaxBytes)
		}
	}
	// There is room left for what reserves nothing: the object stores.
	obj, err := js.CreateObjectStore(context.Background(), jetstream.ObjectStoreConfig{Bucket: "files"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := obj.PutBytes(context.Background(), "a", make([]byte, 1<<20)); err != nil {
		t.Errorf("store a file beside the streams: %v", err)
	}
	s := queue.NewStore(nc, "RUNNEL_REPLY", 1)
	if _, err := s.Put(context.Background(), queue.Names{}.Result("t", "a"), nil, []byte("x")); err != nil {
		t.Errorf("Put() = %v", err)
	}
}

func TestEnsureDenied(t *testing.T) {
	n := queuetest.ServerOf(t, "secured.conf")
	for _, user := range []string{"submitter", "worker"} {
		js, err := jetstream.New(n.Connect(t, nats.UserInfo(user, "change-me-"+user)))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = queue.Ensure(context.Background(), js, queue.Topology{})
		if !errors.Is(err, queue.ErrDenied) || !strings.Contains(err.Error(), "$JS.API.STREAM.CREATE.RUNNEL_REPLY") {
			t.Errorf("Ensure() as %s = %v, want ErrDenied that names the subject", user, err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("Ensure() as %s was denied after %v, want at once", user, took)
		}
	}
}

func TestEnsureBadPrefix(t *testing.T) {
	js, err := jetstream.New(queuetest.Server(t).Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(context.Background(), js, queue.Topology{Prefix: "a.b"}); err == nil {
		t.Error("Ensure() with the prefix a.b = nil")
	}
}

package queue_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// A server that is killed may have stored that messages are acknowledged, and not that they are gone: here their file
// from before is put back. Those that are acknowledged are removed and have a result; the one that waits stays.
func TestOrphansAreRemoved(t *testing.T) {
	dir := t.TempDir()
	n := queuetest.Server(t, func(o *server.Options) { o.StoreDir = dir })
	nc := n.Connect(t)
	var top queue.Topology
	js := ensured(t, nc, top)
	ctx := t.Context()
	if _, err := queue.EnsureConsumers(ctx, js, top, []contracts.Kind{contracts.KindNoop}, contracts.DefaultPool); err != nil {
		t.Fatal(err)
	}
	names := top.Names()
	put := func(id string) {
		t.Helper()
		subject := names.Invoke(queue.Address{Kind: contracts.KindNoop, Pool: contracts.DefaultPool, Lane: contracts.LaneNormal, Shard: contracts.DefaultShard, Tenant: "default", ID: id})
		if _, err := js.Publish(ctx, subject, []byte(`{"invocation_id":"`+id+`","runtime_kind":"noop"}`)); err != nil {
			t.Fatal(err)
		}
	}
	put("with")
	put("without")
	replies := queue.NewStore(nc, top.ReplyStream(), 1)
	stored := contracts.Result{ID: "with", Kind: contracts.KindNoop, Tenant: "default", Status: contracts.StatusSucceeded, FinishedAt: time.Now()}
	data, err := contracts.Encode(stored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replies.Put(ctx, names.Result("default", "with"), nats.Header{contracts.HeaderVersion: {contracts.Version}}, data); err != nil {
		t.Fatal(err)
	}

	messages := filepath.Join(dir, "jetstream", "$G", "streams", top.InvokeStream(), "msgs")
	before := filepath.Join(t.TempDir(), "before")
	n.Shutdown()
	if err := os.CopyFS(before, os.DirFS(messages)); err != nil {
		t.Fatal(err)
	}
	n.Restart(t)
	consumer := top.Consumer(contracts.KindNoop, contracts.DefaultPool, contracts.LaneNormal, contracts.DefaultShard)
	eventually(t, "consumer", func() bool {
		c, err := js.Consumer(ctx, top.InvokeStream(), consumer.Durable)
		if err != nil {
			return false
		}
		batch, err := c.Fetch(2, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return false
		}
		got := 0
		for m := range batch.Messages() {
			if err := m.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
			got++
		}
		return got == 2
	})
	n.Shutdown()
	if err := os.RemoveAll(messages); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(messages, os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	n.Restart(t)
	left := func() uint64 {
		stream, err := js.Stream(ctx, top.InvokeStream())
		if err != nil {
			return 99
		}
		return stream.CachedInfo().State.Msgs
	}
	eventually(t, "both are back", func() bool { return left() == 2 })
	put("waits")

	taker, err := queue.NewTaker(queue.Conns{Control: nc, Data: n.Connect(t)}, queue.TakerConfig{Kinds: []contracts.Kind{contracts.KindNoop}, Worker: "w"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 0} {
		if got, err := taker.RemoveOrphans(ctx, js); err != nil || got != want {
			t.Fatalf("look %d: RemoveOrphans() = %d, %v, want %d", i, got, err, want)
		}
	}
	if got := left(); got != 1 {
		t.Errorf("%d messages are left, want the one that waits", got)
	}
	for id, want := range map[string]contracts.Status{"with": contracts.StatusSucceeded, "without": contracts.StatusFailed} {
		s, err := replies.Last(ctx, names.Result("default", id))
		if err != nil {
			t.Fatalf("result of %s: %v", id, err)
		}
		r, err := contracts.Decode[contracts.Result](s.Data, contracts.Meta{Version: s.Header.Get(contracts.HeaderVersion)})
		if err != nil || r.Status != want {
			t.Errorf("result of %s = %s, %v, want %s", id, r.Status, err, want)
		}
	}
}

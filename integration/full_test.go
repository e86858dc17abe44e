package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// MaxBytes reached: the client says that storage is full, nothing is lost, and it goes on when there is room.
func TestStorageFull(t *testing.T) {
	t.Parallel()
	t.Run("INVOKE", func(t *testing.T) {
		t.Parallel()
		f := fleet.Start(t, fleet.Config{InvokeMaxBytes: 2 << 20})
		c := f.Client("default", "")
		full := false
		for range 100 {
			inv := f.Count("default", f.ID("job"))
			inv.Stdin = &contracts.Input{Data: make([]byte, 100<<10)}
			f.Submitted(inv)
			receipt, err := c.Submit(t.Context(), inv)
			if errors.Is(err, runnel.ErrFull) {
				full = true
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			f.Accepted("default", inv.ID, receipt.Digest)
		}
		if !full {
			t.Fatal("100 × 100 KiB fit into 2 MiB")
		}
		f.StartWorker(fleet.WorkerConfig{})
		f.AwaitResults(fleet.Patience)
		f.Submit(c, f.Count("default", f.ID("job")))
		f.Verify()
	})
	t.Run("REPLY", func(t *testing.T) {
		t.Parallel()
		f := fleet.Start(t, fleet.Config{ReplyMaxBytes: 2 << 20})
		c := f.Client("default", "")
		w := f.StartWorker(fleet.WorkerConfig{})
		// What is silent gets its result while there is room; what fills the stream waits until there is.
		flood := contracts.Invocation{ID: f.ID("flood"), Kind: contracts.KindSubprocess, Command: []string{fleet.Job(t), "flood", "-bytes", fmt.Sprint(4 << 20)}}
		f.Submit(c, flood)
		js, err := jetstream.New(f.Conn)
		if err != nil {
			t.Fatal(err)
		}
		f.Await("REPLY is full", fleet.Patience, func(ctx context.Context) (bool, string) {
			s, err := js.Stream(ctx, f.Topology.ReplyStream())
			if err != nil {
				return false, err.Error()
			}
			n := s.CachedInfo().State.Bytes
			return n > 2<<20-100<<10, fmt.Sprint(n)
		})
		f.Await("the worker says so", fleet.Patience, func(context.Context) (bool, string) {
			log := w.Log()
			return strings.Contains(log, "RUNNEL_REPLY has no room"), log
		})
		f.Submit(c, f.Count("default", f.ID("job")))
		wide := f.Topology
		wide.ReplyMaxBytes = 64 << 20
		widen(t, f, wide, wide.ReplyStream())
		if r := result(t, c, flood.ID, fleet.Patience); r.Status != contracts.StatusSucceeded || r.StdoutBytes != 4<<20 {
			t.Errorf("flood: %s/%s, %d bytes: %s", r.Status, r.Reason, r.StdoutBytes, r.Error)
		}
		f.Verify()
	})
	t.Run("DEAD", func(t *testing.T) {
		t.Parallel()
		f := fleet.Start(t, fleet.Config{DeadMaxBytes: 256 << 10})
		c := f.Client("default", "")
		w := f.StartWorker(fleet.WorkerConfig{Slots: 2})
		// What nobody can read is put aside while there is room, and waits with its place in the queue until there is.
		var bad []string
		for range 6 {
			inv := contracts.Invocation{ID: f.ID("bad"), Kind: contracts.KindSubprocess, Command: []string{"true"}}
			f.Submitted(inv)
			if err := publish(t, f, f.Topology.Names().Invoke(address(inv.ID)), nil, make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
			f.Accepted("default", inv.ID, "")
			bad = append(bad, inv.ID)
		}
		f.Await("the worker says that storage is full", fleet.Patience, func(context.Context) (bool, string) {
			log := w.Log()
			return strings.Contains(log, "RUNNEL_DEAD has no room") && strings.Contains(log, "storage is full"), log
		})
		if n := f.Results(); n != 2 {
			t.Errorf("%d are put aside where two have room", n)
		}
		good := f.Count("default", f.ID("good"))
		f.Submit(c, good)
		if r := result(t, c, good.ID, fleet.Patience); r.Status != contracts.StatusSucceeded {
			t.Errorf("beside them %s: %s/%s: %s", good.ID, r.Status, r.Reason, r.Error)
		}
		wide := f.Topology
		wide.DeadMaxBytes = 64 << 20
		widen(t, f, wide, wide.DeadStream())
		freed := time.Now()
		for _, id := range bad {
			if r := result(t, c, id, fleet.Patience); r.Status != contracts.StatusRejected {
				t.Errorf("%s: %s/%s, want rejected: %s", id, r.Status, r.Reason, r.Error)
			}
		}
		figure(t, "put aside after there was room", "%v", since(freed))
		f.Verify()
	})
}

// widen gives a stream the size that it has in wide.
func widen(t *testing.T, f *fleet.Fleet, wide queue.Topology, stream string) {
	t.Helper()
	js, err := jetstream.New(f.Conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range wide.Streams() {
		if s.Name != stream {
			continue
		}
		if _, err := js.UpdateStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

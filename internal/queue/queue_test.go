package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ensured creates the streams of top and returns JetStream over nc.
func ensured(t testing.TB, nc *nats.Conn, top queue.Topology) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	drift, err := queue.Ensure(context.Background(), js, top)
	if err != nil || len(drift) > 0 {
		t.Fatalf("Ensure() = %v, %v, want none", drift, err)
	}
	return js
}

// putAll stores a message under each subject, as a caller of PutAsync must: what
// got no answer in its time, on a loaded machine, is put again.
func putAll(t testing.TB, s *queue.Store, subjects []string, body func(i int) []byte) {
	t.Helper()
	type end struct {
		i   int
		err error
	}
	ends := make(chan end, len(subjects))
	put := func(i int) {
		s.PutAsync(subjects[i], nil, body(i), func(_ uint64, err error) { ends <- end{i, err} })
	}
	for i := range subjects {
		put(i)
	}
	for stored := 0; stored < len(subjects); {
		switch e := <-ends; {
		case e.err == nil || errors.Is(e.err, queue.ErrOccupied):
			stored++
		case errors.Is(e.err, queue.ErrUnknown):
			put(e.i)
		default:
			t.Fatalf("PutAsync() = %v", e.err)
		}
	}
}

// eventually asks until the answer is yes, for half a minute at most.
func eventually(t testing.TB, what string, ask func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ask() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within half a minute", what)
		case <-again.C:
		}
	}
}

package queuetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func store(t *testing.T, nc *nats.Conn, replicas int) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(context.Background(), "s.1", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	return s
}

// kept asks until there is an answer: a request that was sent into a connection
// that just went away never gets one.
func kept(t *testing.T, s jetstream.Stream) {
	t.Helper()
	for range 20 {
		ctx, stop := context.WithTimeout(context.Background(), 500*time.Millisecond)
		m, err := s.GetMsg(ctx, 1)
		stop()
		if err == nil {
			if string(m.Data) != "kept" {
				t.Errorf("message after a restart = %q, want it kept", m.Data)
			}
			return
		}
	}
	t.Error("message after a restart: no answer")
}

func TestServerKeepsItsDataAndAddress(t *testing.T) {
	n := queuetest.Server(t)
	url := n.URL()
	s := store(t, n.Connect(t), 1)
	n.Restart(t)
	if n.URL() != url {
		t.Errorf("URL() after a restart = %s, want %s", n.URL(), url)
	}
	kept(t, s)
}

func TestProcessIsKilledAndComesBack(t *testing.T) {
	p := queuetest.Process(t)
	s := store(t, p.Connect(t), 1)
	p.Kill(0)
	if nc, err := nats.Connect(p.URL()); err == nil {
		nc.Close()
		t.Error("a killed server takes connections")
	}
	p.Restart(0)
	p.WaitReady()
	kept(t, s)
}

func TestClusterElectsAnotherLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	c := queuetest.Cluster(t, 3)
	s := store(t, c.Connect(t), 3)
	c.Current("S")
	was := c.Leader("S")
	c.Kill(was)
	if is := c.Leader("S"); is == was {
		t.Errorf("server %d still leads after it was killed", is)
	}
	kept(t, s)
	c.Restart(was)
	c.Current("S")
}

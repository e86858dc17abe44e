package worker

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// What may take its worker down runs with nothing beside it, and holds nobody up for longer than it may.
func TestIsolate(t *testing.T) {
	node := queuetest.Server(t)
	taker, err := queue.NewTaker(queue.Conns{Control: node.Connect(t, nats.Name("control")), Data: node.Connect(t)},
		queue.TakerConfig{Kinds: []contracts.Kind{contracts.KindNoop}, Worker: "w"})
	if err != nil {
		t.Fatal(err)
	}
	k := newDesk(taker, 2)
	k.open()
	suspect, other := &queue.Delivery{}, &queue.Delivery{}
	k.running[suspect], k.running[other] = running{}, running{}

	if k.isolate(suspect, time.Millisecond) {
		t.Fatal("isolate() = true while another runs")
	}
	if k.mu.Lock(); k.alone != nil {
		t.Error("the desk is still kept for a run that gave up")
	}
	k.mu.Unlock()

	isolated := make(chan bool)
	go func() { isolated <- k.isolate(suspect, time.Minute) }()
	for waits := false; !waits; {
		k.mu.Lock()
		waits = k.alone == suspect
		k.mu.Unlock()
	}
	if k.admit() {
		t.Error("admit() = true while a run waits for the others to end")
	}
	if k.isolate(other, time.Minute) {
		t.Error("isolate() = true for two at once")
	}
	k.ran(other, time.Second)
	if !<-isolated {
		t.Fatal("isolate() = false when nothing else runs any more")
	}
	if k.admit() {
		t.Error("admit() = true beside a run that must be alone")
	}
	k.ran(suspect, time.Second)
	if !k.admit() {
		t.Error("admit() = false after that run has ended")
	}
}

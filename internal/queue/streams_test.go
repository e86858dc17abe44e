package queue_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

var update = flag.Bool("update", false, "write the goldens")

// The golden is for whoever creates the streams by other means, and for the
// review of a change: nothing of it may change while streams of it exist.
func TestStreamsGolden(t *testing.T) {
	var top queue.Topology
	golden := struct {
		Streams   []jetstream.StreamConfig   `json:"streams"`
		Buckets   []jetstream.KeyValueConfig `json:"buckets"`
		Consumers []jetstream.ConsumerConfig `json:"consumers"`
	}{Streams: top.Streams(), Buckets: []jetstream.KeyValueConfig{top.Workers()}}
	for _, kind := range []contracts.Kind{contracts.KindSubprocess, contracts.KindNoop} {
		for _, lane := range contracts.Lanes() {
			golden.Consumers = append(golden.Consumers, top.Consumer(kind, contracts.DefaultPool, lane, contracts.DefaultShard))
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(golden); err != nil {
		t.Fatal(err)
	}
	got := buf.Bytes()
	file := queuetest.Config(t, "streams.golden.json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("streams.go says other than %s; read the difference, then run this test with -update:\n%s", file, got)
	}
}

func TestConsumersOfUnlikeTokensDiffer(t *testing.T) {
	var top queue.Topology
	a := top.Consumer("a_b", "c", contracts.LaneLow, "0").Durable
	b := top.Consumer("a", "b_c", contracts.LaneLow, "0").Durable
	if a == b {
		t.Errorf("two consumers are called %q", a)
	}
	long := strings.Repeat("x", contracts.MaxTokenBytes)
	if n := len(top.Consumer(contracts.Kind(long), long, contracts.LaneNormal, long).Durable); n > 255 {
		t.Errorf("the longest name has %d bytes, the server takes 255", n)
	}
}

package worker_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// A client that knows JSON alone can read all that is stored of what it submitted; another one's is msgpack.
func TestAnswersInTheEncodingOfTheInvocation(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	tries := 0
	f.worker(worker.Config{Registry: runner.Registry{"fake": runner.Func(func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		if _, err := out.Stream(contracts.Stdout, "").Write(bytes.Repeat([]byte{0xff}, 100_000)); err != nil {
			return contracts.Outcome{}, err
		}
		if tries++; tries%2 == 1 { // a start, and an end
			return contracts.Outcome{Status: contracts.StatusFailed}, nil
		}
		return contracts.Outcome{Status: contracts.StatusSucceeded}, nil
	})}})
	for name, asJSON := range map[string]bool{"json": true, "msgpack": false} {
		inv := contracts.Invocation{ID: name, Kind: "fake", Retry: &contracts.Retry{Attempts: 2, DelaySeconds: 0.01}}.WithDefaults()
		body, err := contracts.EncodeFor(inv, asJSON)
		if err != nil {
			t.Fatal(err)
		}
		// No header says what it is: the first byte does.
		if _, err := f.in.Put(t.Context(), f.topo.Names().Invoke(queue.AddressOf(inv)), nats.Header{}, body); err != nil {
			t.Fatal(err)
		}
		if r := f.result(name); r.Status != contracts.StatusSucceeded || r.Attempt != 2 {
			t.Fatalf("%s: result = %s, attempt %d, want succeeded at the second", name, r.Status, r.Attempt)
		}
		kinds := map[queue.ReplyKind]int{}
		for s, err := range f.reply.Walk(t.Context(), f.topo.Names().ReplyAll("default", name), 0, queue.WalkOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			a, err := f.topo.Names().ParseReply(s.Subject)
			if err != nil {
				t.Fatal(err)
			}
			kinds[a.Kind]++
			if is := strings.HasPrefix(string(s.Data), "{"); is != asJSON || (s.Header.Get(contracts.HeaderContentType) == contracts.ContentJSON) != asJSON {
				t.Errorf("%s: %s begins with %.10q, header %v", name, a.Kind, s.Data, s.Header)
			}
		}
		for _, kind := range []queue.ReplyKind{queue.ReplyStart, queue.ReplyChunk, queue.ReplyEnd, queue.ReplyResult} {
			if kinds[kind] == 0 {
				t.Errorf("%s: no %s is stored", name, kind)
			}
		}
	}
}

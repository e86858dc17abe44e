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

// A flood is stored whole, in messages within their cap, whatever the encoding and however often its streams take turns.
func TestFloodWithinTheMessageCap(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const size = 8 << 20
	f.worker(worker.Config{Registry: runner.Registry{"fake": runner.Func(func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
		each := 32 << 10
		if strings.HasSuffix(job.ID, "turns") {
			each = 500 // far more pieces than a large chunk may have
		}
		for left, n := size, 0; left > 0; n++ {
			stream := contracts.Stdout
			if n%2 == 1 {
				stream = contracts.Stderr
			}
			some := min(each, left)
			if _, err := out.Stream(stream, "").Write(bytes.Repeat([]byte{byte(n)}, some)); err != nil {
				return contracts.Outcome{}, err
			}
			left -= some
		}
		return contracts.Outcome{Status: contracts.StatusSucceeded}, nil
	})}})
	for name, asJSON := range map[string]bool{"json": true, "json-turns": true, "msgpack": false, "msgpack-turns": false} {
		inv := contracts.Invocation{ID: name, Kind: "fake"}.WithDefaults()
		body, err := contracts.EncodeFor(inv, asJSON)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.in.Put(t.Context(), f.topo.Names().Invoke(queue.AddressOf(inv)), nats.Header{}, body); err != nil {
			t.Fatal(err)
		}
		r := f.result(name)
		if r.Status != contracts.StatusSucceeded || r.StdoutBytes+r.StderrBytes != size || r.CutBytes != 0 {
			t.Errorf("%s: result = %s %q, %d bytes, %d cut", name, r.Status, r.Error, r.StdoutBytes+r.StderrBytes, r.CutBytes)
		}
		kept := 0
		for s, err := range f.reply.Walk(t.Context(), f.topo.Names().RunAll("default", name, r.Run), 0, queue.WalkOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if a, err := f.topo.Names().ParseReply(s.Subject); err != nil || a.Kind != queue.ReplyChunk {
				continue
			}
			c, err := contracts.Decode[contracts.Chunk](s.Data, contracts.Meta{ContentType: s.Header.Get(contracts.HeaderContentType)})
			if err == nil {
				err = c.Validate()
			}
			if err != nil {
				t.Errorf("%s: %s: %v", name, s.Subject, err)
			}
			for _, p := range c.Pieces {
				kept += len(p.Data)
			}
		}
		for _, p := range r.Tail {
			kept += len(p.Data)
		}
		if kept != size {
			t.Errorf("%s: %d bytes are stored in %d chunks and the tail, want %d", name, kept, r.Chunks, size)
		}
	}
}

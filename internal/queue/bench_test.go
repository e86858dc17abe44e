package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

func benchStore(b *testing.B) (*queue.Store, jetstream.JetStream, queue.Names) {
	b.Helper()
	n := queuetest.Process(b)
	nc := n.Connect(b)
	var top queue.Topology
	js := ensured(b, nc, top)
	return queue.NewStore(nc, top.ReplyStream(), 1), js, top.Names()
}

// BenchmarkLastMany asks for many at once, as a pre-run check does: ns/op is per id.
func BenchmarkLastMany(b *testing.B) {
	for what, there := range map[string]bool{"there": true, "not there": false} {
		for _, each := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/%d", what, each), func(b *testing.B) {
				s, _, names := benchStore(b)
				ctx := context.Background()
				var subjects []string
				for i := range each {
					subjects = append(subjects, names.Result("t", fmt.Sprint("id", i)))
					if there {
						if _, err := s.Put(ctx, subjects[i], nil, make([]byte, 200)); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += each {
					if _, err := s.LastMany(ctx, subjects); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPutAsync(b *testing.B) {
	h := nats.Header{contracts.HeaderVersion: {contracts.Version}}
	body := make([]byte, 256)
	b.Run("Store", func(b *testing.B) {
		s, _, names := benchStore(b)
		b.ReportAllocs()
		b.ResetTimer()
		var wg sync.WaitGroup
		wg.Add(b.N)
		for i := range b.N {
			s.PutAsync(names.Chunk("t", "id", "abcdefgh", i+1), h, body, func(_ uint64, err error) {
				if err != nil {
					b.Error(err)
				}
				wg.Done()
			})
		}
		wg.Wait()
	})
	b.Run("nats.go", func(b *testing.B) {
		_, js, names := benchStore(b)
		js, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncMaxPending(queue.DefaultWindowMessages))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			m := &nats.Msg{Subject: names.Chunk("t", "id", "abcdefgh", i+1), Header: nats.Header{contracts.HeaderVersion: {contracts.Version}}, Data: body}
			if _, err := js.PublishMsgAsync(m); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
	})
}

func BenchmarkPut(b *testing.B) {
	s, _, names := benchStore(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Put(context.Background(), names.Chunk("t", "id", "abcdefgh", i), nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDirect(b *testing.B) {
	s, _, names := benchStore(b)
	subject := names.Result("t", "id")
	if _, err := s.Put(context.Background(), subject, nil, make([]byte, 200)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Direct(context.Background(), subject); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWalk walks 10,000 messages: ns/op is of all.
func BenchmarkWalk(b *testing.B) {
	s, _, names := benchStore(b)
	const count = 10_000
	var wg sync.WaitGroup
	for i := range count {
		wg.Add(1)
		s.PutAsync(names.Chunk("t", "id", "abcdefgh", i+1), nil, make([]byte, 200), func(uint64, error) { wg.Done() })
	}
	wg.Wait()
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range s.Walk(context.Background(), names.Replies("t"), 0, queue.WalkOptions{}) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkSubjects(b *testing.B) {
	var n queue.Names
	b.Run("Invoke", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n.Invoke(here)
		}
	})
	b.Run("ParseInvoke", func(b *testing.B) {
		s := n.Invoke(here)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := n.ParseInvoke(s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ParseReply", func(b *testing.B) {
		s := n.Chunk("t", "id", "abcdefgh", 17)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := n.ParseReply(s); err != nil {
				b.Fatal(err)
			}
		}
	})
}

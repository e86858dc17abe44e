package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// Whatever becomes of the server, every done is called, once; what was
// confirmed is stored; and with every failed message put again, all are.
func TestPutAsyncOverRestarts(t *testing.T) {
	t.Parallel()
	for what, restart := range map[string]func(*testing.T) (func(testing.TB, ...nats.Option) *nats.Conn, func()){
		"clean stop": func(t *testing.T) (func(testing.TB, ...nats.Option) *nats.Conn, func()) {
			n := queuetest.Server(t)
			return n.Connect, func() { n.Restart(t) }
		},
		"kill -9": func(t *testing.T) (func(testing.TB, ...nats.Option) *nats.Conn, func()) {
			p := queuetest.Process(t)
			return p.Connect, func() { p.Restart(0) }
		},
	} {
		t.Run(what, func(t *testing.T) {
			connect, again := restart(t)
			nc := connect(t)
			var top queue.Topology
			ensured(t, nc, top)
			s := queue.NewStore(nc, top.ReplyStream(), 1)
			names := top.Names()
			const count = 4000
			var called [count + 1]atomic.Int32
			var confirmed, failed atomic.Int32
			var under sync.WaitGroup
			var put func(i int)
			var mu sync.Mutex
			var redo []int
			put = func(i int) {
				under.Add(1)
				called[i].Store(0)
				s.PutAsync(names.Chunk("t", "a", "abcdefgh", i), nil, fmt.Append(nil, i), func(_ uint64, err error) {
					defer under.Done()
					if n := called[i].Add(1); n != 1 {
						t.Errorf("done of %d was called %d times", i, n)
					}
					switch {
					case err == nil || errors.Is(err, queue.ErrOccupied):
						confirmed.Add(1)
					case errors.Is(err, queue.ErrUnknown):
						failed.Add(1)
						mu.Lock()
						redo = append(redo, i)
						mu.Unlock()
					default:
						t.Errorf("PutAsync() = %v, want ErrUnknown at worst", err)
					}
				})
			}
			for i := 1; i <= count; i++ {
				if i%1500 == 0 {
					again()
				}
				put(i)
			}
			for {
				under.Wait()
				mu.Lock()
				todo := redo
				redo = nil
				mu.Unlock()
				if len(todo) == 0 {
					break
				}
				for _, i := range todo {
					put(i)
				}
			}
			t.Logf("%d confirmed, %d put again", confirmed.Load(), failed.Load())
			i := 0
			for m, err := range s.Walk(context.Background(), names.Replies("t"), 0, queue.WalkOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if a, err := names.ParseReply(m.Subject); err != nil || string(m.Data) != fmt.Sprint(a.N) {
					t.Errorf("%s holds %q", m.Subject, m.Data)
				}
				i++
			}
			if i != count {
				t.Errorf("%d stored, want %d", i, count)
			}
		})
	}
}

func TestPutAsyncEndsWithTheConnection(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	n.Shutdown() // nobody answers any more
	done := make(chan error, 100)
	for i := range cap(done) - 1 {
		s.PutAsync(top.Names().Chunk("t", "a", "abcdefgh", i+1), nil, nil, func(_ uint64, err error) { done <- err })
	}
	nc.Close()
	s.PutAsync(top.Names().Chunk("t", "a", "abcdefgh", 100), nil, nil, func(_ uint64, err error) { done <- err })
	for range cap(done) {
		// Those that the client wrote before it saw the end may have had their time over.
		if err := <-done; !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrUnknown) {
			t.Errorf("PutAsync() on a closed connection = %v, want ErrClosed", err)
		}
	}
	ctx := context.Background()
	for what, err := range map[string]error{
		"Put":      second(s.Put(ctx, top.Names().Result("t", "a"), nil, nil)),
		"Last":     second(s.Last(ctx, "a")),
		"Direct":   second(s.Direct(ctx, "a")),
		"LastMany": second(s.LastMany(ctx, []string{"a"})),
		"Delete":   s.Delete(ctx, 1),
	} {
		if !errors.Is(err, queue.ErrClosed) {
			t.Errorf("%s() on a closed connection = %v, want ErrClosed", what, err)
		}
	}
}

// While nothing is confirmed, no more than the window is under way.
func TestPutAsyncWindow(t *testing.T) {
	for what, c := range map[string]struct {
		messages int
		bytes    int64
		want     int32
	}{
		"of messages":                  {messages: 10, bytes: 1 << 20, want: 10},
		"of bytes":                     {messages: 1000, bytes: 5000, want: 4},
		"one larger than the window":   {messages: 1000, bytes: 1, want: 1},
		"nothing is the least that is": {messages: 0, bytes: 0, want: 1},
	} {
		t.Run(what, func(t *testing.T) {
			n := queuetest.Server(t)
			nc := n.Connect(t)
			var top queue.Topology
			ensured(t, nc, top)
			s := queue.NewStore(nc, top.ReplyStream(), 1)
			s.Window(c.messages, c.bytes)
			n.Shutdown()
			eventually(t, "the client sees it", func() bool { return !nc.IsConnected() })
			var sent, ended atomic.Int32
			var all sync.WaitGroup
			all.Go(func() {
				for i := range 30 {
					all.Add(1)
					s.PutAsync(top.Names().Chunk("t", "a", "abcdefgh", i+1), nil, make([]byte, 1000), func(_ uint64, err error) {
						defer all.Done()
						if !errors.Is(err, queue.ErrUnknown) && !errors.Is(err, queue.ErrClosed) {
							t.Errorf("PutAsync() = %v, want ErrUnknown", err)
						}
						ended.Add(1)
					})
					if under := sent.Add(1) - ended.Load(); under > c.want {
						t.Errorf("%d are under way, want at most %d", under, c.want)
					}
				}
			})
			eventually(t, "the window is full", func() bool { return sent.Load()-ended.Load() == c.want })
			nc.Close() // ends them all; else each waits for its time
			all.Wait()
		})
	}
}

// One Store, its answers and its denials serve many goroutines.
func TestStoreByMany(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	names := top.Names()
	ctx := context.Background()
	const each = 50
	var won atomic.Int32
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range each {
				subject := names.Result("t", fmt.Sprint("id", i))
				_, err := s.Put(ctx, subject, nil, fmt.Append(nil, w))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, queue.ErrOccupied):
					t.Errorf("Put() = %v", err)
				}
				if _, err := s.Direct(ctx, subject); err != nil {
					t.Errorf("Direct() of what is there = %v", err)
				}
				if got, err := s.LastMany(ctx, []string{subject, names.Start("t", "a", "abcdefgh")}); err != nil || len(got) != 1 {
					t.Errorf("LastMany() = %v, %v, want the one", got, err)
				}
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != each {
		t.Errorf("%d won the fence, want one per subject: %d", n, each)
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	s := queue.NewStore(nc, top.ReplyStream(), 1)
	n.Shutdown()
	ctx, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	for what, err := range map[string]error{
		"Put":  second(s.Put(ctx, top.Names().Result("t", "a"), nil, nil)),
		"Last": second(s.Last(ctx, top.Names().Result("t", "a"))),
	} {
		if !errors.Is(err, queue.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s() = %v, want ErrUnknown for the deadline", what, err)
		}
	}
}

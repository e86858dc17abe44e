package queue_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Three servers lose their leaders under a producer: nothing is accepted twice or lost, and followers see every chunk once.
func TestProducerOnThreeServers(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	nc := c.Connect(t)
	s := &stage{t: t, nc: nc, top: three, names: three.Names(), reply: queue.NewStore(nc, three.ReplyStream(), 3)}
	s.pnc = c.Connect(t)
	s.p = s.producer(s.pnc) // which does not know how many servers there are

	t.Run("submit", func(t *testing.T) {
		const n = 400
		dead := -1
		seen := map[string]bool{}
		for r, err := range s.p.SubmitAll(within(t), func(yield func(contracts.Invocation) bool) {
			for i := range n {
				if i == n/2 {
					dead = c.Leader(three.InvokeStream())
					c.Kill(dead)
				}
				id := ""
				if i%4 == 0 {
					id = fmt.Sprintf("chosen-%d", i)
				}
				if !yield(noop(id)) {
					return
				}
			}
		}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[r.ID] = true
		}
		c.Restart(dead)
		c.Current(three.InvokeStream())
		if got := stored(t, nc, three.InvokeStream()); len(seen) != n || got != n {
			t.Errorf("%d receipts, %d queued, want %d of each", len(seen), got, n)
		}
		// What was accepted by one server exists for all, at once.
		for i := range c.Len() {
			p := s.producer(c.ConnectTo(t, i))
			if r, err := p.Submit(within(t), noop(fmt.Sprintf("on-all-%d", i))); err != nil || r.Existed {
				t.Fatalf("Submit() = %+v, %v", r, err)
			}
			for k := range c.Len() {
				q := s.producer(c.ConnectTo(t, k))
				if _, err := q.Get(within(t), fmt.Sprintf("on-all-%d", i)); err != nil {
					t.Errorf("Get() through server %d of what server %d accepted = %v", k, i, err)
				}
			}
		}
	})

	t.Run("follow", func(t *testing.T) {
		s := *s
		s.t = t
		s.submit("j")
		const n = 300
		followers := []<-chan string{s.early("j"), s.early("j")}
		storing := make(chan struct{})
		go func() {
			defer close(storing)
			numbers := make(chan int)
			var hands sync.WaitGroup
			for range 8 { // so many under way at once: they are stored out of order when they are tried again
				hands.Go(func() {
					for i := range numbers {
						s.chunk("j", runA, i, "x")
					}
				})
			}
			for i := range n {
				if i == n/3 {
					dead := c.Leader(three.ReplyStream())
					c.Kill(dead)
					defer c.Restart(dead)
				}
				numbers <- i + 1
			}
			close(numbers)
			hands.Wait()
			s.result("j", runA, n, "tail")
		}()
		want := []string{"a started"}
		for i := range n {
			want = append(want, fmt.Sprintf("a %d x", i+1))
		}
		want = append(want, "a 0 tail", "result succeeded")
		var reading sync.WaitGroup
		for i, lines := range followers {
			reading.Go(func() { expect(t, fmt.Sprintf("follower %d", i), rest(lines), want...) })
		}
		reading.Wait()
		<-storing
		expect(t, "the late one", told(s.p.Watch(within(t), "j")), want...)
	})

	t.Run("wait and cancel", func(t *testing.T) {
		s := *s
		s.t = t
		var ids []string
		for i := range 40 {
			ids = append(ids, fmt.Sprintf("w%02d", i))
			s.submit(ids[i])
		}
		waiting := make(chan int)
		go func() { waiting <- len(ended(s.p.Wait(within(t), ids...))) }()
		dead := c.Leader(three.ReplyStream())
		for i, id := range ids {
			if i == len(ids)/2 {
				c.Kill(dead)
			}
			if i%2 == 0 {
				s.result(id, runA, 0, "")
			} else if r := s.cancel(id); r.Status != contracts.StatusCancelled || r.AlreadyEnded {
				t.Errorf("Cancel() = %+v, want it cancelled", r)
			}
		}
		if got := <-waiting; got != len(ids) {
			t.Errorf("Wait() yielded %d, want %d", got, len(ids))
		}
		c.Restart(dead)
	})

	// A server is frozen that keeps a replica: questions that it does not answer are asked of others.
	t.Run("a frozen replica", func(t *testing.T) {
		s := *s
		s.t = t
		s.submit("f")
		s.chunk("f", runA, 1, "one")
		s.result("f", runA, 1, "tail")
		leader := c.Leader(three.ReplyStream())
		frozen := (leader + 1) % c.Len()
		s.p = s.producer(c.ConnectTo(t, leader))
		c.Pause(frozen)
		defer c.Resume(frozen)
		begun := time.Now()
		for range 10 {
			expect(t, "Watch()", told(s.p.Watch(within(t), "f")), "a started", "a 1 one", "a 0 tail", "result succeeded")
		}
		t.Logf("ten late followers took %v", time.Since(begun).Round(time.Millisecond))
	})
}

package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

var three = queue.Topology{Replicas: 3, InvokeMaxBytes: 64 << 20, ReplyMaxBytes: 64 << 20, DeadMaxBytes: 64 << 20}

// oneCluster is held by the test that has three servers: six of them elect for ever on two processors.
var oneCluster sync.Mutex

func cluster(t *testing.T) *queuetest.Servers {
	t.Helper()
	if testing.Short() {
		t.Skip("three servers")
	}
	oneCluster.Lock()
	t.Cleanup(oneCluster.Unlock)
	c := queuetest.Cluster(t, 3)
	ensured(t, c.Connect(t), three)
	for _, s := range three.Streams() {
		c.Current(s.Name)
	}
	return c
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	t.Run("what was confirmed is found at once", func(t *testing.T) { readAfterWrite(t, c) })
	t.Run("one wins the fence", func(t *testing.T) { fenceRace(t, c) })
	t.Run("hostile headers", func(t *testing.T) { hostileHeaders(t, c.Connect(t), c.Connect(t), three) })
	t.Run("a frozen follower", func(t *testing.T) { frozenFollower(t, c) })
	t.Run("a frozen leader proves nothing", func(t *testing.T) { frozenLeader(t, c) })
	t.Run("a killed leader", func(t *testing.T) { killedLeader(t, c) })
}

// decided asks until there is an answer that decides: on a busy machine a cluster elects at any time, and cannot say meanwhile.
func decided(t *testing.T, ask func() error) (err error) {
	t.Helper()
	eventually(t, "an answer that decides", func() bool {
		err = ask()
		return !errors.Is(err, queue.ErrUnknown)
	})
	return err
}

// A direct get may go to a server that is behind (ran: 63 of 500 right after
// the PubAck). Presence and absence must both be right, while others write.
func readAfterWrite(t *testing.T, c *queuetest.Servers) {
	names := three.Names()
	ctx := context.Background()
	stop := make(chan struct{})
	var noise sync.WaitGroup
	noise.Go(func() {
		s := queue.NewStore(c.ConnectTo(t, 0), three.ReplyStream(), 3)
		s.Window(64, 1<<20)
		body := make([]byte, 200)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				noise.Add(1)
				s.PutAsync(names.Chunk("noise", "a", "abcdefgh", i), nil, body, func(uint64, error) { noise.Done() })
			}
		}
	})
	defer noise.Wait()
	defer close(stop)
	behind := 0
	for i := range c.Len() {
		nc := c.ConnectTo(t, i) // which asks its own replica
		s := queue.NewStore(nc, three.ReplyStream(), 3)
		believer := queue.NewStore(nc, three.ReplyStream(), 1) // takes the word of any server
		for j := range 100 {
			id := fmt.Sprintf("r%d-%d", i, j)
			subject, none := names.Result("t", id), names.Start("t", id, "abcdefgh")
			putAll(t, s, []string{subject}, func(int) []byte { return nil })
			switch j % 3 {
			case 0:
				if err := decided(t, func() error { _, err := s.Direct(ctx, subject); return err }); err != nil {
					t.Errorf("Direct() of what was just stored = %v", err)
				}
				if err := decided(t, func() error { _, err := s.Direct(ctx, none); return err }); !errors.Is(err, queue.ErrNotFound) {
					t.Errorf("Direct() of nothing = %v, want ErrNotFound", err)
				}
			case 1:
				var got []queue.Stored
				err := decided(t, func() (err error) { got, err = s.LastMany(ctx, []string{none, subject}); return err })
				if err != nil || len(got) != 1 || got[0].Subject != subject {
					t.Errorf("LastMany() of what was just stored = %v, %v, want it", got, err)
				}
			case 2:
				if _, err := believer.Direct(ctx, subject); errors.Is(err, queue.ErrNotFound) {
					behind++
				}
			}
		}
		n := 0
		if err := decided(t, func() error {
			n = 0
			for m, err := range s.Walk(ctx, names.Replies("t"), 0, queue.WalkOptions{Batch: 30}) {
				if err != nil {
					return err
				}
				if a, err := names.ParseReply(m.Subject); err != nil || a.Kind != queue.ReplyResult {
					t.Errorf("Walk() gave %s", m.Subject)
				}
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want := 100 * (i + 1); n != want {
			t.Errorf("Walk() right after the last Put gave %d, want %d", n, want)
		}
	}
	t.Logf("%d of 99 direct gets went to a server that was behind", behind)
}

func fenceRace(t *testing.T, c *queuetest.Servers) {
	names := three.Names()
	const subjects = 60
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range c.Len() {
		s := queue.NewStore(c.ConnectTo(t, i), three.ReplyStream(), 3)
		wg.Go(func() {
			for j := range subjects {
				subject := names.Result("race", fmt.Sprint("id", j))
				unsure := false
				err := decided(t, func() error {
					_, err := s.Put(context.Background(), subject, nil, fmt.Append(nil, i))
					unsure = unsure || errors.Is(err, queue.ErrUnknown)
					return err
				})
				if unsure && errors.Is(err, queue.ErrOccupied) {
					var there queue.Stored
					if lerr := decided(t, func() (err error) { there, err = s.Last(context.Background(), subject); return err }); lerr != nil {
						t.Errorf("Last() of what is there = %v", lerr)
					} else if string(there.Data) == fmt.Sprint(i) {
						err = nil // the message whose answer was lost
					}
				}
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, queue.ErrOccupied):
					t.Errorf("Put() = %v, want ErrOccupied", err)
				}
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != subjects {
		t.Errorf("%d won, want one of each subject: %d", n, subjects)
	}
}

// The server that would answer a direct get hangs: the leader is asked instead.
func frozenFollower(t *testing.T, c *queuetest.Servers) {
	leader := c.Leader(three.ReplyStream())
	frozen, other := (leader+1)%3, (leader+2)%3
	names := three.Names()
	s := queue.NewStore(c.ConnectTo(t, other), three.ReplyStream(), 3)
	ctx := context.Background()
	c.Pause(frozen)
	defer c.Resume(frozen)
	for i := range 10 {
		subject, none := names.Result("frozen", fmt.Sprint("id", i)), names.Result("frozen", fmt.Sprint("none", i))
		putAll(t, s, []string{subject}, func(int) []byte { return nil })
		var got []queue.Stored
		if err := decided(t, func() (err error) { got, err = s.LastMany(ctx, []string{subject, none}); return err }); err != nil || len(got) != 1 {
			t.Errorf("LastMany() = %v, %v, want the one that is there", got, err)
		}
		if err := decided(t, func() error { _, err := s.Direct(ctx, none); return err }); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("Direct() of nothing = %v, want ErrNotFound", err)
		}
		n := 0
		if err := decided(t, func() error {
			n = 0
			for _, err := range s.Walk(ctx, names.Replies("frozen"), 0, queue.WalkOptions{}) {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		}); err != nil {
			t.Errorf("Walk() = %v", err)
		}
		if n != i+1 {
			t.Errorf("Walk() gave %d, want %d", n, i+1)
		}
	}
}

// While the leader hangs nobody can say that something is not there.
func frozenLeader(t *testing.T, c *queuetest.Servers) {
	c.Current(three.ReplyStream()) // one that was frozen stands for election when it goes on, and the leader may change
	leader := c.Leader(three.ReplyStream())
	s := queue.NewStore(c.ConnectTo(t, (leader+1)%3), three.ReplyStream(), 3)
	ctx := context.Background()
	none := three.Names().Result("t", "never")
	c.Pause(leader)
	defer c.Resume(leader)
	_, err := s.Last(ctx, none)
	if !errors.Is(err, queue.ErrUnknown) || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Last() with a frozen leader = %v, want ErrUnknown", err)
	}
	// The others elect one of them, and then it is proven.
	eventually(t, "another leads", func() bool {
		_, err := s.Last(ctx, none)
		if err != nil && !errors.Is(err, queue.ErrUnknown) && !errors.Is(err, queue.ErrNotFound) {
			t.Fatalf("Last() = %v", err)
		}
		return errors.Is(err, queue.ErrNotFound)
	})
}

// The leader is killed under a stream of messages: every done is called, and
// with what failed put again until it is there, nothing is missing.
func killedLeader(t *testing.T, c *queuetest.Servers) {
	leader := c.Leader(three.ReplyStream())
	s := queue.NewStore(c.ConnectTo(t, (leader+1)%3), three.ReplyStream(), 3)
	names := three.Names()
	const count = 2000
	type end struct {
		i   int
		err error
	}
	ends := make(chan end, count)
	put := func(i int) {
		s.PutAsync(names.Chunk("killed", "a", "abcdefgh", i), nil, fmt.Append(nil, i), func(_ uint64, err error) { ends <- end{i, err} })
	}
	began, longest, last, again := time.Now(), time.Duration(0), time.Now(), 0
	go func() {
		for i := 1; i <= count; i++ {
			if i == count/2 {
				c.Kill(leader)
			}
			put(i)
		}
	}()
	for stored := 0; stored < count; {
		e := <-ends
		switch {
		case e.err == nil || errors.Is(e.err, queue.ErrOccupied):
			stored++
			longest, last = max(longest, time.Since(last)), time.Now()
		case errors.Is(e.err, queue.ErrUnknown):
			again++
			time.AfterFunc(50*time.Millisecond, func() { put(e.i) })
		default:
			t.Errorf("PutAsync() = %v, want ErrUnknown at worst", e.err)
			stored++
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%d of %d stored within a minute", stored, count)
		}
	}
	t.Logf("%d messages in %v, %d put again, longest gap %v", count, time.Since(began).Round(time.Millisecond), again, longest.Round(time.Millisecond))
	n := 0
	if err := decided(t, func() error {
		n = 0
		for m, err := range s.Walk(context.Background(), names.Replies("killed"), 0, queue.WalkOptions{}) {
			if err != nil {
				return err
			}
			if a, err := names.ParseReply(m.Subject); err != nil || string(m.Data) != fmt.Sprint(a.N) {
				t.Errorf("%s holds %q", m.Subject, m.Data)
			}
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n != count {
		t.Errorf("%d stored, want %d", n, count)
	}
	c.Restart(leader)
	c.Current(three.ReplyStream())
}

package queue

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	parkFor     = 5 * time.Second        // how long the server keeps a waiting pull
	pullRefused = 250 * time.Millisecond // the wait after a pull that the server would not hear
	lowFirst    = 8                      // one ask in so many begins with the lowest lane
	parkMost    = 8                      // messages that one parked pull asks for, where there is a slot for each
)

// puller asks the consumers of one worker for what it can start, and for no more.
//
// While nothing waits, every consumer holds one parked pull: of one message, or its share of the
// free slots, for the server takes a pull in before the result that is sent after it. Each delivery
// tells how many more are pending behind it; those are asked for with no_wait pulls, lane
// after lane, never beyond what the worker wants. Nothing is ever prefetched: with the
// defaults of nats.go one busy worker was seen to hold 10 of 10 jobs.
type puller struct {
	nc     *nats.Conn
	serves func(contracts.Kind) bool
	inbox  string // <inbox>.<consumer index>.<pull number>

	mu        sync.Mutex
	consumers []*consumer
	want      int // deliveries that the worker could take now
	number    uint64
	turn      int
	busy      int // the consumer of the last delivery
	closed    bool
}

type consumer struct {
	next    string // subject of the pull API
	kind    contracts.Kind
	pulls   []pull // what was asked and has not come, the oldest first
	pending int    // messages behind the last delivery, as far as we know
	notNow  time.Time
}

type pull struct {
	number uint64
	left   int
	sent   time.Time
	parked bool
}

func newPuller(nc *nats.Conn, t Topology, kinds []contracts.Kind, pool string, serves func(contracts.Kind) bool) *puller {
	p := &puller{nc: nc, serves: serves, inbox: nc.NewInbox()}
	for _, k := range kinds {
		for _, l := range contracts.Lanes() { // the most urgent first: ask relies on it
			c := t.Consumer(k, pool, l, contracts.DefaultShard)
			p.consumers = append(p.consumers, &consumer{
				kind: k,
				next: "$JS.API.CONSUMER.MSG.NEXT." + t.InvokeStream() + "." + c.Durable,
			})
		}
	}
	return p
}

// setWant says how many deliveries the worker could take now.
func (p *puller) setWant(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = n
	p.ask(time.Now())
}

// stop asks for nothing more. What was asked may still arrive.
func (p *puller) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// arrived notes a delivery from consumer i with pending messages behind it, and returns
// when the pull that it may answer was sent: it cannot have been delivered before.
func (p *puller) arrived(i int, pending int) time.Time {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = i
	c := p.consumers[i]
	asked := 0
	sent := now
	if len(c.pulls) > 0 {
		// The server answers waiting pulls in the order in which they came.
		sent = c.pulls[0].sent
		if c.pulls[0].left--; c.pulls[0].left <= 0 {
			c.pulls = c.pulls[1:]
		}
		for _, q := range c.pulls {
			asked += q.left
		}
	}
	c.pending = max(0, pending-asked)
	return sent
}

// status notes the server's word on a pull: it is over.
func (p *puller) status(subject string, m *nats.Msg) {
	i, number, ok := p.token(subject)
	if !ok {
		return
	}
	code := m.Header.Get("Status")
	if code == "100" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.consumers[i]
	for k, q := range c.pulls {
		if q.number != number {
			continue
		}
		c.pulls = append(c.pulls[:k:k], c.pulls[k+1:]...)
		if !q.parked {
			c.pending = 0
		}
		break
	}
	now := time.Now()
	if code != "404" && code != "408" {
		c.notNow = now.Add(pullRefused)
	}
	p.ask(now)
}

// tick forgets pulls that the server must have lost, and asks again.
func (p *puller) tick(reconnected bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.consumers {
		for len(c.pulls) > 0 && (reconnected || now.Sub(c.pulls[0].sent) > parkFor+time.Second) {
			c.pulls = c.pulls[1:]
		}
	}
	p.ask(now)
}

// ask sends the pulls that are due. p.mu is held.
func (p *puller) ask(now time.Time) {
	if p.closed || p.want <= 0 || !p.nc.IsConnected() {
		return
	}
	left := p.want
	for _, c := range p.consumers {
		for _, q := range c.pulls {
			if !q.parked {
				left -= q.left
			}
		}
	}
	p.turn++
	lanes := len(contracts.Lanes())
	kinds := len(p.consumers) / lanes
	for k := range kinds {
		base := (k + p.turn) % kinds * lanes
		if !p.serves(p.consumers[base].kind) {
			continue
		}
		backlog := false
		for l := range lanes {
			i := base + l
			if p.turn%lowFirst == 0 {
				i = base + lanes - 1 - l
			}
			c := p.consumers[i]
			switch {
			case now.Before(c.notNow):
			case c.pending > 0:
				backlog = true
				// Small asks while many places are taken would cost a round trip for each message.
				if n := min(c.pending, left); n > 0 && (n == c.pending || n >= p.want/4) {
					p.send(i, n, false, now)
					c.pending -= n
					left -= n
				}
			case len(c.pulls) == 0 && (!backlog || left > 0):
				p.send(i, p.park(i), true, now)
				if p.turn%lowFirst == 0 {
					left-- // low may answer at once: leave it its place
				}
			}
		}
	}
}

// park is how many messages the parked pull of consumer i asks for: half of the free slots where the last delivery
// came from it, so that a stream of single jobs does not cost a pull each, and its share of them elsewhere.
func (p *puller) park(i int) int {
	n := p.want / len(p.consumers)
	if i == p.busy {
		n = p.want / 2
	}
	return max(1, min(parkMost, n))
}

func (p *puller) send(i, n int, parked bool, now time.Time) {
	p.number++
	req := struct {
		Batch   int           `json:"batch"`
		Expires time.Duration `json:"expires,omitempty"`
		NoWait  bool          `json:"no_wait,omitempty"`
	}{Batch: n, NoWait: !parked}
	if parked {
		req.Expires = parkFor
	}
	body, err := json.Marshal(req)
	if err != nil {
		panic(err) // three numbers
	}
	c := p.consumers[i]
	if err := p.nc.PublishRequest(c.next, fmt.Sprintf("%s.%d.%d", p.inbox, i, p.number), body); err != nil {
		c.notNow = now.Add(pullRefused)
		return
	}
	c.pulls = append(c.pulls, pull{number: p.number, left: n, sent: now, parked: parked})
}

func (p *puller) token(subject string) (i int, number uint64, ok bool) {
	rest, ok := strings.CutPrefix(subject, p.inbox+".")
	if !ok {
		return 0, 0, false
	}
	a, b, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, 0, false
	}
	i, err := strconv.Atoi(a)
	if err != nil || i < 0 || i >= len(p.consumers) {
		return 0, 0, false
	}
	number, err = strconv.ParseUint(b, 10, 64)
	return i, number, err == nil
}

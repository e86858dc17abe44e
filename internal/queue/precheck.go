package queue

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// newFor is how long a message that says it is new cannot have a result: nobody stores a cancelled
	// for it within the 500 ms that its holder has to answer.
	newFor = 250 * time.Millisecond
	// calmAfter is how long after a reconnect a first delivery counts as one. A server that was
	// killed forgets acks, and hands out again as new what has run.
	calmAfter = time.Second
)

// surelyNew reports whether a first delivery needs no question: its id was made for this one
// message, which was stored a moment ago by a server that has not gone away since. The
// question is a third of the latency of a short job.
func (t *Taker) surelyNew(d *Delivery) bool {
	if d.msg.Header.Get(contracts.HeaderNew) != "1" {
		return false
	}
	age := t.Now().Sub(d.stored)
	return age < newFor && age > -newFor && t.calm.since(t.nc) > calmAfter
}

// calm knows since when a connection has stood.
type calm struct {
	mu         sync.Mutex
	reconnects uint64
	from       time.Time
}

func (c *calm) since(nc *nats.Conn) time.Duration {
	n := nc.Stats().Reconnects
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from.IsZero() || n != c.reconnects {
		c.reconnects, c.from = n, time.Now()
	}
	return time.Since(c.from)
}

// precheck asks for the results of first deliveries, which nobody else can hold: all that wait
// at once, one question under way. It runs in the goroutines that bring deliveries and answers,
// for every one more that is woken on the way costs a short job as much as the question.
// Only one server may keep the stream: where there are more, absence is the leader's word.
type precheck struct {
	mu      sync.Mutex
	waiting []*Delivery
	asking  bool
}

// ask asks about d, now or together with others when the answer under way has come.
func (t *Taker) ask(d *Delivery) {
	p := &t.first
	p.mu.Lock()
	p.waiting = append(p.waiting, d)
	if p.asking {
		p.mu.Unlock()
		return
	}
	p.asking = true
	p.mu.Unlock()
	t.askNext()
}

// askNext sends the next question, if any delivery waits for one.
func (t *Taker) askNext() {
	p := &t.first
	p.mu.Lock()
	n := min(len(p.waiting), checkAtOnce)
	if n == 0 {
		p.asking = false
		p.mu.Unlock()
		return
	}
	batch := p.waiting[:n:n]
	if p.waiting = p.waiting[n:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	p.mu.Unlock()

	subjects := make([]string, n)
	for i, d := range batch {
		subjects[i] = d.resultSubject()
	}
	t.reply.presentAsync(subjects, func(there map[string]bool, err error) {
		t.askNext() // while what has come is handed on
		for i, d := range batch {
			switch {
			case err != nil:
				t.later(d)
			default:
				t.decide(d, there[subjects[i]])
			}
		}
	})
}

// later leaves a delivery to the checks that wait and ask again.
func (t *Taker) later(d *Delivery) {
	select {
	case t.arrivals <- d:
	default:
		t.drop(d) // the server hands it out again after AckWait
	}
}

// presentAsync asks which of the subjects have a message, and calls done exactly once, in
// the goroutine that brings the answer. An answer that leaves out what is there is an error.
func (s *Store) presentAsync(subjects []string, done func(there map[string]bool, err error)) {
	req := []byte(`{"multi_last":[`)
	for i, subject := range subjects {
		if i > 0 {
			req = append(req, ',')
		}
		req = appendJSON(req, subject)
	}
	req = append(req, `],"max_bytes":`...)
	req = append(strconv.AppendInt(req, readBytes, 10), '}')

	var there map[string]bool
	api := "$JS.API.DIRECT.GET." + s.stream
	c := &call{subject: api}
	c.fail = func(err error) { done(nil, s.readError(subjects[0], err)) }
	c.on = func(m *nats.Msg) bool {
		one, err := s.direct(m)
		switch {
		case err == nil && one.Seq > 0:
			if there == nil {
				there = make(map[string]bool)
			}
			there[one.Subject] = true
			return false
		case err == nil:
			if left := m.Header.Get("Nats-Num-Pending"); left != "" && left != "0" {
				err = fmt.Errorf("%w: %s more are there", ErrUnknown, left)
			}
		case errors.Is(err, ErrNotFound) && m.Header.Get("Description") == "No Results":
			err = nil
		}
		if s.link.drop(c) {
			done(there, s.readError(subjects[0], err))
		}
		return true
	}
	reply, err := s.link.add(c, s.link.reads, s.timeout)
	if err == nil {
		err = closedOr(s.nc.PublishRequest(api, reply, req))
	}
	if err != nil && (c.token == 0 || s.link.drop(c)) {
		done(nil, s.readError(subjects[0], err))
	}
}

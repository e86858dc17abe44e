package queue

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Manual is the worker's side of the messages of kind manual: it asks the responders of a name, and hands what they and
// persons say to the runs that listen. Two subscriptions serve all runs of a worker; they are made with the first.
type Manual struct {
	nc    *nats.Conn
	names Names
	inbox string

	mu   sync.Mutex
	subs []*nats.Subscription
	runs map[string]*manualRun            // by run
	ids  map[string]map[string]*manualRun // by "<tenant>.<id>", then by run
}

type manualRun struct {
	mu    sync.Mutex // held while heard is called: after stop it is not
	heard func(contracts.ManualHeard)
}

func (r *manualRun) hear(m contracts.ManualHeard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.heard != nil {
		r.heard(m)
	}
}

// NewManual returns the worker's side on nc. It asks the server nothing.
func NewManual(nc *nats.Conn, topo Topology) *Manual {
	return &Manual{nc: nc, names: topo.Names(), inbox: nc.NewInbox(), runs: map[string]*manualRun{}, ids: map[string]map[string]*manualRun{}}
}

// Close ends the subscriptions. The connection is the caller's.
func (m *Manual) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sub := range m.subs {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	m.subs = nil
	return nil
}

// Listen has heard called with all that is said of a run, one at a time, until stop returns. heard must not block.
func (m *Manual) Listen(tenant, id, run string, heard func(contracts.ManualHeard)) (stop func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.subs) == 0 {
		for subject, handle := range map[string]nats.MsgHandler{m.inbox + ".*": m.replied, m.names.Answers(): m.answered} {
			sub, err := m.nc.Subscribe(subject, handle)
			if err != nil {
				return nil, subscribeError(err)
			}
			m.subs = append(m.subs, sub)
		}
	}
	r, key := &manualRun{heard: heard}, tenant+"."+id
	m.runs[run] = r
	if m.ids[key] == nil {
		m.ids[key] = map[string]*manualRun{}
	}
	m.ids[key][run] = r
	return func() {
		m.mu.Lock()
		delete(m.runs, run)
		if delete(m.ids[key], run); len(m.ids[key]) == 0 {
			delete(m.ids, key)
		}
		m.mu.Unlock()
		r.mu.Lock()
		r.heard = nil
		r.mu.Unlock()
	}, nil
}

// Ask sends a request to one of the responders of a name.
func (m *Manual) Ask(name, run string, request []byte) error {
	subject := m.names.Manual(name)
	if subject == "" {
		return fmt.Errorf("name %.40q: must be 1 to 64 of a-z 0-9 _ -", name)
	}
	return closedOr(m.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: m.inbox + "." + run, Header: headerFor(true), Data: request}))
}

// Tell sends a message in JSON to the reply subject of one that was heard.
func (m *Manual) Tell(to string, message []byte) error {
	return closedOr(m.nc.PublishMsg(&nats.Msg{Subject: to, Header: headerFor(true), Data: message}))
}

// Connected reports whether a server is there to hear from.
func (m *Manual) Connected() bool { return m.nc.IsConnected() }

func (m *Manual) replied(msg *nats.Msg) {
	run := strings.TrimPrefix(msg.Subject, m.inbox+".")
	m.mu.Lock()
	r := m.runs[run]
	m.mu.Unlock()
	switch {
	case len(msg.Data) == 0 && msg.Header.Get("Status") == "503":
		if r != nil {
			r.hear(contracts.ManualHeard{Nobody: true})
		}
	case r != nil:
		r.hear(contracts.ManualHeard{Meta: metaOf(msg.Header), Body: msg.Data, Reply: msg.Reply})
	case msg.Reply != "":
		m.over(msg)
	}
}

// over tells a responder that nobody waits any more for what it does: its run was cancelled before it said a word, is
// another worker's by now, or has ended and the word of that was lost.
func (m *Manual) over(msg *nats.Msg) {
	reply, err := contracts.Decode[contracts.ManualReply](msg.Data, metaOf(msg.Header))
	if err != nil || reply.Validate() != nil {
		return
	}
	data, err := contracts.EncodeJSON(contracts.ManualControl{Type: contracts.ManualEnd, ID: reply.ID, Run: reply.Run})
	if err == nil {
		_ = m.Tell(msg.Reply, data) // it is told again when it speaks again
	}
}

func (m *Manual) answered(msg *nats.Msg) {
	tenant, id, err := m.names.ParseAnswer(msg.Subject)
	if err != nil {
		return
	}
	m.mu.Lock()
	var runs []*manualRun
	for _, r := range m.ids[tenant+"."+id] {
		runs = append(runs, r)
	}
	m.mu.Unlock()
	for _, r := range runs {
		r.hear(contracts.ManualHeard{Person: true, Meta: metaOf(msg.Header), Body: msg.Data, Reply: msg.Reply})
	}
}

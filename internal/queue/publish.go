package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// What PutAsync lets be under way where Window was not called.
const (
	DefaultWindowMessages = 1024
	DefaultWindowBytes    = 8 << 20
)

// Store reads and writes one stream, by the rules that keep a reader from
// taking "no answer" for "not there" and a writer from taking "full" for
// "already there". Any number of goroutines may use it. It needs no closing;
// it ends with its connection.
type Store struct {
	nc       *nats.Conn
	link     *link
	stream   string
	replicas int
	ackHead  []byte // what a PubAck of this stream begins with

	timeout time.Duration

	mu         sync.Mutex
	room       sync.Cond
	maxCount   int
	maxBytes   int64
	count      int
	bytes      int64
	unanswered []answerless // publishes that nobody took, while the stream is looked for
}

type answerless struct {
	subject string
	end     func(uint64, error)
}

// NewStore returns the Store of a stream over nc. replicas is how many servers
// keep it; it decides whether a direct get can prove absence. The connection's
// error handler is kept and called after ours.
func NewStore(nc *nats.Conn, stream string, replicas int) *Store {
	s := &Store{
		nc: nc, link: linkOf(nc), stream: stream, replicas: max(replicas, 1),
		ackHead:  []byte(`{"stream":"` + stream + `",`),
		timeout:  requestTimeout,
		maxCount: DefaultWindowMessages, maxBytes: DefaultWindowBytes,
	}
	s.room.L = &s.mu
	return s
}

// Stream is the name of the stream.
func (s *Store) Stream() string { return s.stream }

// Window sets how many messages, and bytes of them, PutAsync lets be under way at once.
func (s *Store) Window(messages int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxCount, s.maxBytes = max(messages, 1), max(bytes, 1)
	s.room.Broadcast()
}

// Put stores a message and returns its sequence once the server has confirmed
// it. It waits at most 2 s. Errors: ErrOccupied (read the subject to see whose
// it is), ErrFull, ErrDenied, ErrNoStream, ErrTooLarge, ErrRefused, ErrClosed;
// ErrUnknown when no answer came: it may be stored, so put it again.
func (s *Store) Put(ctx context.Context, subject string, h nats.Header, data []byte) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	done := make(chan answer, 1)
	c := &call{subject: subject}
	c.fail = func(err error) { done <- answer{0, err} }
	c.on = func(m *nats.Msg) bool {
		seq, err := s.acked(m)
		done <- answer{seq, err}
		return true
	}
	if err := s.send(c, h, data, 0); err != nil {
		return 0, s.putError(subject, err)
	}
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	var a answer
	select {
	case a = <-done:
	case <-timer.C:
		a.err = fmt.Errorf("%w: nothing within %v", ErrUnknown, s.timeout)
	case <-ctx.Done():
		a.err = fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
	}
	s.link.drop(c)
	if errors.Is(a.err, nats.ErrNoResponders) {
		a.err = s.whyNobody(ctx, subject)
	}
	return a.seq, s.putError(subject, a.err)
}

// PutAsync stores a message and calls done exactly once: with the sequence
// when the server has confirmed it, or with an error as of Put, at the latest
// when its time is over. While the window is full it waits for room, which
// comes within that time.
//
// done may be called before PutAsync returns, and mostly is by the goroutine
// that brings the answers to all other messages: it must not block, and so not
// call PutAsync. data must not be changed until PutAsync has returned.
func (s *Store) PutAsync(subject string, h nats.Header, data []byte, done func(seq uint64, err error)) {
	size := int64(len(data) + len(subject))
	s.mu.Lock()
	for s.count > 0 && (s.count >= s.maxCount || s.bytes+size > s.maxBytes) {
		s.room.Wait()
	}
	s.count++
	s.bytes += size
	s.mu.Unlock()

	end := func(seq uint64, err error) {
		s.mu.Lock()
		s.count--
		s.bytes -= size
		s.mu.Unlock()
		s.room.Broadcast()
		done(seq, s.putError(subject, err))
	}
	c := &call{subject: subject}
	c.fail = func(err error) { end(0, err) }
	c.on = func(m *nats.Msg) bool {
		// Whoever takes the call out of the table ends it: an answer, the sweep or a denial.
		if !s.link.drop(c) {
			return false
		}
		seq, err := s.acked(m)
		if errors.Is(err, nats.ErrNoResponders) {
			s.explain(answerless{subject, end})
			return false
		}
		end(seq, err)
		return false
	}
	if err := s.send(c, h, data, s.timeout); err != nil {
		if s.link.drop(c) || c.token == 0 {
			end(0, err)
		}
	}
}

// send registers c and publishes the message whose answer it waits for.
func (s *Store) send(c *call, h nats.Header, data []byte, timeout time.Duration) error {
	reply, err := s.link.add(c, s.link.acks, timeout)
	if err != nil {
		return err
	}
	err = s.nc.PublishMsg(&nats.Msg{Subject: c.subject, Reply: reply, Header: h, Data: data})
	if err != nil {
		return closedOr(err)
	}
	return nil
}

func (s *Store) putError(subject string, err error) error {
	if err == nil || errors.Is(err, ErrDenied) { // which names the subject already
		return err
	}
	return fmt.Errorf("put %s: %w", subject, err)
}

// apiError is the error of a JetStream answer.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// acked reads a PubAck.
func (s *Store) acked(m *nats.Msg) (uint64, error) {
	if len(m.Data) == 0 && m.Header.Get(statusHeader) == "503" {
		return 0, nats.ErrNoResponders
	}
	// By hand where it has the form that every PubAck of ours has: {"stream":"NAME", "seq":7}
	if rest, ok := bytes.CutPrefix(m.Data, s.ackHead); ok {
		rest = bytes.TrimLeft(rest, " ")
		if rest, ok = bytes.CutPrefix(rest, []byte(`"seq":`)); ok {
			var seq uint64
			for _, b := range rest {
				if b < '0' || b > '9' {
					if b == '}' && seq > 0 {
						return seq, nil
					}
					break
				}
				seq = seq*10 + uint64(b-'0')
			}
		}
	}
	var ack struct {
		Error     *apiError `json:"error"`
		Stream    string    `json:"stream"`
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("%w: unreadable answer: %w", ErrUnknown, err)
	}
	switch {
	case ack.Stream != "" && ack.Stream != s.stream:
		return 0, fmt.Errorf("%w: the subject belongs to stream %s, not to %s", ErrNoStream, ack.Stream, s.stream)
	case ack.Error != nil:
		return 0, ack.Error.publish()
	case ack.Duplicate:
		return 0, fmt.Errorf("%w: its Nats-Msg-Id is that of message %d", ErrRefused, ack.Seq)
	}
	return ack.Seq, nil
}

// publish says what an error in a PubAck means.
func (e *apiError) publish() error {
	switch e.ErrCode {
	case 10077: // JSStreamStoreFailedF, of every reason that storing can fail for
		switch e.Description {
		case "maximum messages per subject exceeded":
			return ErrOccupied
		case "message to large", "message too large": // store.ErrMsgTooLarge, spelt so
			return fmt.Errorf("%w: %s", ErrTooLarge, e.Description)
		}
		return fmt.Errorf("%w: %s", ErrFull, e.Description)
	case 10054, 10097: // message, header size exceeds maximum allowed
		return fmt.Errorf("%w: %s", ErrTooLarge, e.Description)
	case 10002, 10023, 10028, 10047, 10122, 10130: // resources of the account, the server, the storage
		return fmt.Errorf("%w: %s", ErrFull, e.Description)
	case 10111: // rollup not permitted, with the code of a server's fault
		return fmt.Errorf("%w: %s", ErrRefused, e.Description)
	}
	if err := e.common(); err != nil {
		return err
	}
	if e.Code >= 500 {
		return fmt.Errorf("%w: %s (%d)", ErrUnknown, e.Description, e.ErrCode)
	}
	return fmt.Errorf("%w: %s (%d)", ErrRefused, e.Description, e.ErrCode)
}

// common says what the errors mean that any answer may hold; nil if it is none of them.
func (e *apiError) common() error {
	switch e.ErrCode {
	case 10059: // stream not found
		return fmt.Errorf("%w: %s", ErrNoStream, e.Description)
	case 10039: // jetstream not enabled for account
		return fmt.Errorf("%w: %s", ErrNoStream, e.Description)
	case 10008, 10009: // no leader now
		return fmt.Errorf("%w: %s", ErrUnknown, e.Description)
	}
	return nil
}

// explain ends a publish that nobody took with the reason. One look at the
// stream serves all that wait for it, in a goroutine that ends with it: the
// goroutine that brings the answers must not wait for one.
func (s *Store) explain(a answerless) {
	s.mu.Lock()
	s.unanswered = append(s.unanswered, a)
	first := len(s.unanswered) == 1
	s.mu.Unlock()
	if !first {
		return
	}
	go func() {
		info, err := s.info(context.Background())
		s.mu.Lock()
		all := s.unanswered
		s.unanswered = nil
		s.mu.Unlock()
		for _, a := range all {
			a.end(0, s.nobody(info, err, a.subject))
		}
	}()
}

// whyNobody says why nobody took a message to subject: there is no such
// stream, which is permanent, or its leader is away, which is not.
func (s *Store) whyNobody(ctx context.Context, subject string) error {
	info, err := s.info(ctx)
	return s.nobody(info, err, subject)
}

func (s *Store) nobody(info *streamInfo, err error, subject string) error {
	if err != nil {
		if errors.Is(err, ErrNoStream) {
			return err
		}
		return fmt.Errorf("%w: nobody took it", ErrUnknown)
	}
	if strings.HasPrefix(subject, "$JS.API.") {
		if !info.Config.AllowDirect {
			return fmt.Errorf("%w: stream %s allows no direct get", ErrForbidden, s.stream)
		}
		return fmt.Errorf("%w: nobody took it", ErrUnknown)
	}
	for _, filter := range info.Config.Subjects {
		if covers(filter, subject) {
			return fmt.Errorf("%w: nobody took it", ErrUnknown)
		}
	}
	return fmt.Errorf("%w: stream %s takes no such subject", ErrNoStream, s.stream)
}

// covers reports whether a subject is in a filter.
func covers(filter, subject string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		if f == ">" {
			return subject != ""
		}
		t, trest, tmore := strings.Cut(subject, ".")
		if f != "*" && f != t || fmore != tmore {
			return false
		}
		if !fmore {
			return true
		}
		filter, subject = frest, trest
	}
}

type streamInfo struct {
	Config struct {
		Subjects    []string `json:"subjects"`
		AllowDirect bool     `json:"allow_direct"`
	} `json:"config"`
}

// info asks shortly: that a stream does not exist is known at once, and while
// its leader is away nobody answers, but who waits could put again.
func (s *Store) info(ctx context.Context) (*streamInfo, error) {
	ctx, stop := context.WithTimeout(ctx, infoTimeout)
	defer stop()
	var info streamInfo
	err := s.api(ctx, "$JS.API.STREAM.INFO."+s.stream, nil, &info)
	return &info, err
}

// api asks the leader and decodes its one answer into out.
func (s *Store) api(ctx context.Context, subject string, req []byte, out any) error {
	var data []byte
	var nobody bool
	err := s.link.request(ctx, subject, req, s.timeout, func(m *nats.Msg) bool {
		data = m.Data
		nobody = len(data) == 0 && m.Header.Get(statusHeader) == "503"
		return true
	})
	if err != nil {
		return err
	}
	if nobody {
		return fmt.Errorf("%w: nobody answers for JetStream", ErrUnknown)
	}
	var head struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%w: unreadable answer: %w", ErrUnknown, err)
	}
	if e := head.Error; e != nil {
		if err := e.common(); err != nil {
			return err
		}
		if e.Code == 404 || e.ErrCode == 10057 && (e.Description == "no message found" || e.Description == "deleted message") {
			return ErrNotFound
		}
		return fmt.Errorf("%w: %s (%s)", ErrUnknown, e.Description, strconv.Itoa(e.ErrCode))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%w: unreadable answer: %w", ErrUnknown, err)
	}
	return nil
}

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// maxLastMany is how many subjects, and answers, one direct get of many may have on the server.
	maxLastMany = 1024
	// readBytes bounds what one batch brings; the server goes one message beyond it.
	readBytes = 4 << 20
	// directPatience is how long one direct get may take where another server can be asked: one of
	// the servers that answer may be frozen, and the next request goes to it again (ran: for 20 s).
	directPatience = 500 * time.Millisecond
	// leaderAsks is how many questions to the leader are under way at once.
	leaderAsks = 32
)

// Stored is a message as a stream holds it.
type Stored struct {
	Subject string
	Seq     uint64
	Time    time.Time // by the server's clock
	Header  nats.Header
	Data    []byte
}

// Last returns the last message of a subject, or of all that a filter covers.
// It asks the leader: ErrNotFound proves that nothing is stored. No answer is ErrUnknown.
func (s *Store) Last(ctx context.Context, subject string) (Stored, error) {
	return s.leader(ctx, subject, append(appendJSON([]byte(`{"last_by_subj":`), subject), '}'))
}

// Seq returns the message with a sequence, as the leader has it.
func (s *Store) Seq(ctx context.Context, seq uint64) (Stored, error) {
	return s.leader(ctx, strconv.FormatUint(seq, 10), append(strconv.AppendUint([]byte(`{"seq":`), seq, 10), '}'))
}

// leader sends a message get, which the leader alone answers.
func (s *Store) leader(ctx context.Context, what string, req []byte) (Stored, error) {
	var got struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Hdrs    []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := s.api(ctx, "$JS.API.STREAM.MSG.GET."+s.stream, req, &got); err != nil {
		return Stored{}, s.readError(what, err)
	}
	m := Stored{Subject: got.Message.Subject, Seq: got.Message.Seq, Time: got.Message.Time.UTC(), Data: got.Message.Data}
	if len(got.Message.Hdrs) > 0 {
		h, err := nats.DecodeHeadersMsg(got.Message.Hdrs)
		if err != nil {
			return Stored{}, s.readError(what, fmt.Errorf("header: %w", err))
		}
		m.Header = h
	}
	return m, nil
}

// Direct returns the message of a subject as any server that keeps the stream
// has it. What it finds is there. That nothing is there it can only tell where
// one server keeps the stream; else it asks the leader before it says ErrNotFound.
func (s *Store) Direct(ctx context.Context, subject string) (Stored, error) {
	api, body := "$JS.API.DIRECT.GET."+s.stream+"."+subject, []byte(nil)
	if strings.ContainsAny(subject, "*>") {
		api, body = "$JS.API.DIRECT.GET."+s.stream, append(appendJSON([]byte(`{"last_by_subj":`), subject), '}')
	}
	var got Stored
	var bad error
	err := s.link.request(ctx, api, body, s.patience(), func(m *nats.Msg) bool {
		got, bad = s.direct(m)
		return true
	})
	if err == nil {
		err = bad
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = s.whyNobody(ctx, api)
	}
	if s.replicas > 1 && (errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnknown)) && ctx.Err() == nil {
		return s.Last(ctx, subject)
	}
	return got, s.readError(subject, err)
}

// LastMany returns the last messages of many subjects at once, in the order in
// which they were stored; what is not stored is not among them. Filters with
// wildcards may be among the subjects, as long as no more than 1,024 messages
// match in all. Where more than one server keeps the stream, every subject
// that is not found is asked of the leader, so that a missing one is a proof;
// for a filter it never is.
func (s *Store) LastMany(ctx context.Context, subjects []string) ([]Stored, error) {
	var all []Stored
	for part := subjects; len(part) > 0; {
		n := min(len(part), maxLastMany)
		got, err := s.lastMany(ctx, part[:n])
		if err != nil {
			return nil, s.readError(part[0], err)
		}
		all, part = append(all, got...), part[n:]
	}
	return all, nil
}

func (s *Store) lastMany(ctx context.Context, subjects []string) ([]Stored, error) {
	got, err := s.directMany(ctx, subjects)
	if s.replicas == 1 {
		return got, err
	}
	if err != nil && (!errors.Is(err, ErrUnknown) || ctx.Err() != nil) {
		return nil, err
	}
	found := make(map[string]bool, len(got))
	for _, m := range got {
		found[m.Subject] = true
	}
	var missing []string
	for _, subject := range subjects {
		if strings.ContainsAny(subject, "*>") {
			if err != nil {
				return nil, err
			}
		} else if !found[subject] {
			missing = append(missing, subject)
		}
	}
	more, err := s.lastOfEach(ctx, missing)
	return append(got, more...), err
}

// lastOfEach asks the leader for each subject.
func (s *Store) lastOfEach(ctx context.Context, subjects []string) ([]Stored, error) {
	answers, errs := make([]Stored, len(subjects)), make([]error, len(subjects))
	var wg sync.WaitGroup
	turn := make(chan struct{}, leaderAsks)
	for i, subject := range subjects {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			answers[i], errs[i] = s.Last(ctx, subject)
		})
	}
	wg.Wait()
	var got []Stored
	for i := range subjects {
		if errors.Is(errs[i], ErrNotFound) {
			continue
		}
		if errs[i] != nil {
			return nil, errs[i]
		}
		got = append(got, answers[i])
	}
	return got, nil
}

// Present returns those of many subjects, or filters, that any server that keeps the
// stream has: what it finds is there, what it does not find may be there.
func (s *Store) Present(ctx context.Context, subjects []string) ([]Stored, error) {
	got, err := s.directMany(ctx, subjects)
	if err != nil {
		return nil, s.readError(subjects[0], err)
	}
	return got, nil
}

// WalkLeader returns what is stored under a filter, one message at a time, by the word of
// the leader: what it does not find is not there. It is for filters of few messages.
func (s *Store) WalkLeader(ctx context.Context, filter string) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for next := uint64(1); ; {
			req := strconv.AppendUint(append(appendJSON([]byte(`{"next_by_subj":`), filter), `,"seq":`...), next, 10)
			m, err := s.leader(ctx, filter, append(req, '}'))
			if errors.Is(err, ErrNotFound) {
				return
			}
			next = m.Seq + 1
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

func (s *Store) directMany(ctx context.Context, subjects []string) ([]Stored, error) {
	var all []Stored
	var from, upTo uint64
	for {
		req := []byte(`{"multi_last":[`)
		for i, subject := range subjects {
			if i > 0 {
				req = append(req, ',')
			}
			req = appendJSON(req, subject)
		}
		req = append(req, `],"max_bytes":`...)
		req = strconv.AppendInt(req, readBytes, 10)
		if from > 0 {
			req = strconv.AppendUint(append(req, `,"seq":`...), from, 10)
			req = strconv.AppendUint(append(req, `,"up_to_seq":`...), upTo, 10)
		}
		got, end, err := s.batch(ctx, append(req, '}'))
		if err != nil && !(errors.Is(err, ErrNotFound) && end.nothing) {
			// An answer of many that stops in the middle says 404 too: that is no absence.
			if errors.Is(err, ErrNotFound) {
				err = fmt.Errorf("%w: the server could not load a message", ErrUnknown)
			}
			return nil, err
		}
		all = append(all, got...)
		if end.pending == 0 || len(got) == 0 {
			return all, nil
		}
		from, upTo = got[len(got)-1].Seq+1, end.upTo
	}
}

// WalkOptions bounds what Walk has in memory.
type WalkOptions struct {
	// Batch is how many messages are asked for at once; 0 is 1,024.
	Batch int
	// MaxBytes is about how much they may weigh; 0 is 1 MiB.
	MaxBytes int
	// Next, if not nil, is told of each answer how much it weighed, how long it took to come and how many messages there were after
	// it, and returns the next MaxBytes, or 0 if it was the last one that is wanted.
	Next func(weight int, took time.Duration, left uint64) int
}

// Walk returns what is stored under a filter, from a sequence on (0 is the
// first), in the order in which it was stored. It ends when nothing more is
// stored, where more than one server keeps the stream by the word of the
// leader, or after an error.
func (s *Store) Walk(ctx context.Context, subject string, from uint64, o WalkOptions) iter.Seq2[Stored, error] {
	if o.Batch <= 0 {
		o.Batch = 1024
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 20
	}
	return func(yield func(Stored, error) bool) {
		next := max(from, 1)
		ask := func() []byte {
			req := appendJSON([]byte(`{"next_by_subj":`), subject)
			return strconv.AppendUint(append(req, `,"seq":`...), next, 10)
		}
		for {
			req := strconv.AppendInt(append(ask(), `,"batch":`...), int64(o.Batch), 10)
			req = strconv.AppendInt(append(req, `,"max_bytes":`...), int64(o.MaxBytes), 10)
			asked := time.Now()
			got, end, err := s.batch(ctx, append(req, '}'))
			if o.Next != nil && err == nil {
				o.MaxBytes = o.Next(weigh(got), time.Since(asked), end.pending)
			}
			for _, m := range got {
				next = m.Seq + 1
				if !yield(m, nil) {
					return
				}
			}
			none := errors.Is(err, ErrNotFound)
			switch {
			case o.MaxBytes == 0:
				return
			case err == nil && end.pending > 0 && len(got) > 0:
				continue
			case s.replicas == 1 && (err == nil || none):
				return
			case err != nil && !none && (s.replicas == 1 || !errors.Is(err, ErrUnknown) || ctx.Err() != nil):
				yield(Stored{}, s.readError(subject, err))
				return
			}
			// The server that answered may be behind, or did not answer at all: the leader knows.
			m, err := s.leader(ctx, subject, append(ask(), '}'))
			if errors.Is(err, ErrNotFound) {
				return
			}
			if err != nil {
				yield(Stored{}, err)
				return
			}
			next = m.Seq + 1
			if !yield(m, nil) {
				return
			}
		}
	}
}

func weigh(messages []Stored) (bytes int) {
	for _, m := range messages {
		bytes += len(m.Data)
	}
	return bytes
}

// Delete removes the message with a sequence; ErrNotFound if it is gone already.
func (s *Store) Delete(ctx context.Context, seq uint64) error {
	req := append(strconv.AppendUint([]byte(`{"no_erase":true,"seq":`), seq, 10), '}')
	err := s.api(ctx, "$JS.API.STREAM.MSG.DELETE."+s.stream, req, nil)
	return s.readError(strconv.FormatUint(seq, 10), err)
}

// end is what the last answer of a batch says.
type end struct {
	pending, upTo uint64
	nothing       bool // the subjects have no message at all
}

// batch sends a direct get that many messages answer.
func (s *Store) batch(ctx context.Context, req []byte) ([]Stored, end, error) {
	var got []Stored
	var e end
	var bad error
	api := "$JS.API.DIRECT.GET." + s.stream
	err := s.link.request(ctx, api, req, s.patience(), func(m *nats.Msg) bool {
		one, err := s.direct(m)
		switch {
		case err == nil && one.Seq > 0:
			got = append(got, one)
			return false
		case err == nil:
			e.pending, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			e.upTo, _ = strconv.ParseUint(m.Header.Get("Nats-UpTo-Sequence"), 10, 64)
			if last, _ := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64); len(got) > 0 && last != got[len(got)-1].Seq {
				bad = fmt.Errorf("%w: a part of the answer is missing", ErrUnknown)
			}
			return true
		}
		e.nothing = m.Header.Get("Description") == "No Results"
		bad = err
		return true
	})
	if err == nil {
		err = bad
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = s.whyNobody(ctx, api)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, e, err
	}
	return got, e, err
}

// direct reads one answer to a direct get: a message, the end of a batch (a
// zero Stored), or an error.
//
// The server appends what it knows to the header that the sender wrote, who
// may have written the same names, or `Status`, to be taken for it: only the
// last value is the server's, and what has a sequence is a message whatever
// its status says (a reply without a message never has one).
func (s *Store) direct(m *nats.Msg) (Stored, error) {
	if seq := take(m.Header, "Nats-Sequence"); seq != "" {
		one := Stored{Subject: take(m.Header, "Nats-Subject"), Data: m.Data}
		var err, terr error
		one.Seq, err = strconv.ParseUint(seq, 10, 64)
		one.Time, terr = time.Parse(time.RFC3339Nano, take(m.Header, "Nats-Time-Stamp"))
		if err != nil || terr != nil {
			return Stored{}, fmt.Errorf("%w: unreadable answer: %w", ErrUnknown, errors.Join(err, terr))
		}
		take(m.Header, "Nats-Stream")
		take(m.Header, "Nats-Num-Pending")
		take(m.Header, "Nats-Last-Sequence")
		if len(m.Header) > 0 {
			one.Header = m.Header
		}
		return one, nil
	}
	status, text := m.Header.Get(statusHeader), m.Header.Get("Description")
	switch status {
	case "204":
		return Stored{}, nil
	case "404":
		return Stored{}, ErrNotFound
	case "503":
		return Stored{}, nats.ErrNoResponders
	case "413":
		return Stored{}, fmt.Errorf("%w: more than %d messages match", ErrTooLarge, maxLastMany)
	}
	return Stored{}, fmt.Errorf("%w: direct get: %s %s", ErrUnknown, status, text)
}

// take removes the last value of a header and returns it.
func take(h nats.Header, name string) string {
	v := h[name]
	if len(v) == 0 {
		return ""
	}
	if len(v) == 1 {
		delete(h, name)
	} else {
		h[name] = v[:len(v)-1]
	}
	return v[len(v)-1]
}

func (s *Store) patience() time.Duration {
	if s.replicas > 1 {
		return min(directPatience, s.timeout)
	}
	return s.timeout
}

func (s *Store) readError(what string, err error) error {
	if err == nil || errors.Is(err, ErrDenied) {
		return err
	}
	return fmt.Errorf("read %s of %s: %w", what, s.stream, err)
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // never, of a string
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

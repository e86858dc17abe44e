package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// submitWindow is how many submissions of one SubmitAll or RunAll are on their way at once.
const submitWindow = 256

// Receipt says that an invocation was accepted: it is stored and will have exactly one result.
type Receipt struct {
	// ID is its id, made by Submit where the invocation had none.
	ID string `json:"invocation_id"`
	// Digest is that of its content; the same content under the same id is the same invocation.
	Digest string `json:"digest"`
	// Existed says that it was accepted before, and nothing was stored now.
	Existed bool `json:"existed,omitempty"`
	// Submitted is when it was accepted, by the clock of this process, or by the server's if it existed.
	Submitted time.Time `json:"submitted_at"`
	// Seq is its number in the queue; 0 if it existed and has left the queue.
	Seq uint64 `json:"seq,omitempty"`
}

// submission is an invocation made ready to be sent.
type submission struct {
	inv     contracts.Invocation
	chosen  bool // the id was the caller's
	subject string
	header  nats.Header
	body    []byte
	digest  string
}

// prepare checks inv and encodes it. Nothing is sent for what it refuses.
func (p *Producer) prepare(inv contracts.Invocation) (submission, error) {
	if inv.Tenant == "" {
		inv.Tenant = p.tenant
	}
	inv = inv.WithDefaults()
	chosen := inv.ID != ""
	if !chosen {
		inv.ID = contracts.NewID()
	}
	s := submission{inv: inv, chosen: chosen}
	if err := inv.Validate(); err != nil {
		return s, err
	}
	if inv.Tenant != p.tenant {
		return s, &contracts.ValidationError{Fields: []contracts.FieldError{{
			Field: "tenant", Problem: fmt.Sprintf("is %q, this client submits for %q", inv.Tenant, p.tenant)}}}
	}
	var err error
	if s.body, err = contracts.Encode(inv); err != nil {
		return s, err
	}
	if inv.Stdin == nil {
		s.digest = contracts.BodyDigest(s.body) // what Digest comes to where no blob can be meant
	} else if s.digest, err = inv.Digest(); err != nil {
		return s, err
	}
	s.subject = p.names.Invoke(AddressOf(inv))
	s.header = nats.Header{
		contracts.HeaderVersion: {contracts.Version},
		contracts.HeaderDigest:  {s.digest},
	}
	if !chosen {
		s.header[contracts.HeaderNew] = []string{"1"}
	}
	if n := len(s.body) + headerBytes(s.header); n > contracts.MaxMessageBytes {
		return s, fmt.Errorf("%w: invocation %s is %d bytes with its headers, the most is %d: send what is large as stdin",
			ErrTooLarge, inv.ID, n, contracts.MaxMessageBytes)
	}
	return s, nil
}

// headerBytes is what the server counts for h.
func headerBytes(h nats.Header) int {
	n := len("NATS/1.0\r\n\r\n")
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(": \r\n") + len(v)
		}
	}
	return n
}

// Submit hands inv to the queue and returns once it is stored. An empty id is made; under an id that
// is in use the same content is the same invocation (Existed), other content is ErrIDInUse. An id is
// remembered for as long as results are kept. A server that does not answer is asked
// again until ctx ends, or for DefaultPatience; then the error wraps ErrUnknown: the invocation may
// or may not have been accepted, and submitting it again under the same id is safe.
func (p *Producer) Submit(ctx context.Context, inv contracts.Invocation) (Receipt, error) {
	s, err := p.prepare(inv)
	if err != nil {
		return Receipt{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return p.submit(ctx, s)
}

func (p *Producer) submit(ctx context.Context, s submission) (Receipt, error) {
	if s.chosen {
		r, err := p.lookup(ctx, s)
		if !errors.Is(err, ErrNotFound) {
			return r, wrapSubmit(s, err)
		}
	}
	var r Receipt
	seq, err := p.put(ctx, s)
	if err == nil {
		r = s.receipt(seq)
	} else {
		r, err = p.settle(ctx, s, err)
	}
	if err == nil && s.chosen && !r.Existed {
		err = p.foremost(ctx, s, r.Seq)
	}
	if err != nil {
		return Receipt{}, wrapSubmit(s, err)
	}
	return r, nil
}

// foremost makes sure that nobody has submitted other content under the same chosen id at the same time. The fence
// cannot: another lane, pool or kind is another subject. Who was stored later gives way.
func (p *Producer) foremost(ctx context.Context, s submission, seq uint64) error {
	first, err := insist(ctx, func(ctx context.Context) (Stored, error) {
		for m, err := range p.invoke.WalkLeader(ctx, p.names.AnyInvoke(p.tenant, s.inv.ID)) {
			return m, err
		}
		return Stored{}, ErrNotFound
	})
	switch {
	case err == nil && seq > 0 && first.Seq < seq:
		err = ErrIDInUse
	case err == nil || errors.Is(err, ErrNotFound):
		var res contracts.Result
		if res, _, err = p.result(ctx, s.inv.ID); errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil && res.Digest != s.digest {
			err = ErrIDInUse
		}
	}
	if errors.Is(err, ErrIDInUse) && seq > 0 {
		// Who may not delete leaves it to the workers: they drop what has a result.
		once, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = p.invoke.Delete(once, seq)
	}
	return err
}

func (p *Producer) put(ctx context.Context, s submission) (uint64, error) {
	once, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return p.invoke.Put(once, s.subject, s.header, s.body)
}

func (s submission) receipt(seq uint64) Receipt {
	return Receipt{ID: s.inv.ID, Digest: s.digest, Submitted: time.Now().UTC(), Seq: seq}
}

// settle brings a submission to its end whose publish was answered with err: refused by the
// fence, or not answered at all.
func (p *Producer) settle(ctx context.Context, s submission, err error) (Receipt, error) {
	unsure := false // one of our own messages may have arrived
	s.header = maps.Clone(s.header)
	delete(s.header, contracts.HeaderNew) // and may have run by the time that the next one arrives
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if !errors.Is(err, ErrOccupied) {
			if permanent(err) {
				return Receipt{}, err
			}
			unsure = true
		}
		r, lerr := p.lookup(ctx, s)
		switch {
		case lerr == nil:
			if unsure || !s.chosen {
				r.Existed = false // what we found is what we sent
			}
			return r, nil
		case !errors.Is(lerr, ErrNotFound):
			return r, lerr
		case !sleep(ctx, wait):
			return Receipt{}, endOf(ctx, err)
		}
		var seq uint64
		if seq, err = p.put(ctx, s); err == nil {
			return s.receipt(seq), nil
		}
	}
}

// lookup says whether the id of s is known: with the same content (the receipt), with other content
// (ErrIDInUse), or not at all (ErrNotFound). The queue is asked before the results: an
// invocation leaves the one only after it stands in the other.
func (p *Producer) lookup(ctx context.Context, s submission) (Receipt, error) {
	r := Receipt{ID: s.inv.ID, Digest: s.digest, Existed: true}
	found, err := p.queued(ctx, s.inv.ID)
	if err == nil {
		if digestOf(found.Header, found.Data) != s.digest {
			return Receipt{}, ErrIDInUse
		}
		r.Submitted, r.Seq = found.Time, found.Seq
		return r, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Receipt{}, err
	}
	res, stored, err := p.result(ctx, s.inv.ID)
	if err != nil {
		return Receipt{}, err
	}
	if res.Digest != s.digest {
		return Receipt{}, ErrIDInUse
	}
	r.Submitted = res.SubmittedAt
	if r.Submitted.IsZero() {
		r.Submitted = stored.Time
	}
	return r, nil
}

func wrapSubmit(s submission, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case errors.Is(err, ErrFull):
		hint = ": nothing was stored, try again when there is room"
	case errors.Is(err, ErrUnknown):
		hint = ": it may be in the queue or not, and can be submitted again under this id; `submit doctor` looks at what is wrong"
	case errors.Is(err, ErrNoStream):
		hint = ": the queue is not set up on this server"
	case errors.Is(err, ErrIDInUse):
		hint = ": choose another id, or submit exactly what was submitted before"
	}
	return fmt.Errorf("submit %s: %w%s", s.inv.ID, err, hint)
}

// SubmitAll hands over every invocation of a sequence, with up to 256 on their way at once, and yields a receipt or
// an error for each, in the order of the sequence. An error concerns its own invocation: the receipt
// beside it has the id, if there is one, and the next ones follow. It ends with the sequence, with ctx, or
// when the caller stops ranging; what was sent by then stays submitted.
func (p *Producer) SubmitAll(ctx context.Context, invs iter.Seq[contracts.Invocation]) iter.Seq2[Receipt, error] {
	return func(yield func(Receipt, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		slots := make([]slot, submitWindow)
		for i := range slots {
			slots[i].done = make(chan struct{}, 1)
		}
		first, open := 0, 0 // slots[first:first+open] are on their way, counted round
		defer func() {
			cancel()
			for ; open > 0; first, open = first+1, open-1 {
				<-slots[first%submitWindow].done
			}
		}()
		give := func() bool {
			s := &slots[first%submitWindow]
			<-s.done
			first, open = first+1, open-1
			return yield(s.receipt, s.err)
		}
		for inv := range invs {
			if ctx.Err() != nil {
				break
			}
			if open == submitWindow && !give() {
				return
			}
			p.send(ctx, inv, &slots[(first+open)%submitWindow])
			open++
		}
		for open > 0 {
			if !give() {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Receipt{}, context.Cause(ctx))
		}
	}
}

// slot holds one submission on its way; done gets one signal when receipt and err are set.
type slot struct {
	receipt Receipt
	err     error
	done    chan struct{}
}

// send submits inv and returns without waiting for the answer.
func (p *Producer) send(ctx context.Context, inv contracts.Invocation, out *slot) {
	s, err := p.prepare(inv)
	*out = slot{done: out.done}
	end := func(r Receipt, err error) {
		if r.ID == "" {
			r.ID = s.inv.ID
		}
		out.receipt, out.err = r, err
		out.done <- struct{}{}
	}
	if err != nil {
		end(Receipt{}, err)
		return
	}
	if s.chosen {
		go func() { end(p.submitInTurn(ctx, s)) }()
		return
	}
	p.invoke.PutAsync(s.subject, s.header, s.body, func(seq uint64, err error) {
		if err == nil {
			end(s.receipt(seq), nil)
			return
		}
		go func() { end(p.mend(ctx, s, err)) }()
	})
}

// submitInTurn is submit for one of many.
func (p *Producer) submitInTurn(ctx context.Context, s submission) (Receipt, error) {
	ctx, end, err := p.turn(ctx, nil)
	if err != nil {
		return Receipt{}, wrapSubmit(s, err)
	}
	defer end()
	return p.submit(ctx, s)
}

// mend is settle for one of many.
func (p *Producer) mend(ctx context.Context, s submission, err error) (Receipt, error) {
	if permanent(err) && !errors.Is(err, ErrOccupied) {
		return Receipt{}, wrapSubmit(s, err)
	}
	ctx, end, terr := p.turn(ctx, err)
	if terr != nil {
		return Receipt{}, wrapSubmit(s, terr)
	}
	defer end()
	r, err := p.settle(ctx, s, err)
	return r, wrapSubmit(s, err)
}

// turn waits until no more than turnsAtOnce ask, and returns a bounded context and what ends the turn: a server that is
// behind would only fall back further over the questions of thousands, all of which then come too late.
func (p *Producer) turn(ctx context.Context, last error) (context.Context, func(), error) {
	select {
	case <-ctx.Done():
		return nil, nil, endOf(ctx, last)
	case p.turns <- struct{}{}:
	}
	ctx, cancel := bounded(ctx)
	return ctx, func() { cancel(); <-p.turns }, nil
}

// Check reports what Submit would refuse inv for, without sending anything.
func (p *Producer) Check(inv contracts.Invocation) error {
	_, err := p.prepare(inv)
	return err
}

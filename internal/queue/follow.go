package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// AllRuns has WatchRun show every run.
const AllRuns = "all"

const (
	// Without a live copy for so long a follower asks what is stored; the wait doubles up to liveIdleMost.
	liveIdle     = time.Second
	liveIdleMost = 16 * time.Second
	// Chunks asked for by name at once: 4 MiB at most.
	fillAtOnce = 16
	// Of a wider hole the beginning has aged out: a worker never has so many chunks under way. Only its end is asked for.
	widestHole = 1024
)

// errSaid ends a follower that has shown its last event, or whose reader left.
var errSaid = errors.New("said all")

// Watch shows what becomes of an invocation: the output of its run in order, and its result last. Whoever
// comes late sees the same from the beginning; after the end, only the run that counted. Output is read
// no faster than the caller ranges. Chunks that cannot be had are an EventGap; a second run is an EventRestarted,
// and what was shown before it does not count.
//
// It ends after the EventResult, or with an error: ErrNotFound if there is no such invocation (any more), the cause of
// ctx if that ends. A server that does not answer is waited for as long as ctx lasts.
func (p *Producer) Watch(ctx context.Context, id string) iter.Seq2[contracts.Event, error] {
	return p.events(ctx, id, (*follower).follow)
}

// WatchRun shows what is stored of one run, or of every run in stored order if run is AllRuns, and does
// not wait for more. The result comes last if there is one and it is that run's. Nothing
// stored is ErrNotFound.
func (p *Producer) WatchRun(ctx context.Context, id, run string) iter.Seq2[contracts.Event, error] {
	return p.events(ctx, id, func(f *follower, ctx context.Context) error { return f.replay(ctx, run) })
}

func (p *Producer) events(ctx context.Context, id string, show func(*follower, context.Context) error) iter.Seq2[contracts.Event, error] {
	return func(yield func(contracts.Event, error) bool) {
		err := p.checkID(id)
		if err == nil {
			err = show(newFollower(p, id, yield), ctx)
		}
		if !errors.Is(err, errSaid) {
			yield(contracts.Event{}, fmt.Errorf("watch %.128s: %w", id, err))
		}
	}
}

// Run submits inv and shows what becomes of it, as Submit and then Watch do, in fewer steps: what is stored at the first
// moment is heard live. accepted, if not nil, is called once inv is.
func (p *Producer) Run(ctx context.Context, inv contracts.Invocation, accepted func(Receipt)) iter.Seq2[contracts.Event, error] {
	return func(yield func(contracts.Event, error) bool) {
		s, err := p.prepare(inv)
		if err != nil {
			yield(contracts.Event{}, err)
			return
		}
		f := newFollower(p, s.inv.ID, yield)
		if err := f.run(ctx, s, accepted); !errors.Is(err, errSaid) {
			yield(contracts.Event{}, err)
		}
	}
}

func (f *follower) run(ctx context.Context, s submission, accepted func(Receipt)) error {
	e, err := f.listen()
	if err != nil {
		return fmt.Errorf("watch %s: %w", f.id, err)
	}
	defer e.close()
	limit, cancel := bounded(ctx)
	r, err := f.p.submit(limit, s)
	cancel()
	if err != nil {
		return err
	}
	if accepted != nil {
		accepted(r)
	}
	if r.Existed {
		e.close()
		err = f.follow(ctx)
	} else if err = f.hearAll(ctx, e); err == nil {
		e.close()
		err = f.goOn(ctx, false)
	}
	if errors.Is(err, errSaid) {
		return err
	}
	return fmt.Errorf("watch %s: %w", f.id, err)
}

// follower is one Watch: how far it has read, and what it has shown.
type follower struct {
	p     *Producer
	id    string
	yield func(contracts.Event, error) bool

	pos  uint64    // number, in the stream, of the last message taken in
	now  *shownRun // the run that is shown; nil before the first
	runs map[string]*shownRun
	all  bool // every run is shown, side by side

	pace   int // bytes that the link carries in paceTime
	credit int // live copies that the next subscription asks for
}

func newFollower(p *Producer, id string, yield func(contracts.Event, error) bool) *follower {
	return &follower{p: p, id: id, yield: yield, runs: map[string]*shownRun{}, pace: paceLeast, credit: paceLeast / contracts.MaxChunkBytes}
}

// shownRun is what was shown of one run.
type shownRun struct {
	name  string
	next  int  // number of the next chunk
	begun bool // EventStarted was given
	ended bool // its end was shown, and with it its tail
}

func (f *follower) follow(ctx context.Context) error {
	s, err := insist(ctx, func(ctx context.Context) (Stored, error) {
		return f.p.output.Direct(ctx, f.p.names.Result(f.p.tenant, f.id))
	})
	if err == nil {
		return f.conclude(ctx, s, true)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	return f.goOn(ctx, true)
}

// goOn follows from where f stands to the result.
func (f *follower) goOn(ctx context.Context, first bool) error {
	for ; ; first = false {
		// Far behind, there is no subscription: what is stored is fetched piece by piece, at the reader's pace.
		if err := f.comeNear(ctx); err != nil {
			return err
		}
		if first && f.pos == 0 {
			if err := f.gone(ctx); err != nil {
				return err
			}
		}
		if err := f.live(ctx); err != nil {
			return err
		}
	}
}

// gone returns ErrNotFound if the invocation is neither queued nor ended: never submitted, withdrawn, or aged out.
func (f *follower) gone(ctx context.Context) error {
	_, err := f.p.queued(ctx, f.id)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	// In this order: an invocation leaves the queue only after its result is stored.
	_, err = insist(ctx, func(ctx context.Context) (Stored, error) {
		return f.p.reply.Last(ctx, f.p.names.Result(f.p.tenant, f.id))
	})
	return err
}

// take shows one stored message; they come in stored order.
func (f *follower) take(ctx context.Context, s Stored) error {
	if s.Seq <= f.pos {
		return nil
	}
	a, err := f.p.names.ParseReply(s.Subject)
	if err != nil {
		f.pos = s.Seq
		return nil // not of ours
	}
	if a.Kind == ReplyResult {
		if f.all {
			return nil // its turn comes last
		}
		return f.conclude(ctx, s, false)
	}
	f.pos = s.Seq
	return f.takeRun(ctx, s, a, false)
}

// takeRun shows a message of a run. final says that what is missing before it will not come any more.
func (f *follower) takeRun(ctx context.Context, s Stored, a ReplyAddress, final bool) error {
	r, err := f.turn(a.Run)
	if err != nil || r == nil {
		return err
	}
	switch a.Kind {
	case ReplyStart:
		start, err := read[contracts.Start](s)
		if err != nil {
			return newerOnly(err)
		}
		return f.begin(r, &start)
	case ReplyChunk:
		if a.N < r.next {
			return nil
		}
		if a.N > r.next {
			if err := f.hole(ctx, r, a.N-1, final); err != nil {
				return err
			}
		}
		return f.chunk(r, s)
	case ReplyEnd:
		end, err := read[contracts.End](s)
		if err != nil {
			return newerOnly(err)
		}
		return f.end(ctx, r, end)
	}
	return nil
}

// turn returns the run whose message came, or nil if it is not shown: a later run has taken its place, and
// only a result that names it could bring it back.
func (f *follower) turn(name string) (*shownRun, error) {
	r, known := f.runs[name]
	switch {
	case !known:
		r = &shownRun{name: name, next: 1}
		f.runs[name] = r
	case f.all || r == f.now:
		return r, nil
	default:
		return nil, nil
	}
	before := f.now
	f.now = r
	if before == nil || f.all {
		return r, nil
	}
	return r, f.say(contracts.Event{Type: contracts.EventRestarted, Run: name})
}

func (f *follower) say(e contracts.Event) error {
	if !f.yield(e, nil) {
		return errSaid
	}
	return nil
}

func (f *follower) begin(r *shownRun, start *contracts.Start) error {
	if r.begun {
		return nil
	}
	r.begun = true
	e := contracts.Event{Type: contracts.EventStarted, Run: r.name, Start: start}
	if start != nil {
		e.At = start.At
	}
	return f.say(e)
}

// chunk shows the next chunk of r.
func (f *follower) chunk(r *shownRun, s Stored) error {
	c, err := read[contracts.Chunk](s)
	if err != nil {
		if err := newerOnly(err); err != nil {
			return err
		}
		return f.gap(r, r.next)
	}
	n := r.next
	r.next++
	return f.output(r, n, c.At, c.Pieces)
}

func (f *follower) output(r *shownRun, n int, at time.Time, pieces []contracts.Piece) error {
	if err := f.begin(r, nil); err != nil {
		return err
	}
	for i := range pieces {
		if err := f.say(contracts.Event{Type: contracts.EventOutput, Run: r.name, At: at, N: n, Output: &pieces[i]}); err != nil {
			return err
		}
	}
	return nil
}

// gap says that the chunks of r up to `to` cannot be had.
func (f *follower) gap(r *shownRun, to int) error {
	if err := f.begin(r, nil); err != nil {
		return err
	}
	e := contracts.Event{Type: contracts.EventGap, Run: r.name, Gap: &contracts.Gap{From: r.next, To: to}}
	r.next = to + 1
	return f.say(e)
}

// end shows how r ended, which was not the last word.
func (f *follower) end(ctx context.Context, r *shownRun, end contracts.End) error {
	if r.ended {
		return nil
	}
	if err := f.fill(ctx, r, end.Chunks, true); err != nil {
		return err
	}
	if err := f.output(r, 0, end.At, end.Tail); err != nil {
		return err
	}
	r.ended = true
	return f.say(contracts.Event{Type: contracts.EventEnded, Run: r.name, At: end.At, End: &end})
}

// hole shows the chunks of r up to `to`, of which the first came after later ones or was not seen. A worker that had to
// publish a chunk again stores it out of order; so they are waited for while the run may still store them.
func (f *follower) hole(ctx context.Context, r *shownRun, to int, final bool) error {
	final = final || to-r.next >= widestHole
	until := time.Now().Add(f.p.holeWait)
	for wait := 20 * time.Millisecond; !final; wait = min(2*wait, 500*time.Millisecond) {
		if err := f.fill(ctx, r, to, false); err != nil || r.next > to {
			return err
		}
		over, err := insist(ctx, func(ctx context.Context) ([]Stored, error) {
			return f.p.output.LastMany(ctx, []string{f.p.names.Result(f.p.tenant, f.id), f.p.names.End(f.p.tenant, f.id, r.name)})
		})
		if err != nil {
			return err
		}
		// Chunks are confirmed before the result and the end: what is not there after these never comes.
		final = len(over) > 0 || time.Now().After(until)
		if !final && !sleep(ctx, wait) {
			return context.Cause(ctx)
		}
	}
	return f.fill(ctx, r, to, true)
}

// fill shows the chunks of r up to `to`, asked for by name. At one that the leader does not have it stops, or
// names the gap and goes on.
func (f *follower) fill(ctx context.Context, r *shownRun, to int, gaps bool) error {
	n := r.next // the next to look for; those from r.next to n-1 are known to be missing
	if gaps {
		n = max(n, to-widestHole+1)
	}
	for n <= to {
		last := min(to, n+fillAtOnce-1)
		have, err := f.named(ctx, r, n, last)
		if err != nil {
			return err
		}
		for ; n <= last; n++ {
			s, ok := have[n]
			if !ok {
				if !gaps {
					return nil
				}
				continue
			}
			if n > r.next {
				if err := f.gap(r, n-1); err != nil {
					return err
				}
			}
			if err := f.chunk(r, s); err != nil {
				return err
			}
		}
	}
	if gaps && r.next <= to {
		return f.gap(r, to)
	}
	return nil
}

// named reads the chunks of r from one number to another that are there, by the word of the leader.
func (f *follower) named(ctx context.Context, r *shownRun, from, to int) (map[int]Stored, error) {
	subjects := make([]string, 0, to-from+1)
	for n := from; n <= to; n++ {
		subjects = append(subjects, f.p.names.Chunk(f.p.tenant, f.id, r.name, n))
	}
	found, err := insist(ctx, func(ctx context.Context) ([]Stored, error) { return f.p.output.LastMany(ctx, subjects) })
	have := make(map[int]Stored, len(found))
	for _, s := range found {
		if a, err := f.p.names.ParseReply(s.Subject); err == nil {
			have[a.N] = s
		}
	}
	return have, err
}

// newerOnly lets an error pass that says that this program is too old; what is merely broken is skipped.
func newerOnly(err error) error {
	if errors.Is(err, contracts.ErrNewerMajor) {
		return err
	}
	return nil
}

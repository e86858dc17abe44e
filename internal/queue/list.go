package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Info is what the streams say of one invocation.
type Info struct {
	ID     string            `json:"invocation_id"`
	Name   string            `json:"runtime_name,omitempty"`
	Kind   contracts.Kind    `json:"runtime_kind"`
	Tenant string            `json:"tenant"`
	Pool   string            `json:"pool"`
	Lane   contracts.Lane    `json:"lane"`
	Labels map[string]string `json:"labels,omitempty"`
	Digest string            `json:"digest,omitempty"`
	// Sandbox says that it is an open sandbox, or one that waits to be opened; of what has ended nothing says so.
	Sandbox bool `json:"sandbox,omitempty"`
	// Status is pending, running or that of the result.
	Status contracts.Status `json:"status"`
	// Queued is when it was accepted.
	Queued time.Time `json:"queued_at,omitzero"`
	// Run, Attempt and Worker are those of the run that counted, or began last; "" and 0 before the first.
	Run     string `json:"run,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Worker  string `json:"worker,omitempty"`
	// Started says how that run began; nil before the first.
	Started *contracts.Start `json:"started,omitempty"`
	// Starts and Ends are those of all its runs that stored them, in order. Only Get fills them in.
	Starts []contracts.Start `json:"starts,omitempty"`
	Ends   []contracts.End   `json:"ends,omitempty"`
	// Result is nil until it has ended.
	Result *contracts.Result `json:"result,omitempty"`
}

// ListOptions says which invocations to list. The zero value is all.
type ListOptions struct {
	// Status keeps those with one of these; none is every status.
	Status []contracts.Status
	// Kind keeps those of one kind; "" is every kind.
	Kind contracts.Kind
	// Since leaves out what was queued, or ended, before; zero is no bound.
	Since time.Time
	// Limit is how many are listed at most; 0 is no bound.
	Limit int
	// Labels keeps those that have all of these.
	Labels map[string]string
}

// AmbiguousError says that a prefix is that of several ids.
type AmbiguousError struct {
	Prefix string
	// IDs are some of them, in order; Count is how many there are.
	IDs   []string
	Count int
}

// Error names the prefix and what it may mean.
func (e *AmbiguousError) Error() string {
	more := ""
	if n := e.Count - len(e.IDs); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%q is the beginning of %s%s: give more of it", e.Prefix, strings.Join(e.IDs, ", "), more)
}

const (
	// MinPrefix is how much of an id Resolve needs at least.
	MinPrefix = 4

	resolveTimeout = 2 * time.Second
	listCandidates = 10
	statesAtOnce   = 64
)

// Get returns what is known of an invocation, as the leaders of the streams have it; ErrNotFound if it is neither
// queued nor ended, or its result is not kept any more.
func (p *Producer) Get(ctx context.Context, id string) (Info, error) {
	if err := p.checkID(id); err != nil {
		return Info{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	i, err := p.get(ctx, id)
	if err != nil {
		return Info{}, fmt.Errorf("get %s: %w", id, err)
	}
	return i, nil
}

func (p *Producer) get(ctx context.Context, id string) (Info, error) {
	message, qerr := p.queued(ctx, id)
	if qerr != nil && !errors.Is(qerr, ErrNotFound) {
		return Info{}, qerr
	}
	starts, ends, err := p.history(ctx, id)
	if err != nil {
		return Info{}, err
	}
	// Last: what has left the queue has a result.
	res, stored, err := p.result(ctx, id)
	var i Info
	switch {
	case err == nil:
		i = endedInfo(res, stored)
	case !errors.Is(err, ErrNotFound), qerr != nil:
		return Info{}, err
	default:
		if i, err = p.queuedInfo(message); err != nil {
			return Info{}, err
		}
		i.under(starts, ends)
	}
	i.Starts, i.Ends = starts, ends
	return i, nil
}

func endedInfo(r contracts.Result, s Stored) Info {
	queued := r.SubmittedAt
	if queued.IsZero() {
		queued = s.Time
	}
	i := Info{
		ID: r.ID, Name: r.Name, Kind: r.Kind, Tenant: r.Tenant, Pool: r.Pool, Lane: r.Lane, Labels: r.Labels, Digest: r.Digest,
		Status: r.Status, Queued: queued, Run: r.Run, Attempt: r.Attempt, Worker: r.Worker, Result: &r,
	}
	if r.Run != "" {
		// A short run says that it began in its result alone.
		i.Started = &contracts.Start{Run: r.Run, Attempt: r.Attempt, Worker: r.Worker, Host: r.Host, At: r.StartedAt, Digest: r.Digest}
	}
	return i
}

func (p *Producer) queuedInfo(m Stored) (Info, error) {
	inv, err := p.invocation(m)
	if err != nil {
		return Info{}, err
	}
	return Info{
		ID: inv.ID, Name: inv.Name, Kind: inv.Kind, Tenant: inv.Tenant, Pool: inv.Pool, Lane: inv.Lane, Labels: inv.Labels,
		Digest: digestOf(m.Header, m.Data), Status: contracts.StatusPending, Queued: m.Time,
		Sandbox: inv.Container != nil && inv.Container.Sandbox != nil,
	}, nil
}

// under fills in the run under way, or the one that was last.
func (i *Info) under(starts []contracts.Start, ends []contracts.End) {
	if len(starts) == 0 {
		return
	}
	last := starts[len(starts)-1]
	i.Run, i.Attempt, i.Worker, i.Started = last.Run, last.Attempt, last.Worker, &last
	if !slices.ContainsFunc(ends, func(e contracts.End) bool { return e.Run == last.Run }) {
		i.Status = contracts.StatusRunning
	}
}

// List yields the invocations that match: first what is queued or running, the newest first, then what has ended, the
// latest end first. Each comes once. After an error nothing more comes.
func (p *Producer) List(ctx context.Context, o ListOptions) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		l := &lister{p: p, o: o, yield: yield, seen: map[string]bool{}}
		err := l.queued(ctx)
		if err == nil {
			err = l.ended(ctx)
		}
		if err != nil && !errors.Is(err, errSaid) {
			yield(Info{}, fmt.Errorf("list: %w", err))
		}
	}
}

type lister struct {
	p     *Producer
	o     ListOptions
	yield func(Info, error) bool
	count int
	seen  map[string]bool // listed as queued or running; it may have ended since
}

// wants reports whether the options leave any of these statuses.
func (l *lister) wants(ended bool) bool {
	return len(l.o.Status) == 0 || slices.ContainsFunc(l.o.Status, func(s contracts.Status) bool { return s.Ended() == ended })
}

func (l *lister) say(i Info) error {
	if l.seen[i.ID] || l.o.Kind != "" && i.Kind != l.o.Kind || len(l.o.Status) > 0 && !slices.Contains(l.o.Status, i.Status) {
		return nil
	}
	for k, v := range l.o.Labels {
		if have, ok := i.Labels[k]; !ok || have != v {
			return nil
		}
	}
	if !i.Status.Ended() {
		l.seen[i.ID] = true
	}
	l.count++
	if !l.yield(i, nil) || l.o.Limit > 0 && l.count >= l.o.Limit {
		return errSaid
	}
	return nil
}

func (l *lister) queued(ctx context.Context) error {
	if !l.wants(false) {
		return nil
	}
	kind := "*"
	if l.o.Kind != "" {
		kind = tok(string(l.o.Kind))
	}
	filter := l.p.names.join("invoke", kind, "*", "*", "*", l.p.tenant, "*")
	if filter == "" {
		return fmt.Errorf("kind %.80q: must be 1 to 64 of a-z 0-9 _ -", l.o.Kind)
	}
	return newest(ctx, l.p.invoke, filter, l.o.Since, func(batch []Stored) error {
		for part := range slices.Chunk(batch, statesAtOnce) {
			infos := make([]Info, 0, len(part))
			for _, m := range part {
				if i, err := l.p.queuedInfo(m); err == nil {
					infos = append(infos, i)
				}
			}
			if err := l.p.states(ctx, infos); err != nil {
				return err
			}
			for _, i := range infos {
				if i.Status.Ended() {
					continue // its turn comes
				}
				if err := l.say(i); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// states fills in which of the queued infos run, and which have ended meanwhile.
func (p *Producer) states(ctx context.Context, infos []Info) error {
	if len(infos) == 0 {
		return nil
	}
	filters := make([]string, 0, 3*len(infos))
	at := make(map[string]*Info, len(infos))
	for i := range infos {
		id := infos[i].ID
		at[id] = &infos[i]
		filters = append(filters, p.names.Result(p.tenant, id), p.names.Starts(p.tenant, id), p.names.Ends(p.tenant, id))
	}
	found, err := insist(ctx, func(ctx context.Context) ([]Stored, error) { return p.reply.Present(ctx, filters) })
	if errors.Is(err, ErrTooLarge) && len(infos) > 1 { // many runs each
		half := len(infos) / 2
		return errors.Join(p.states(ctx, infos[:half]), p.states(ctx, infos[half:]))
	}
	if err != nil {
		return err
	}
	starts, ends := map[string][]contracts.Start{}, map[string][]contracts.End{}
	for _, s := range found { // in stored order
		a, err := p.names.ParseReply(s.Subject)
		if err != nil {
			continue
		}
		switch a.Kind {
		case ReplyResult:
			at[a.ID].Status = contracts.StatusFailed // any that has ended: List does not show it here
		case ReplyStart:
			if start, err := read[contracts.Start](s); err == nil {
				starts[a.ID] = append(starts[a.ID], start)
			}
		case ReplyEnd:
			ends[a.ID] = append(ends[a.ID], contracts.End{Run: a.Run})
		}
	}
	for id, s := range starts {
		if !at[id].Status.Ended() {
			at[id].under(s, ends[id])
		}
	}
	return nil
}

func (l *lister) ended(ctx context.Context) error {
	if !l.wants(true) {
		return nil
	}
	return newest(ctx, l.p.reply, l.p.names.Results(l.p.tenant), l.o.Since, func(batch []Stored) error {
		for _, s := range batch {
			r, err := read[contracts.Result](s)
			if err != nil {
				if err = newerOnly(err); err != nil {
					return err
				}
				continue
			}
			if err := l.say(endedInfo(r, s)); err != nil {
				return err
			}
		}
		return nil
	})
}

// newest hands on what is stored under a filter, the newest first, in batches. A stream is read forwards only, so
// it goes back by windows of sequences, which grow while they hold little.
func newest(ctx context.Context, store *Store, filter string, since time.Time, give func([]Stored) error) error {
	last, err := insist(ctx, func(ctx context.Context) (Stored, error) { return store.Last(ctx, filter) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var first uint64
	for s, err := range store.Walk(ctx, filter, 0, WalkOptions{Batch: 1}) {
		if err != nil {
			return err
		}
		first = s.Seq
		break
	}
	const few, most = 64, 1 << 16
	for hi, width := last.Seq, uint64(256); hi >= first && hi > 0; {
		lo := max(first, hi-min(hi-1, width-1))
		var batch []Stored
		older := false
		for s, err := range store.Walk(ctx, filter, lo, WalkOptions{MaxBytes: 256 << 10}) {
			if err != nil {
				return err
			}
			if s.Seq > hi {
				break
			}
			if s.Time.Before(since) {
				older = true
				continue
			}
			batch = append(batch, s)
		}
		slices.Reverse(batch)
		if err := give(batch); err != nil {
			return err
		}
		if older || lo <= first {
			return nil
		}
		hi = lo - 1
		if len(batch) < few {
			width = min(2*width, most)
		}
	}
	return nil
}

// Resolve returns the one id that begins with prefix, of at least MinPrefix characters, among what is queued and what
// has ended; a whole id is itself. Several are an *AmbiguousError, none is ErrNotFound. It takes
// 2 seconds at most.
func (p *Producer) Resolve(ctx context.Context, prefix string) (string, error) {
	if err := p.checkID(prefix); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, resolveTimeout, fmt.Errorf("%w within %s", ErrUnknown, resolveTimeout))
	defer cancel()
	id, err := p.resolve(ctx, prefix)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", prefix, err)
	}
	return id, nil
}

func (p *Producer) resolve(ctx context.Context, prefix string) (string, error) {
	if _, err := p.queued(ctx, prefix); !errors.Is(err, ErrNotFound) {
		return prefix, err
	}
	if _, _, err := p.result(ctx, prefix); !errors.Is(err, ErrNotFound) {
		return prefix, err
	}
	if len(prefix) < MinPrefix {
		return "", fmt.Errorf("%w: a prefix needs at least %d characters", ErrNotFound, MinPrefix)
	}
	ids := map[string]bool{}
	for _, in := range [...]struct {
		store  *Store
		filter string
		id     func(string) string
	}{
		{p.invoke, p.names.Invokes(p.tenant), func(s string) string { a, _ := p.names.ParseInvoke(s); return a.ID }},
		{p.reply, p.names.Results(p.tenant), func(s string) string { a, _ := p.names.ParseReply(s); return a.ID }},
	} {
		for offset := 0; ; {
			page, err := insist(ctx, func(ctx context.Context) (subjectPage, error) { return in.store.subjects(ctx, in.filter, offset) })
			if err != nil {
				return "", err
			}
			for s := range page.State.Subjects {
				if id := in.id(s); strings.HasPrefix(id, prefix) {
					ids[id] = true
				}
			}
			offset += len(page.State.Subjects)
			if len(page.State.Subjects) == 0 || offset >= page.Total {
				break
			}
		}
	}
	switch all := slices.Sorted(maps.Keys(ids)); len(all) {
	case 0:
		return "", ErrNotFound
	case 1:
		return all[0], nil
	default:
		return "", &AmbiguousError{Prefix: prefix, IDs: all[:min(len(all), listCandidates)], Count: len(all)}
	}
}

type subjectPage struct {
	Total int `json:"total"`
	State struct {
		Subjects map[string]uint64 `json:"subjects"`
	} `json:"state"`
}

// subjects returns a page of the subjects of a stream, without what is stored there.
func (s *Store) subjects(ctx context.Context, filter string, offset int) (subjectPage, error) {
	req, err := json.Marshal(map[string]any{"subjects_filter": filter, "offset": offset})
	if err != nil {
		return subjectPage{}, err
	}
	var page subjectPage
	err = s.api(ctx, "$JS.API.STREAM.INFO."+s.stream, req, &page)
	return page, s.readError(filter, err)
}

// Workers returns the workers that live, by name.
func (p *Producer) Workers(ctx context.Context) ([]contracts.Presence, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	seen, err := insist(ctx, p.workers.All)
	if err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	all := make([]contracts.Presence, len(seen))
	for i, s := range seen {
		all[i] = s.Presence
	}
	return all, nil
}

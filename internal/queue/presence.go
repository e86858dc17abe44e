package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// presenceEvery is how often a worker says that it lives.
	presenceEvery = 3 * time.Second
	// A worker that has missed two words is not counted on for a run that it says it has. Its
	// entry stays for the bucket's TTL: a killed worker's job would wait 25 s for that.
	presenceGood = 2*presenceEvery + time.Second
)

// Presences is what the workers of a fleet say of themselves: one entry per
// worker in a key-value bucket, which the server forgets when its worker has
// not written it for Topology.WorkersTTL. Writing an entry also tells the time
// by the server's clock.
type Presences struct {
	store  *Store
	prefix string // of the subjects
	clock  serverClock
	wall   func() time.Time
}

// Seen is a worker's word and when the server heard it.
type Seen struct {
	contracts.Presence
	At time.Time
}

// NewPresences returns the presences of a fleet over nc.
func NewPresences(nc *nats.Conn, t Topology) *Presences {
	return &Presences{
		store:  NewStore(nc, t.WorkersStream(), t.ReplicaCount()),
		prefix: "$KV." + t.WorkersBucket() + ".",
		wall:   time.Now,
	}
}

// ValidWorkerName reports whether s can be the name of a worker: 1 to 128 of A-Z a-z 0-9 _ - = . with no dot at
// either end and no two together.
func ValidWorkerName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-=.", rune(c)) {
			return false
		}
	}
	return true
}

// Put says that the worker v.Name lives, and reads the word back for the time
// that the server put on it. Call it every few seconds.
func (p *Presences) Put(ctx context.Context, v contracts.Presence) error {
	if !ValidWorkerName(v.Name) {
		return fmt.Errorf("worker name %q: must be 1 to 128 of A-Z a-z 0-9 _ - . =", v.Name)
	}
	body, err := contracts.Encode(v)
	if err != nil {
		return fmt.Errorf("presence of %s: %w", v.Name, err)
	}
	wall, run, before := p.wall(), time.Now(), steady()
	seq, err := p.store.Put(ctx, p.prefix+v.Name, nats.Header{contracts.HeaderVersion: {contracts.Version}}, body)
	if err != nil {
		return fmt.Errorf("presence of %s: %w", v.Name, err)
	}
	took := steady() - before
	m, err := p.store.Seq(ctx, seq)
	if errors.Is(err, ErrNotFound) {
		return nil // written again meanwhile, by a worker of the same name
	}
	if err != nil {
		return fmt.Errorf("presence of %s: %w", v.Name, err)
	}
	// The server's clock showed m.Time at some time in between.
	p.clock.record(clockSample{wall: wall.Add(took / 2).Round(0), run: run.Add(took / 2), steady: before + took/2, server: m.Time, took: took})
	return nil
}

// Remove takes the word of a worker back, before its time is over.
func (p *Presences) Remove(ctx context.Context, worker string) error {
	if !ValidWorkerName(worker) {
		return fmt.Errorf("worker name %q: not one", worker)
	}
	_, err := p.store.Put(ctx, p.prefix+worker, nats.Header{"KV-Operation": {"DEL"}}, nil)
	return err
}

// Now is the time by the server's clock, as the last writes of Put tell, and by
// the local one before the first. It is off by no more than half the time that
// the quickest of them took, also when the local clock is set meanwhile.
func (p *Presences) Now() time.Time { return p.clock.at(p.wall(), time.Now(), steady) }

// All returns every worker that has given word within the bucket's TTL, by
// name. Of one that speaks a version this program cannot read, only Name,
// Version (that of its wire) and At are set.
func (p *Presences) All(ctx context.Context) ([]Seen, error) {
	var all []Seen
	for m, err := range p.store.Walk(ctx, p.prefix+">", 0, WalkOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		if v, ok := p.read(m); ok {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b Seen) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Get returns the last word of a worker, or ErrNotFound.
func (p *Presences) Get(ctx context.Context, worker string) (Seen, error) {
	if !ValidWorkerName(worker) {
		return Seen{}, fmt.Errorf("presence of %q: %w", worker, ErrNotFound)
	}
	m, err := p.store.Direct(ctx, p.prefix+worker)
	if err != nil {
		return Seen{}, fmt.Errorf("presence of %s: %w", worker, err)
	}
	v, ok := p.read(m)
	if !ok {
		return Seen{}, fmt.Errorf("presence of %s: %w", worker, ErrNotFound)
	}
	return v, nil
}

// Runs reports whether a worker lives and says that it has a run.
func (p *Presences) Runs(ctx context.Context, worker, run string) (bool, error) {
	v, err := p.Get(ctx, worker)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lately := p.Now().Sub(v.At) <= presenceGood
	return lately && slices.Contains(v.Runs, run), nil
}

func (p *Presences) read(m Stored) (Seen, bool) {
	if m.Header.Get("KV-Operation") != "" {
		return Seen{}, false
	}
	version := m.Header.Get(contracts.HeaderVersion)
	v, err := contracts.Decode[contracts.Presence](m.Data, contracts.Meta{ContentType: m.Header.Get(contracts.HeaderContentType), Version: version})
	if err != nil {
		v = contracts.Presence{Version: version}
	}
	v.Name = strings.TrimPrefix(m.Subject, p.prefix) // the subject wins over the body
	return Seen{Presence: v, At: m.Time}, true
}

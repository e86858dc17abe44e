package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

const (
	tendEvery   = time.Second           // how soon it is seen that a container has come to its end
	imageFresh  = 5 * time.Second       // how long it is believed what image a name is
	wipeWithin  = 5 * time.Second       // a container that takes longer to be wiped is not used again
	wipeWorth   = 20 * time.Millisecond // how long a wipe is waited for, which takes one or two
	invitations = 2                     // containers that are made at a time
)

// pool keeps containers that wait for work. One that has run nothing yet may run anybody's; from then on it is one tenant's.
type pool struct {
	r     *Runner
	wake  chan struct{}
	life  context.Context // of what goes on beside the runs
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	idle    []*guest // the one used last at the end
	making  int
	wiping  map[claim]int
	waiting map[claim][]chan *guest
	wants   []*want
	images  map[string]seen
}

// claim is who may use a container.
type claim struct{ shape, tenant string }

// want is an image of which containers are kept.
type want struct {
	Warm
	made    map[*guest]bool // of this image, of any shape, idle or not
	shape   string          // of work that asks for nothing; "" until the image is known
	making  int             // of that shape
	pulling bool
	missing bool // the image could not be pulled: it may come all the same
	fails   int
	again   time.Time // when it is tried again
	err     error     // why there are not as many as there should be
}

// seen is what a name stood for.
type seen struct {
	image.InspectResponse
	at time.Time
}

// blueprint is what a container is made of: ref is the image that was asked for, and img what is used, which a setup may have made of it.
type blueprint struct {
	ref   string
	s     *spec
	img   image.InspectResponse
	owner agent.Owner
}

func newPool(r *Runner) *pool {
	p := &pool{r: r, wake: make(chan struct{}, 1), wiping: map[claim]int{}, waiting: map[claim][]chan *guest{}, images: map[string]seen{}}
	p.life, p.end = context.WithCancel(context.Background())
	for _, w := range r.cfg.Warm {
		p.wants = append(p.wants, &want{Warm: w, made: map[*guest]bool{}})
	}
	return p
}

// close removes every container. No run is under way.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	p.end()
	for _, g := range idle {
		p.tasks.Go(func() { p.r.dismiss(context.Background(), g) })
	}
	p.tasks.Wait()
}

// sees reports whether it is known what the image of a job is, so that the engine need not be asked first.
func (p *pool) sees(job runner.Job) bool {
	c := job.Container
	if !c.Warm || c.Setup != nil || c.Pull == contracts.PullAlways {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.images[c.Image]
	return ok && time.Since(found.at) < imageFresh
}

// image returns what a name stands for.
func (p *pool) image(ctx context.Context, ref string) (image.InspectResponse, error) {
	p.mu.Lock()
	found, ok := p.images[ref]
	p.mu.Unlock()
	if ok && time.Since(found.at) < imageFresh {
		return found.InspectResponse, nil
	}
	call, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	info, err := p.r.api.ImageInspect(call, ref)
	p.mu.Lock()
	defer p.mu.Unlock()
	// What a setup left is that setup's alone, and looked at by it.
	if err != nil || info.Config != nil && info.Config.Labels[labelSetup] != "" {
		delete(p.images, ref)
		return info, err
	}
	if len(p.images) > maxAllWarm {
		clear(p.images)
	}
	p.images[ref] = seen{info, time.Now()}
	return info, nil
}

// poke has the pool looked after now.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns a container of the shape that is the tenant's, or nobody's yet, or says why there is none.
func (p *pool) take(ctx context.Context, tenant, shape string, b blueprint) (*guest, string) {
	defer p.poke()
	own := claim{shape, tenant}
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.pick(own)
	if g == nil && p.wiping[own] > len(p.waiting[own]) {
		g = p.await(ctx, own)
	}
	if g == nil {
		if g = p.pick(claim{shape: shape}); g != nil {
			g.tenant = tenant
		}
	}
	if g != nil {
		return g, ""
	}
	w := p.want(b.ref)
	switch {
	case w == nil:
		return nil, "this worker keeps none of " + b.ref
	case shape == w.shape || w.shape == "":
		return nil, "none was idle"
	case p.making < invitations && !p.closed:
		p.invite(w, shape, tenant, b)
	}
	return nil, "none with what it asks for was idle"
}

// pick takes out an idle container that may still be used. The lock is held.
func (p *pool) pick(own claim) *guest {
	for i, g := range slices.Backward(p.idle) {
		if own == (claim{g.shape, g.tenant}) && p.good(g) {
			p.idle = slices.Delete(p.idle, i, i+1)
			return g
		}
	}
	return nil
}

// good reports whether a container may be used again.
func (p *pool) good(g *guest) bool {
	select {
	case <-g.session.Done():
		return false
	default:
		return g.jobs < p.r.cfg.WarmJobs && time.Since(g.born) < p.r.cfg.WarmAge
	}
}

// await waits a moment for a container that is being wiped. The lock is held, but for the wait.
func (p *pool) await(ctx context.Context, own claim) *guest {
	soon := make(chan *guest, 1)
	p.waiting[own] = append(p.waiting[own], soon)
	p.mu.Unlock()
	enough := time.NewTimer(wipeWorth)
	defer enough.Stop()
	select {
	case g := <-soon: // nil: it cannot be used again
		p.mu.Lock()
		return g
	case <-enough.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting[own], soon); i >= 0 {
		p.unwait(own, i)
		return nil
	}
	return <-soon // it came all the same
}

func (p *pool) unwait(own claim, i int) {
	if p.waiting[own] = slices.Delete(p.waiting[own], i, i+1); len(p.waiting[own]) == 0 {
		delete(p.waiting, own)
	}
}

// back takes a container whose command has ended. It is wiped beside whatever comes next, and not used again if there is a doubt.
func (p *pool) back(g *guest, doubt bool) {
	own := claim{g.shape, g.tenant}
	g.jobs++
	doubt = doubt || !p.good(g)
	p.mu.Lock()
	p.wiping[own]++
	p.mu.Unlock()
	p.tasks.Go(func() {
		if !doubt {
			ctx, cancel := context.WithTimeout(p.life, wipeWithin)
			defer cancel()
			doubt = g.session.Wipe(ctx, g.owner) != nil
		}
		p.mu.Lock()
		if p.wiping[own]--; p.wiping[own] == 0 {
			delete(p.wiping, own)
		}
		doubt = doubt || p.closed
		next := g
		if doubt {
			next = nil
		}
		if waiting := p.waiting[own]; len(waiting) > 0 {
			waiting[0] <- next
			p.unwait(own, 0)
		} else if !doubt {
			p.idle = append(p.idle, g)
		}
		p.mu.Unlock()
		if doubt {
			p.dismiss(g)
		}
		p.poke()
	})
}

// dismiss removes a container that has been taken out.
func (p *pool) dismiss(g *guest) {
	p.forget(g)
	p.r.dismiss(context.Background(), g)
}

// forget takes a container out of the count.
func (p *pool) forget(g *guest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wants {
		delete(w.made, g)
	}
}

// want returns the wish for an image, or nil. The lock is held.
func (p *pool) want(ref string) *want {
	for _, w := range p.wants {
		if w.Image == ref {
			return w
		}
	}
	return nil
}

// keep looks after the pool until ctx ends.
func (p *pool) keep(ctx context.Context) {
	if len(p.wants) == 0 {
		return
	}
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		for _, g := range p.weed() {
			p.tasks.Go(func() { p.dismiss(g) })
		}
		if e, err := p.r.known(); err == nil {
			for _, w := range p.wants {
				p.tend(ctx, w, e)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.wake:
		}
	}
}

// weed takes out what is not to be used again, and of each image what is beyond twice what is wanted: who waited longest, and has
// been somebody's.
func (p *pool) weed() (out []*guest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = slices.DeleteFunc(p.idle, func(g *guest) bool {
		bad := !p.good(g)
		for _, w := range p.wants {
			// The name stands for another image now.
			bad = bad || w.made[g] && g.tenant == "" && g.shape != w.shape
		}
		if bad {
			out = append(out, g)
		}
		return bad
	})
	for _, w := range p.wants {
		beyond := -2 * w.N
		for _, g := range p.idle {
			if w.made[g] {
				beyond++
			}
		}
		p.idle = slices.DeleteFunc(p.idle, func(g *guest) bool {
			if beyond <= 0 || !w.made[g] || g.tenant == "" {
				return false
			}
			beyond--
			out = append(out, g)
			return true
		})
	}
	return out
}

// tend has as many containers of an image made as are missing.
func (p *pool) tend(ctx context.Context, w *want, e *engine) {
	p.mu.Lock()
	later := time.Now().Before(w.again)
	wait := w.pulling || later && !w.missing
	p.mu.Unlock()
	if wait {
		return
	}
	b, err := p.blueprint(ctx, w, e)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || ctx.Err() != nil:
		return
	case errdefs.IsNotFound(err):
		if !later {
			w.pulling = true
			p.tasks.Go(func() { p.pull(w) })
		}
		return
	case err != nil:
		p.failed(w, err)
		return
	}
	if w.missing {
		w.missing, w.err, w.fails, w.again = false, nil, 0, time.Time{}
	}
	w.shape = shape(b.s, b.img, b.owner)
	unused, all := 0, 0
	for _, g := range p.idle {
		if g.shape == w.shape {
			all++
			if g.tenant == "" {
				unused++
			}
		}
	}
	for lack := max(w.N-all, 1-unused) - w.making; lack > 0 && p.making < invitations; lack-- {
		p.invite(w, w.shape, "", b)
	}
}

// blueprint is what the containers of an image are made of for work that asks for nothing.
func (p *pool) blueprint(ctx context.Context, w *want, e *engine) (blueprint, error) {
	img, err := p.image(ctx, w.Image)
	if err != nil {
		return blueprint{}, err
	}
	job := runner.Job{Run: contracts.NewRun(), Invocation: contracts.Invocation{
		Kind: contracts.KindContainer, Command: []string{"true"}, Container: &contracts.Container{Image: w.Image, Warm: true},
	}}
	s, err := p.r.spec(job, e)
	if err != nil {
		return blueprint{}, err
	}
	who, err := unfit(job, s, img)
	return blueprint{ref: w.Image, s: s, img: img, owner: who}, err
}

// pull fetches an image that is not there.
func (p *pool) pull(w *want) {
	err := p.r.pull(p.life, w.Image, "", func(string) error { return nil })
	p.mu.Lock()
	defer p.mu.Unlock()
	w.pulling = false
	if err != nil {
		w.missing = true
		p.failed(w, fmt.Errorf("pull: %w", err))
	}
	p.poke()
}

// failed notes why there is no container, and puts off the next try. The lock is held.
func (p *pool) failed(w *want, err error) {
	if warn := p.r.cfg.Warn; warn != nil && !p.closed && (w.err == nil || w.err.Error() != err.Error()) {
		warn(fmt.Errorf("warm %s: %w", w.Image, err))
	}
	w.err = err
	w.again = time.Now().Add(min(time.Second<<min(w.fails, 6), time.Minute))
	w.fails++
}

// invite has a container made. The lock is held.
func (p *pool) invite(w *want, shape, tenant string, b blueprint) {
	first := tenant == "" && shape == w.shape
	p.making++
	s := *b.s // the engine's client changes what it is given, and the run goes on with its own
	if first {
		w.making++
	}
	p.tasks.Go(func() {
		g, err := p.r.invite(p.life, &s, b.img, b.owner)
		p.mu.Lock()
		p.making--
		if first {
			w.making--
		}
		closed := p.closed
		switch {
		case err != nil && !errors.Is(err, context.Canceled):
			p.failed(w, err)
		case err == nil && !closed:
			w.err, w.fails = nil, 0
			g.shape, g.tenant = shape, tenant
			w.made[g] = true
			p.idle = append(p.idle, g)
		}
		p.mu.Unlock()
		if err == nil && closed {
			p.r.dismiss(context.Background(), g)
		}
		p.poke()
	})
}

// capability says how many containers are kept, or why none can be.
func (p *pool) capability(e *engine) string {
	if os, machine := architecture(e); !agent.Runs(os, machine) {
		return "no: there is no agent for " + os + "/" + machine
	}
	if len(p.wants) == 0 {
		return "yes, none kept (--warm IMAGE=N)"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, w := range p.wants {
		idle := 0
		for _, g := range p.idle {
			if w.made[g] {
				idle++
			}
		}
		text := fmt.Sprintf("%s: %d idle of %d", w.Image, idle, w.N)
		if w.err != nil {
			text += " (" + w.err.Error() + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

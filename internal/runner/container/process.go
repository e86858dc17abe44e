package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

const (
	defaultGrace = 5 * time.Second
	// quietAfter is how long the output of a container that has ended may stay silent before it counts as read.
	quietAfter = 10 * time.Second
)

// process is a container from its start to its end.
type process struct {
	r       *Runner
	id      string
	job     runner.Job
	out     runner.Sink
	conn    types.HijackedResponse
	endLife context.CancelFunc
	exits   <-chan container.WaitResponse
	fails   <-chan error
	steps   []step

	exited chan struct{} // closed when the container has ended, or nobody can tell
	pumped chan struct{} // closed when its output is read
	fed    chan struct{} // closed when its input is written; nil without one
	reads  atomic.Int64  // of output
	said   head          // the beginning of standard error; read after pumped
	lost   bool          // the engine has gone: nobody can tell how it ended

	stops sync.WaitGroup // what stops the run; none is added once ended is set

	mu      sync.Mutex
	ended   bool
	cause   error // what it was stopped for; the first one counts
	sinkErr error // the first failed write to the sink
	sent    []string
}

// step is a signal and the wait for the work to end by it.
type step struct {
	signal string
	wait   time.Duration
}

// stopOrder returns what is tried before the hard kill (E19, T14).
func stopOrder(stop *contracts.Stop) []step {
	interrupt, grace := time.Duration(0), defaultGrace
	if stop != nil {
		interrupt = seconds(stop.InterruptSeconds)
		if stop.GraceSeconds != nil {
			grace = seconds(*stop.GraceSeconds)
		}
	}
	var steps []step
	if interrupt > 0 {
		steps = append(steps, step{"INT", interrupt})
	}
	if grace > 0 {
		steps = append(steps, step{"TERM", grace})
	}
	return steps
}

// seconds turns a number of an invocation into a duration, without overflow.
func seconds(s float64) time.Duration {
	const most = float64(365 * 24 * time.Hour / time.Second)
	if !(s > 0) {
		return 0
	}
	return time.Duration(min(s, most) * float64(time.Second))
}

// pump copies the output to the sink and the input to the container. Both streams come over one connection, in the
// order in which the engine read them; a sink that is slow holds back the work through it.
func (p *process) pump() {
	stdout, stderr := p.out.Stream(contracts.Stdout, contracts.PhaseMain), p.out.Stream(contracts.Stderr, contracts.PhaseMain)
	p.pumped = make(chan struct{})
	go func() {
		defer close(p.pumped)
		_, _ = stdcopy.StdCopy(p.heard(stdout, nil), p.heard(stderr, &p.said), counted{p.conn.Reader, &p.reads})
	}()
	if p.job.Stdin == nil {
		return
	}
	p.fed = make(chan struct{})
	go func() {
		defer close(p.fed)
		if err := feed(p.conn.Conn, p.job.Stdin); err != nil {
			// Stopped before the input ends: half of it must not look like all of it.
			p.fail(fmt.Errorf("read input: %w", err))
			<-p.exited
		}
		_ = p.conn.CloseWrite()
	}()
}

// feed returns an error of the reader only: work that does not want more input is no fault.
func feed(to io.Writer, from io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// heard passes output on. After a failed write it reads on for nobody, so that the work is not held up while it
// is being stopped.
func (p *process) heard(to io.Writer, said *head) io.Writer {
	return writerFunc(func(data []byte) (int, error) {
		if said != nil {
			said.note(data)
		}
		p.mu.Lock()
		deaf := p.sinkErr != nil
		p.mu.Unlock()
		if deaf {
			return len(data), nil
		}
		if _, err := to.Write(data); err != nil {
			err = fmt.Errorf("write output: %w", err)
			p.mu.Lock()
			p.sinkErr = err
			p.mu.Unlock()
			p.fail(err)
		}
		return len(data), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// counted counts the reads of output, also one that is under way.
type counted struct {
	from  io.Reader
	reads *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.reads.Add(1)
	return n, err
}

// end waits for the end of the work, stops it if ctx ends before, and says how it ended.
func (p *process) end(ctx context.Context) (contracts.Outcome, error) {
	defer p.endLife()
	p.stops.Add(1)
	unwatch := context.AfterFunc(ctx, func() {
		defer p.stops.Done()
		p.stop(context.Cause(ctx))
	})
	waitErr := p.wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	close(p.exited)
	if unwatch() {
		p.stops.Done()
	}
	p.stops.Wait()
	if waitErr != nil {
		p.lost = true
		p.conn.Close()
		<-p.pumped
		p.unfeed()
		if why := p.why(ctx); why != nil {
			return contracts.Outcome{Killed: p.killed()}, why
		}
		return contracts.Outcome{}, p.r.asked("wait", waitErr)
	}
	p.drain()
	outcome, err := p.look(ctx)
	outcome.Killed = p.killed()
	return outcome, errors.Join(p.why(ctx), err)
}

// wait returns when the container has ended. An error says that nobody can tell: the engine has gone.
func (p *process) wait() error {
	select {
	case <-p.exits:
		return nil
	case err := <-p.fails:
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("somebody removed the container: %w", err)
		}
		return err
	}
}

// fail stops the run because its output or its input cannot be carried on.
func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && p.cause == nil {
		p.stops.Go(func() { p.stop(err) })
	}
}

// stop ends the run for cause in the order of its steps. It does nothing to a run that has ended or is being stopped.
func (p *process) stop(cause error) {
	p.mu.Lock()
	if p.ended || p.cause != nil {
		p.mu.Unlock()
		return
	}
	p.cause = cause
	p.mu.Unlock()
	for _, step := range append(p.steps, step{"KILL", stopWithin}) {
		p.mu.Lock()
		p.sent = append(p.sent, step.signal)
		p.mu.Unlock()
		call, cancel := context.WithTimeout(context.Background(), signalWithin)
		err := p.r.api.ContainerKill(call, p.id, step.signal)
		cancel()
		if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			_ = p.r.asked("stop", err) // what cannot be signalled is removed all the same
		}
		timer := time.NewTimer(step.wait)
		select {
		case <-p.exited:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	p.endLife() // the wait ends, and the container is removed by force
}

// drain reads what is left of the output. An engine closes it once all is out; one that does not is not waited for.
func (p *process) drain() {
	defer p.unfeed()
	defer p.conn.Close()
	look := time.NewTicker(quietAfter)
	defer look.Stop()
	for before := int64(-1); ; {
		select {
		case <-p.pumped:
			return
		case <-look.C:
		}
		now := p.reads.Load()
		if now == before {
			p.conn.Close() // ends the read; a write to the sink under way is waited for
			<-p.pumped
			return
		}
		before = now
	}
}

// unfeed waits for the end of the input's copying, unless it hangs in a read.
func (p *process) unfeed() {
	if p.fed == nil {
		return
	}
	hung := time.NewTimer(2 * time.Second)
	defer hung.Stop()
	select {
	case <-p.fed:
	case <-hung.C:
	}
}

// look asks how the container ended.
func (p *process) look(ctx context.Context) (contracts.Outcome, error) {
	state, err := p.state(ctx)
	if err != nil {
		return contracts.Outcome{}, err
	}
	// The kernel's word that memory ran out may reach the engine after the end that it caused: late, where it is busy.
	for until := time.Now().Add(oomLate); state.ExitCode == bySignal+killSignal && !state.OOMKilled && p.killed() == "" && time.Now().Before(until); {
		<-time.After(50 * time.Millisecond)
		if state, err = p.state(ctx); err != nil {
			return contracts.Outcome{}, err
		}
	}
	return ended("the work", state, p.said.Bytes()), nil
}

// oomLate is how long after an end its cause may become known.
const oomLate = 500 * time.Millisecond

func (p *process) state(ctx context.Context) (*container.State, error) {
	call, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	info, err := p.r.api.ContainerInspect(call, p.id)
	if err != nil {
		return nil, p.r.asked("inspect", err)
	}
	if info.State == nil || info.State.Running {
		return nil, errors.New("container engine: it told of the end of a container that runs")
	}
	return info.State, nil
}

// why returns what the run was stopped for, if it was.
func (p *process) why(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.cause != nil:
		return p.cause
	case p.sinkErr != nil && ctx.Err() != nil:
		// It ended by itself; then its last output was not wanted any more, most likely for this.
		return context.Cause(ctx)
	default:
		return p.sinkErr
	}
}

func (p *process) killed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) == 0 {
		return ""
	}
	return "1 container (" + strings.Join(p.sent, ", then ") + ")"
}

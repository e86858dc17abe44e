package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

// quietAfter is how long the output of a container that has ended may stay silent before it counts as read.
const quietAfter = 10 * time.Second

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
	steps   []runner.StopStep

	stopping *runner.Stopping // it has exited when the container has ended, or nobody can tell

	pumped chan struct{} // closed when its output is read
	fed    chan struct{} // closed when its input is written; nil without one
	reads  atomic.Int64  // of output
	said   head          // the beginning of standard error; read after pumped
	lost   bool          // the engine has gone: nobody can tell how it ended

	sent []string // the signals; read once it has exited

	unwatchDisk func() // nil where it is not watched
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
			p.stopping.Fail(fmt.Errorf("read input: %w", err))
			<-p.stopping.Done()
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
		if p.stopping.Deaf() {
			return len(data), nil
		}
		if _, err := to.Write(data); err != nil {
			p.stopping.Unheard(fmt.Errorf("write output: %w", err))
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

// watchDisk has the work killed when it keeps too much in directories of this machine, those that are not "". It ends with the work.
func (p *process) watchDisk(s *spec, dirs ...string) {
	within, done := p.r.withinDisk(context.Background(), s, dirs...)
	p.unwatchDisk = done
	context.AfterFunc(within, func() {
		var over *overDisk
		if errors.As(context.Cause(within), &over) {
			p.stopping.Fail(over)
		}
	})
}

// end waits for the end of the work, stops it if ctx ends before, and says how it ended.
func (p *process) end(ctx context.Context) (contracts.Outcome, error) {
	defer p.endLife()
	p.stopping.Watch(ctx)
	waitErr := p.wait()
	p.stopping.Exited()
	if p.unwatchDisk != nil {
		p.unwatchDisk()
	}
	if waitErr != nil {
		p.lost = true
		p.conn.Close()
		<-p.pumped
		p.unfeed()
		if why := p.stopping.Why(ctx); why != nil {
			return contracts.Outcome{Killed: p.killed()}, why
		}
		return contracts.Outcome{}, p.r.asked("wait", waitErr)
	}
	p.drain()
	outcome, err := p.look(ctx)
	outcome.Killed = p.killed()
	why := p.stopping.Why(ctx)
	var over *overDisk
	if err == nil && errors.As(why, &over) {
		outcome.Status, outcome.Reason, outcome.Error = contracts.StatusFailed, contracts.ReasonDisk, over.Error()
		return outcome, nil
	}
	return outcome, errors.Join(why, err)
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

// stop ends the container in the order of its steps.
func (p *process) stop() {
	steps := p.steps
	if errors.Is(p.stopping.Why(context.Background()), agent.ErrAtOnce) {
		steps = nil
	}
	for _, step := range append(steps, runner.StopStep{Signal: "KILL", Wait: stopWithin}) {
		p.sent = append(p.sent, step.Signal)
		call, cancel := context.WithTimeout(context.Background(), signalWithin)
		err := p.r.api.ContainerKill(call, p.id, step.Signal)
		cancel()
		if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			_ = p.r.asked("stop", err) // what cannot be signalled is removed all the same
		}
		if p.stopping.Await(step.Wait) {
			return
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
	if p.killed() == "" {
		if err := p.r.stays(ctx); err != nil {
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

func (p *process) killed() string { return killedBy("1 container", p.sent) }

// killedBy says what was sent which signals, if any were.
func killedBy(what string, signals []string) string {
	if len(signals) == 0 {
		return ""
	}
	return what + " (" + strings.Join(signals, ", then ") + ")"
}

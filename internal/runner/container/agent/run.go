package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
	"github.com/runnel-project/runnel/internal/runner/pipe"
)

// Command is what is run.
type Command struct {
	// Args is the program and its arguments. A name without a slash is looked for in PATH, as execvp does.
	Args []string
	// Env is set over the environment of the container, NAME=value.
	Env []string
	// Dir is where it starts: absolute, and there.
	Dir string
	// UID and GID are who it is. It has no other groups. Root can do to the agent what it likes.
	UID, GID uint32
	// Stdin is what it reads; nil is nothing. It is not closed, and a read of it under way is not waited for for ever.
	Stdin io.Reader
	// Stop is what is tried, in order, before the hard kill of every process: signals to its process group.
	Stop []runner.StopStep
}

// Exit is how a command ended.
type Exit struct {
	frame.End
	// Sent are the signals that it was stopped with: INT, TERM, KILL.
	Sent []string
}

// running is a command from its start to its end.
type running struct {
	s              *Session
	stdout, stderr io.Writer
	steps          []runner.StopStep
	stopping       *runner.Stopping
	direct         pipe.Output // what is read from the pipes themselves
	sent           []string    // read once it has exited

	mu     sync.Mutex
	news   sync.Cond
	credit int
	ended  bool
}

// Run runs a command to its end, and ends what it left running; its files stay. Output is written as it comes, to both writers
// at once, and one that is slow holds the command back through its pipe.
//
// When ctx ends, a write of output fails, or Stdin cannot be read, the command is stopped by c.Stop (ErrAtOnce: it is killed), and the
// cause or the error is returned with how it ended. After ErrOver nobody can tell how it did, and the session is over.
func (s *Session) Run(ctx context.Context, c Command, stdout, stderr io.Writer) (Exit, error) {
	if ctx.Err() != nil {
		return Exit{}, context.Cause(ctx)
	}
	p := &running{s: s, stdout: stdout, stderr: stderr, steps: c.Stop, credit: frame.Window}
	p.news.L = &p.mu
	p.stopping = runner.NewStopping(p.stop)
	r := &request{run: p}
	pipes := s.pipes()
	body := frame.Command{Args: c.Args, Env: c.Env, Dir: c.Dir, UID: c.UID, GID: c.GID, Stdin: c.Stdin != nil, Direct: pipes != nil}.Append(nil)
	if err := s.ask(r, frame.Run, body); err != nil {
		for _, from := range pipes {
			from.Close()
		}
		return Exit{}, err
	}
	if pipes != nil {
		p.direct.Pump(pipes[0], stdout, p.stopping)
		p.direct.Pump(pipes[1], stderr, p.stopping)
	}
	var fed chan struct{}
	if c.Stdin != nil {
		fed = make(chan struct{})
		go func() {
			defer close(fed)
			p.feed(c.Stdin)
		}()
	}
	p.stopping.Watch(ctx)
	lost := false
	select {
	case <-r.answer:
	case <-s.over:
		<-s.read // nothing is written after this
		select {
		case <-r.answer:
		default:
			lost = true
		}
	}
	p.mu.Lock()
	p.ended = true
	p.news.Broadcast()
	p.mu.Unlock()
	p.stopping.Exited()
	if fed != nil {
		hung := time.NewTimer(2 * time.Second)
		defer hung.Stop()
		select {
		case <-fed:
		case <-hung.C:
		}
	}
	// All that wrote is dead, or nobody can tell; only what the command gave a pipe to outside of the container holds it open.
	p.direct.Drain(drainWithin)
	exit := Exit{End: r.end, Sent: p.sent}
	if lost {
		exit.End = frame.End{}
		return exit, errors.Join(p.stopping.Why(ctx), s.Err())
	}
	return exit, p.stopping.Why(ctx)
}

// drainWithin bounds the wait for the end of the output after the end of the command.
const drainWithin = 2 * time.Second

// output passes output on. After a failed write it is for nobody, so that the command is not held up while it is being stopped.
func (p *running) output(to io.Writer, data []byte) {
	if p.stopping.Deaf() {
		return
	}
	if _, err := to.Write(data); err != nil {
		p.stopping.Unheard(fmt.Errorf("write output: %w", err))
	}
}

// grant takes credit for input.
func (p *running) grant(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credit += n; p.credit > frame.Window {
		return frame.ErrMalformed
	}
	p.news.Broadcast()
	return nil
}

// feed sends the input, within the credit, until it or the command ends.
func (p *running) feed(from io.Reader) {
	buf := make([]byte, frame.Piece)
	for {
		n, err := from.Read(buf)
		for data := buf[:n]; len(data) > 0; {
			p.mu.Lock()
			for p.credit == 0 && !p.ended {
				p.news.Wait()
			}
			if p.ended {
				p.mu.Unlock()
				return
			}
			piece := data[:min(len(data), p.credit)]
			p.credit -= len(piece)
			p.s.send(frame.Stdin, piece) // under the lock: what is sent after the end is the next command's
			p.mu.Unlock()
			data = data[len(piece):]
		}
		switch {
		case err == io.EOF:
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.ended {
				p.s.send(frame.StdinEnd, nil)
			}
			return
		case err != nil:
			// Stopped before the input ends: half of it must not look like all of it.
			p.stopping.Fail(fmt.Errorf("read input: %w", err))
			return
		}
	}
}

// stop ends the command in the order of its steps.
func (p *running) stop() {
	steps, all := p.steps[:len(p.steps):len(p.steps)], within
	if errors.Is(p.stopping.Why(context.Background()), ErrAtOnce) {
		steps = nil
	}
	for _, step := range steps {
		all += step.Wait
	}
	// Whatever holds up a signal, or the output in front of the answer.
	late := time.AfterFunc(all, func() { p.s.fail(errors.New("the command does not end")) })
	defer late.Stop()
	for _, step := range append(steps, runner.StopStep{Signal: "KILL", Wait: 2 * within}) {
		p.sent = append(p.sent, step.Signal)
		p.s.send(frame.Signal, []byte{numbers[step.Signal]})
		if p.stopping.Await(step.Wait) {
			return
		}
	}
}

// numbers are those of the signals, the same on every Linux.
var numbers = map[string]byte{"INT": 2, "KILL": 9, "TERM": 15}

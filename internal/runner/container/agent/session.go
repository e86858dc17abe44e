// Package agent runs one command after another in a container that stays, through a small program that is the
// container's process 1.
//
// A container is made with Program at Path as its entrypoint, root and the capabilities of Capabilities, and with
// standard input that is attached once. Open speaks with it over the attached connection: when that ends, because the
// worker has died or closed it, the agent and so the container end.
//
//	session, err := agent.Open(ctx, agent.Attached(conn.Conn, conn.Reader))
//	err = session.Wipe(ctx, agent.Owner{UID: 1000, GID: 1000})  // makes the directories of the work
//	exit, err := session.Run(ctx, agent.Command{Args: []string{"true"}, Dir: "/", UID: 1000, GID: 1000}, stdout, stderr)
//
// Run ends every process that its command left, and leaves its files: Wipe takes those away, and whatever else a
// command can leave in a container. One thing is done at a time. After an error that is not the caller's own cause the
// session is over (Done), and the container is to be removed.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// Path is where the agent is in a container, on a volume at frame.Root.
const Path = frame.Root + "/" + frame.Program

// Capabilities are what the agent needs: to become another user, to end what is that user's, and to give and take files.
var Capabilities = []string{"KILL", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER"}

// ErrOver says that the session is over.
var ErrOver = errors.New("the agent is gone")

// ErrAtOnce is wrapped by a cause for which a command is killed at once, whatever its Stop says.
var ErrAtOnce = errors.New("at once")

// Owner is whose the directories of the work are.
type Owner = frame.Owner

// Session is the way to one agent. Its methods may be called from many goroutines, one of Run, Put, Fetch and Wipe at a time.
type Session struct {
	conn io.ReadWriteCloser

	writing sync.Mutex // held over a write to conn
	read    chan struct{}
	over    chan struct{}
	hello   chan struct{}

	mu    sync.Mutex
	now   *request     // under way
	err   error        // why it is over
	near  *near        // nil where output comes in frames
	ready *frame.Pipes // those of the next command
}

// request is what the agent was asked for.
type request struct {
	answer chan struct{} // closed when it is there
	end    frame.End     // of Run
	text   string        // of the others
	run    *running      // Run
	data   func([]byte)  // Fetch
}

// Open greets the agent at the other end of conn, which it closes in the end.
func Open(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	s := &Session{conn: conn, read: make(chan struct{}), over: make(chan struct{}), hello: make(chan struct{})}
	go s.listen()
	select {
	case <-s.hello:
		return s, nil
	case <-s.over:
		<-s.read
		return nil, s.Err()
	case <-ctx.Done():
		s.fail(context.Cause(ctx))
		<-s.read
		return nil, fmt.Errorf("agent: %w", context.Cause(ctx))
	}
}

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.over }

// Err returns why the session is over, or nil.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session, and so the agent. It may be called twice.
func (s *Session) Close() error {
	s.fail(errors.New("closed"))
	<-s.read
	return nil
}

// fail ends the session. The first reason counts.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = fmt.Errorf("%w: %w", ErrOver, err)
	if s.near != nil {
		s.near.close()
		s.near = nil
	}
	close(s.over)
	s.conn.Close()
}

// listen reads what the agent says until the session is over.
func (s *Session) listen() {
	defer close(s.read)
	var buf []byte
	for greeted := false; ; {
		t, body, next, err := frame.Read(s.conn, buf)
		buf = next
		switch {
		case err != nil:
		case !greeted:
			if t != frame.Hello || len(body) != 1 || body[0] != frame.Version {
				err = errors.New("it speaks another language")
				break
			}
			greeted = true
			close(s.hello)
		default:
			err = s.heard(t, body)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// heard takes one frame. The answer to a request is the last that it gets.
func (s *Session) heard(t frame.Type, body []byte) (err error) {
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	if now == nil {
		return frame.ErrMalformed
	}
	switch {
	case t == frame.Stdout && now.run != nil:
		now.run.output(now.run.stdout, body)
	case t == frame.Stderr && now.run != nil:
		now.run.output(now.run.stderr, body)
	case t == frame.Credit && now.run != nil:
		var n int
		if n, err = frame.ParseCredit(body); err == nil {
			err = now.run.grant(n)
		}
	case t == frame.Data && now.data != nil:
		now.data(body)
	case t == frame.Ready:
		var p frame.Pipes
		if p, err = frame.ParsePipes(body); err == nil {
			s.mu.Lock()
			s.ready = &p
			s.mu.Unlock()
		}
	case t == frame.Exit && now.run != nil:
		if now.end, err = frame.ParseEnd(body); err == nil {
			s.answered(now)
		}
	case t == frame.Done && now.run == nil:
		now.text = string(body)
		s.answered(now)
	default:
		err = frame.ErrMalformed
	}
	return err
}

// pipes opens those of the command that is to be asked for, where that can be done. No two are asked for at a time.
func (s *Session) pipes() []*os.File {
	s.mu.Lock()
	near, ready := s.near, s.ready
	s.ready = nil
	s.mu.Unlock()
	if near == nil || ready == nil {
		return nil
	}
	out, err := near.take(*ready)
	if err != nil {
		return nil
	}
	return out[:]
}

func (s *Session) answered(r *request) {
	s.mu.Lock()
	s.now = nil
	s.mu.Unlock()
	close(r.answer)
}

// ask begins a request.
func (s *Session) ask(r *request, t frame.Type, body []byte) error {
	r.answer = make(chan struct{})
	s.mu.Lock()
	err := s.err
	switch {
	case err != nil:
	case s.now != nil:
		err = errors.New("agent: asked for two things at once")
	default:
		s.now = r
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if len(body) > frame.Max {
		s.answered(r)
		return fmt.Errorf("agent: %w", frame.ErrTooLong)
	}
	s.send(t, body)
	return nil
}

// send writes a frame. One that cannot be written ends the session.
func (s *Session) send(t frame.Type, body []byte) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if _, err := s.conn.Write(frame.Append(make([]byte, 0, frame.Header+len(body)), t, body)); err != nil {
		s.fail(err)
	}
}

// answer waits for the answer to a request that is not Run. When ctx ends before, the session is over.
func (s *Session) answer(ctx context.Context, r *request) error {
	defer context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })()
	select {
	case <-r.answer:
	case <-s.over:
		<-s.read
		if ctx.Err() != nil {
			return fmt.Errorf("agent: %w", context.Cause(ctx))
		}
		return s.Err()
	}
	if r.text != "" {
		return fmt.Errorf("agent: %.256q", r.text)
	}
	return nil
}

// Wipe ends every process in the container, removes whatever the work has left in it, and makes the directories
// frame.Workspace and frame.Artifacts, empty, for who comes next. An error is a doubt: do not use the container again.
func (s *Session) Wipe(ctx context.Context, who Owner) error {
	r := &request{}
	if err := s.ask(r, frame.Wipe, who.Append(nil)); err != nil {
		return err
	}
	return s.answer(ctx, r)
}

// Put unpacks a tar into the directories of the work: its names begin with workspace/ or artifacts/, it holds regular
// files, directories and symbolic links, and says whose each is. A file that is there is replaced.
func (s *Session) Put(ctx context.Context, files io.Reader) error {
	r := &request{}
	if err := s.ask(r, frame.Put, nil); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	buf := make([]byte, frame.Piece)
	for {
		n, err := io.ReadFull(files, buf)
		if n > 0 {
			s.send(frame.Data, buf[:n])
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			s.fail(err) // half of the files must not look like all of them
			return fmt.Errorf("agent: read files: %w", err)
		}
		if s.Err() != nil {
			break
		}
	}
	s.send(frame.Data, nil)
	return s.answer(ctx, r)
}

// Fetch has take read the tar of a directory, frame.Workspace or frame.Artifacts, with names that begin with it. What is in it is the
// agent's word. An error of take ends the session, for what it did not read cannot be told from what comes next.
func (s *Session) Fetch(ctx context.Context, dir string, take func(tar io.Reader) error) error {
	from, to := io.Pipe()
	r := &request{data: func(p []byte) { _, _ = to.Write(p) }}
	if err := s.ask(r, frame.Fetch, []byte(dir)); err != nil {
		return err
	}
	taken := make(chan error, 1)
	go func() {
		err := take(from)
		if err == nil {
			_, err = io.Copy(io.Discard, from) // what fills up the last block
		}
		if err != nil {
			s.fail(err)
		}
		from.CloseWithError(io.ErrClosedPipe)
		taken <- err
	}()
	unwatch := context.AfterFunc(ctx, func() { to.CloseWithError(context.Cause(ctx)) })
	defer unwatch()
	go func() {
		select {
		case <-r.answer:
			to.Close()
		case <-s.over:
			to.CloseWithError(s.Err())
		}
	}()
	err := s.answer(ctx, r)
	if takeErr := <-taken; takeErr != nil && ctx.Err() == nil {
		return takeErr
	}
	return err
}

// within is how long a killed command may take to end.
const within = 8 * time.Second

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Sandboxes is the worker's side of the messages to sandboxes: it brings calls to the runs that serve them, and what comes
// of them back. Each open sandbox has a subscription of its own, so that the server says of one that is not there that
// nobody answers.
type Sandboxes struct {
	nc    *nats.Conn
	names Names
}

// NewSandboxes returns the worker's side on nc. It asks the server nothing.
func NewSandboxes(nc *nats.Conn, topo Topology) *Sandboxes {
	return &Sandboxes{nc: nc, names: topo.Names()}
}

const (
	// maxExecs bounds the commands that run or wait in one sandbox.
	maxExecs = 64
	// firstBeat is when a command that has said nothing says that it was heard.
	firstBeat = 500 * time.Millisecond
	// An outcome is said again until it is heard, for this long.
	outcomeAgain, outcomeFor = time.Second, 10 * time.Second
	// lastOutput is how long the output of a command that ends with its sandbox may take to be taken.
	lastOutput = 2 * time.Second
)

// What ends the context of a command in a sandbox.
var (
	errExecStopped = errors.New("stopped by its caller")
	errExecOrphan  = errors.New("its caller is gone")
	errExecClosed  = errors.New("the sandbox has ended")
)

// Serve brings the calls to a sandbox to server until stop is called, which ends the commands under way and returns
// when their outcomes are said. Once Serve has returned, calls find it.
func (s *Sandboxes) Serve(tenant, id string, server contracts.SandboxServer) (stop func(), err error) {
	subject := s.names.Sandbox(tenant, id)
	if subject == "" {
		return nil, fmt.Errorf("sandbox %.140q of tenant %.80q: not a name", id, tenant)
	}
	d := &sandboxDesk{nc: s.nc, id: id, server: server, execs: map[string]*servedExec{}}
	sub, err := s.nc.Subscribe(subject, d.heard)
	if err != nil {
		return nil, subscribeError(err)
	}
	if err := s.nc.FlushTimeout(askTimeout); err != nil && !s.nc.IsReconnecting() {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("open sandbox: %w", closedOr(err))
	}
	return func() {
		_ = sub.Unsubscribe() // fails on a closed connection only
		d.close()
	}, nil
}

// sandboxDesk is one open sandbox.
type sandboxDesk struct {
	nc     *nats.Conn
	id     string
	server contracts.SandboxServer
	all    sync.WaitGroup

	mu     sync.Mutex
	execs  map[string]*servedExec
	closed bool
}

func (d *sandboxDesk) close() {
	d.mu.Lock()
	d.closed = true
	for _, e := range d.execs {
		e.cancel(errExecClosed)
		e.hush()
		// A caller that does not read must not keep the sandbox from ending.
		defer time.AfterFunc(lastOutput, e.out.close).Stop()
	}
	d.mu.Unlock()
	d.all.Wait()
	if d.nc.IsConnected() {
		_ = d.nc.FlushTimeout(askTimeout) // who did not hear it finds the result of the sandbox
	}
}

// heard takes one call. It must not block.
func (d *sandboxDesk) heard(m *nats.Msg) {
	meta := metaOf(m.Header)
	reply := sandboxReplier{d: d, to: m.Reply, asJSON: contracts.SpeaksJSON(m.Data, meta)}
	call, err := contracts.Decode[contracts.SandboxCall](m.Data, meta)
	if err == nil {
		err = call.Validate()
	}
	if err == nil && call.ID != d.id {
		err = fmt.Errorf("invocation_id is %q, the subject says %q", call.ID, d.id)
	}
	if err != nil {
		reply.refuse("", contracts.ReasonBadInvocation, contracts.FitError(err.Error()))
		return
	}
	switch call.Type {
	case contracts.SandboxPing:
		reply.say(contracts.SandboxReply{Type: contracts.SandboxSaysHeartbeat})
		return
	case contracts.SandboxClose:
		reply.say(contracts.SandboxReply{Type: contracts.SandboxSaysHeartbeat})
		d.server.Close()
		return
	}
	d.mu.Lock()
	e := d.execs[call.Exec]
	switch {
	case e == nil && call.Type == contracts.SandboxExec && !d.closed && len(d.execs) < maxExecs && m.Reply != "":
		e = newServedExec(reply, call)
		d.execs[call.Exec] = e
		d.all.Go(e.serve)
		d.mu.Unlock()
		return
	case e == nil:
		full := len(d.execs) >= maxExecs
		d.mu.Unlock()
		switch {
		case call.Type == contracts.SandboxExec && full:
			reply.refuse(call.Exec, contracts.ReasonBusy, fmt.Sprintf("%d commands run or wait already", maxExecs))
		case call.Type != contracts.SandboxEnd:
			reply.refuse(call.Exec, contracts.ReasonInfra, "this command has ended, or was given up because nothing was heard of its caller")
		}
		return
	}
	d.mu.Unlock()
	e.hear(call)
}

// sandboxReplier says something to a caller.
type sandboxReplier struct {
	d      *sandboxDesk
	to     string
	asJSON bool
}

func (r sandboxReplier) encode(m contracts.SandboxReply) ([]byte, error) {
	m.ID = r.d.id
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return contracts.EncodeFor(m, r.asJSON)
}

func (r sandboxReplier) publish(data []byte) error {
	return closedOr(r.d.nc.PublishMsg(&nats.Msg{Subject: r.to, Header: headerFor(r.asJSON), Data: data}))
}

// say says what may be lost.
func (r sandboxReplier) say(m contracts.SandboxReply) {
	if r.to == "" {
		return
	}
	if data, err := r.encode(m); err == nil {
		_ = r.publish(data)
	}
}

func (r sandboxReplier) refuse(exec string, reason contracts.Reason, text string) {
	r.say(contracts.SandboxReply{Type: contracts.SandboxSaysOutcome, Exec: exec, Outcome: &contracts.SandboxOutcome{
		Status: contracts.StatusRejected, Reason: reason, Error: text,
	}})
}

// servedExec is one command, from its call until its outcome is heard.
type servedExec struct {
	sandboxReplier
	call   contracts.SandboxCall
	ctx    context.Context
	cancel context.CancelCauseFunc
	beat   time.Duration
	out    *sendWindow
	output execOutput
	in     *execInput
	quiet  chan struct{} // closed when nothing more is to be said
	hush   func()

	mu       sync.Mutex
	lastWord time.Time // of the caller
	pulse    *time.Timer
	over     bool // the work has ended
}

func newServedExec(r sandboxReplier, call contracts.SandboxCall) *servedExec {
	e := &servedExec{
		sandboxReplier: r, call: call, beat: time.Duration(call.HeartbeatSeconds * float64(time.Second)),
		quiet: make(chan struct{}), lastWord: time.Now(),
	}
	e.hush = sync.OnceFunc(func() { close(e.quiet) })
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	e.out = newSendWindow(min(call.Window, contracts.SandboxWindow), r.publish)
	e.output.e = e
	e.in = newExecInput(call, func(n int) { e.say(contracts.SandboxReply{Type: contracts.SandboxSaysAck, Exec: call.Exec, N: n}) })
	return e
}

// serve runs the command and says how it ended, until that is heard.
func (e *servedExec) serve() {
	defer func() {
		e.d.mu.Lock()
		delete(e.d.execs, e.call.Exec)
		e.d.mu.Unlock()
	}()
	e.mu.Lock()
	e.pulse = time.AfterFunc(min(firstBeat, e.beat), e.beatOnce)
	e.mu.Unlock()
	freed := context.AfterFunc(e.ctx, func() { e.in.close(context.Cause(e.ctx)) })
	outcome := e.d.server.Exec(e.ctx, contracts.SandboxWork{
		Call: e.call, Stdin: e.in, Stdout: execWriter{&e.output, contracts.Stdout}, Stderr: execWriter{&e.output, contracts.Stderr},
		Hush: e.out.close,
	})
	freed()
	e.in.close(errNobodyWaits)
	e.mu.Lock()
	e.over = true
	e.pulse.Stop()
	e.mu.Unlock()
	var cut bool
	if outcome.Tail, cut = e.output.end(); cut {
		outcome.Error = strings.TrimPrefix(outcome.Error+"; some of its output was cut, which its caller did not take", "; ")
	}
	outcome.Error = contracts.FitError(outcome.Error)
	defer e.out.close()
	last, err := e.encode(contracts.SandboxReply{Type: contracts.SandboxSaysOutcome, Exec: e.call.Exec, N: e.out.count(), Outcome: &outcome})
	if err != nil {
		e.refuse(e.call.Exec, contracts.ReasonInfra, contracts.FitError(err.Error()))
		return
	}
	defer e.cancel(nil)
	until := time.NewTimer(outcomeFor)
	defer until.Stop()
	again := time.NewTicker(outcomeAgain)
	defer again.Stop()
	for {
		_ = e.publish(last)
		select {
		case <-e.quiet:
			return
		case <-until.C:
			return
		case <-again.C:
		}
	}
}

// hear takes what the caller says of its command.
func (e *servedExec) hear(call contracts.SandboxCall) {
	e.mu.Lock()
	e.lastWord = time.Now()
	e.mu.Unlock()
	switch call.Type {
	case contracts.SandboxStdin:
		e.in.take(call)
	case contracts.SandboxHeartbeat:
		e.in.told(call.N)
	case contracts.SandboxAck:
		e.out.ack(call.N)
	case contracts.SandboxStop:
		e.cancel(errExecStopped)
	case contracts.SandboxEnd:
		e.cancel(errExecStopped)
		e.out.close()
		e.hush()
	}
}

// beatOnce says that the command lives, again and again, and notices when its caller does not.
func (e *servedExec) beatOnce() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return
	}
	switch {
	case !e.d.nc.IsConnected():
		e.lastWord = time.Now() // it is we who do not hear
	case time.Since(e.lastWord) > contracts.SandboxSilence*e.beat:
		e.cancel(errExecOrphan)
		e.out.close()
		e.hush()
		return
	}
	e.say(contracts.SandboxReply{Type: contracts.SandboxSaysHeartbeat, Exec: e.call.Exec, N: e.out.count()})
	e.pulse.Reset(e.beat)
}

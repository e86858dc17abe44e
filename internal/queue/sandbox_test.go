package queue_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// toys is a sandbox without a container: its commands are functions.
type toys struct {
	mu     sync.Mutex
	ran    int
	closes chan struct{}
	causes chan error // of each command that was stopped
}

func newToys() *toys { return &toys{closes: make(chan struct{}, 10), causes: make(chan error, 100)} }

func (s *toys) Close() { s.closes <- struct{}{} }

func (s *toys) Exec(ctx context.Context, w contracts.SandboxWork) contracts.SandboxOutcome {
	s.mu.Lock()
	s.ran++
	s.mu.Unlock()
	fail := func(err error) contracts.SandboxOutcome {
		if ctx.Err() != nil {
			s.causes <- context.Cause(ctx)
			return contracts.SandboxOutcome{Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled, Error: context.Cause(ctx).Error()}
		}
		return contracts.SandboxOutcome{Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, Error: err.Error()}
	}
	args := w.Call.Command
	n := 0
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[1])
	}
	switch args[0] {
	case "say":
		fmt.Fprintln(w.Stdout, args[1])
		fmt.Fprintln(w.Stderr, args[2])
	case "echo":
		if _, err := io.Copy(w.Stdout, w.Stdin); err != nil {
			return fail(err)
		}
	case "flood":
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
		for n > 0 {
			k, err := w.Stdout.Write(data[:min(n, len(data))])
			if n -= k; err != nil {
				return fail(err)
			}
		}
	case "deaf": // its caller: what stops it does not wait for that
		defer context.AfterFunc(ctx, w.Hush)()
		for {
			if _, err := w.Stdout.Write(make([]byte, 1<<16)); err != nil {
				return fail(err)
			}
		}
	case "hang":
		fmt.Fprintln(w.Stdout, "ready")
		<-ctx.Done()
		return fail(nil)
	case "slow": // reads a little of its input only
		_, _ = io.ReadFull(w.Stdin, make([]byte, 10))
	default:
		return contracts.SandboxOutcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, ExitCode: &n}
	}
	return contracts.SandboxOutcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}
}

// sandbox submits a sandbox and serves it with toys, as a worker of the name w that lives.
func (s *stage) sandbox(id string) (*toys, func()) {
	s.t.Helper()
	s.submitSandbox(id)
	s.start(id, runA)
	s.present("w", contracts.KindContainer)
	server := newToys()
	stop, err := queue.NewSandboxes(s.nc, s.top).Serve("default", id, server)
	if err != nil {
		s.t.Fatal(err)
	}
	stop = sync.OnceFunc(stop)
	s.t.Cleanup(stop)
	return server, stop
}

func (s *stage) submitSandbox(id string) {
	s.t.Helper()
	inv := contracts.Invocation{ID: id, Kind: contracts.KindContainer, Container: &contracts.Container{Image: "x", Sandbox: &contracts.Sandbox{}}}
	if _, err := s.p.Submit(within(s.t), inv); err != nil {
		s.t.Fatal(err)
	}
}

// slowReader has no Len: what it reads is sent in messages of its own.
type slowReader struct{ io.Reader }

func TestExecInASandbox(t *testing.T) {
	s := newStage(t, queue.Topology{})
	s.sandbox("box")
	random := make([]byte, 1<<20+17)
	rand.NewChaCha8([32]byte{7}).Read(random)
	for name, test := range map[string]struct {
		command  []string
		stdin    io.Reader
		out, err string
		code     int
	}{
		"both streams":            {[]string{"say", "a", "b"}, nil, "a\n", "b\n", 0},
		"exit code":               {[]string{"exit", "7"}, nil, "", "", 7},
		"no input":                {[]string{"echo"}, nil, "", "", 0},
		"empty input":             {[]string{"echo"}, strings.NewReader(""), "", "", 0},
		"short input":             {[]string{"echo"}, strings.NewReader("hi"), "hi", "", 0},
		"streamed":                {[]string{"echo"}, slowReader{strings.NewReader("hi")}, "hi", "", 0},
		"streamed, empty":         {[]string{"echo"}, slowReader{strings.NewReader("")}, "", "", 0},
		"1 MiB":                   {[]string{"echo"}, bytes.NewReader(random), string(random), "", 0},
		"of which little is read": {[]string{"slow"}, slowReader{bytes.NewReader(make([]byte, 8<<20))}, "", "", 0},
		"8 MiB":                   {[]string{"flood", strconv.Itoa(8 << 20)}, nil, strings.Repeat("0123456789abcdef", 1<<19), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			r, err := s.p.Exec(within(t), "box", queue.ExecRequest{Command: test.command, Stdin: test.stdin, Stdout: &out, Stderr: &errs})
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode == nil || *r.ExitCode != test.code || (r.Status == contracts.StatusSucceeded) != (test.code == 0) {
				t.Errorf("Exec() = %+v, want exit code %d", r, test.code)
			}
			if sha256.Sum256(out.Bytes()) != sha256.Sum256([]byte(test.out)) || errs.String() != test.err {
				t.Errorf("%d bytes of output, stderr %q, want %d and %q", out.Len(), errs.String(), len(test.out), test.err)
			}
		})
	}
}

// notify is a writer that says that something was written.
type notify chan struct{}

func (n notify) Write(p []byte) (int, error) {
	select {
	case n <- struct{}{}:
	default:
	}
	return len(p), nil
}

// A caller that does not want its command any more, or dies, has it stopped.
func TestExecIsStopped(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	server, _ := s.sandbox("box")
	wanted := errors.New("enough")
	for _, how := range []string{"asked", "full", "dead"} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(within(t))
			defer cancel(nil)
			nc := s.node.Connect(t)
			p := s.producer(nc)
			p.SetExecBeat(time.Second / 2)
			ready := make(notify, 1)
			var out io.Writer = ready
			if how == "full" {
				out = full{wanted}
			}
			over := make(chan error, 1)
			go func() {
				r, err := p.Exec(ctx, "box", queue.ExecRequest{Command: []string{"hang"}, Stdout: out})
				if err == nil || how != "dead" && r.Status != contracts.StatusCancelled {
					err = fmt.Errorf("Exec() = %+v, %w", r, err)
				}
				over <- err
			}()
			if how != "full" {
				<-ready
			}
			want := "stopped by its caller"
			switch how {
			case "asked":
				cancel(wanted)
			case "dead":
				nc.Close()
				want = "its caller is gone"
			}
			select {
			case err := <-server.causes:
				if err.Error() != want {
					t.Errorf("the command was stopped for %v, want %s", err, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("the command runs on for nobody")
			}
			if err := <-over; how != "dead" && !errors.Is(err, wanted) {
				t.Errorf("%v, want the cause", err)
			}
		})
	}
}

type full struct{ error }

func (f full) Write([]byte) (int, error) { return 0, f.error }

// A caller that does not read holds the command back: what is under way is bounded.
func TestExecHoldsBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.sandbox("box")
	from, to := io.Pipe()
	done := make(chan error, 1)
	const all = 8 << 20
	go func() {
		_, err := s.p.Exec(within(t), "box", queue.ExecRequest{Command: []string{"flood", strconv.Itoa(all)}, Stdout: to})
		to.CloseWithError(err)
		done <- err
	}()
	if _, err := io.ReadFull(from, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.quiet()
	if stats := s.nc.Stats(); stats.OutBytes > 4<<20 {
		t.Errorf("%d bytes are under way to a caller that does not read, want a window", stats.OutBytes)
	}
	n, err := io.Copy(io.Discard, from)
	if err != nil || n != all-1 {
		t.Errorf("read %d bytes, %v, want %d", n, err, all-1)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A caller that does not read, and then wants no more, has its command stopped all the same, and hears what it missed.
func TestExecOfADeafCallerIsStopped(t *testing.T) {
	s := newStage(t, queue.Topology{})
	server, _ := s.sandbox("box")
	from, to := io.Pipe()
	ctx, cancel := context.WithCancelCause(within(t))
	over := make(chan queue.ExecResult, 1)
	go func() {
		r, _ := s.p.Exec(ctx, "box", queue.ExecRequest{Command: []string{"deaf"}, Stdout: to})
		over <- r
	}()
	if _, err := io.ReadFull(from, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.quiet()
	cancel(errors.New("enough"))
	if err := <-server.causes; err.Error() != "stopped by its caller" {
		t.Errorf("the command was stopped for %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, from) }()
	if r := <-over; r.Status != contracts.StatusCancelled || !strings.Contains(r.Error, "output was cut") {
		t.Errorf("Exec() = %+v, want it cancelled, and its output cut", r)
	}
	from.Close()
}

// quiet waits until the worker's side sends nothing more.
func (s *stage) quiet() {
	s.t.Helper()
	last := uint64(0)
	eventually(s.t, "the worker's side is quiet", func() bool {
		now := s.nc.Stats().OutMsgs
		same := now == last
		last = now
		return same
	})
}

// Who calls what is not open is told what it is.
func TestExecWhereNobodyAnswers(t *testing.T) {
	s := newStage(t, queue.Topology{})
	exec := func(id string) error {
		_, err := s.p.Exec(within(t), id, queue.ExecRequest{Command: []string{"say", "a", "b"}})
		return err
	}
	if err := exec("unknown"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Exec() in an unknown one = %v, want ErrNotFound", err)
	}
	s.submit("job")
	if err := exec("job"); !errors.Is(err, queue.ErrNotSandbox) {
		t.Errorf("Exec() in a job = %v, want ErrNotSandbox", err)
	}
	// Its worker says that it lives, and not that it has this run.
	s.submitSandbox("lost")
	s.put(s.names.Start("default", "lost", runA), contracts.Start{Run: runA, Attempt: 1, Worker: "other", At: time.Now().Add(-time.Minute), Digest: "d"})
	s.present("other", contracts.KindContainer)
	if err := exec("lost"); !errors.Is(err, queue.ErrSandboxLost) || !strings.Contains(err.Error(), "other") {
		t.Errorf("Exec() in a lost one = %v, want ErrSandboxLost and its worker", err)
	}
	_, stop := s.sandbox("ended")
	stop()
	s.result("ended", runA, 0, "")
	var ended *queue.SandboxEndedError
	if err := exec("ended"); !errors.As(err, &ended) || ended.Result.ID != "ended" {
		t.Errorf("Exec() in one that has ended = %v, want its result", err)
	}
	if r, err := s.p.CloseSandbox(within(t), "ended"); err != nil || r.ID != "ended" {
		t.Errorf("CloseSandbox() of one that has ended = %+v, %v, want its result", r, err)
	}
	// One that waits is waited for.
	s.submitSandbox("late")
	done := make(chan error, 1)
	go func() { done <- exec("late") }()
	stop, err := queue.NewSandboxes(s.nc, s.top).Serve("default", "late", newToys())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := <-done; err != nil {
		t.Errorf("Exec() in one that is opened = %v", err)
	}
}

// A sandbox that ends ends its commands, and their callers get its result.
func TestExecEndsWithTheSandbox(t *testing.T) {
	s := newStage(t, queue.Topology{})
	_, stop := s.sandbox("box")
	ready, over := make(notify, 1), make(chan error, 1)
	go func() {
		_, err := s.p.Exec(within(t), "box", queue.ExecRequest{Command: []string{"hang"}, Stdout: ready})
		over <- err
	}()
	<-ready
	stop()
	s.result("box", runA, 0, "")
	// Toys say cancelled; a run says closed. Both come from an outcome that is said once.
	if err := <-over; err != nil {
		t.Errorf("Exec() = %v, want the outcome", err)
	}
}

func TestOpenAndCloseASandbox(t *testing.T) {
	s := newStage(t, queue.Topology{})
	invocation := func(id string) contracts.Invocation {
		return contracts.Invocation{ID: id, Kind: contracts.KindContainer, Container: &contracts.Container{Image: "x", Sandbox: &contracts.Sandbox{}}}
	}
	// open begins to open one, and returns when it is submitted.
	open := func(ctx context.Context, id string) <-chan error {
		t.Helper()
		opened := make(chan error, 1)
		go func() {
			_, err := s.p.OpenSandbox(ctx, invocation(id))
			opened <- err
		}()
		eventually(t, "it is submitted", func() bool { _, err := s.p.Get(within(t), id); return err == nil })
		return opened
	}
	opened := open(within(t), "box")
	server := newToys()
	stop, err := queue.NewSandboxes(s.nc, s.top).Serve("default", "box", server)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := <-opened; err != nil {
		t.Fatalf("OpenSandbox() = %v", err)
	}
	go func() {
		<-server.closes
		s.result("box", runA, 0, "")
	}()
	if r, err := s.p.CloseSandbox(within(t), "box"); err != nil || r.Status != contracts.StatusSucceeded {
		t.Errorf("CloseSandbox() = %+v, %v", r, err)
	}
	// One that is refused does not open.
	opened = open(within(t), "refused")
	s.result("refused", runA, 0, "")
	var ended *queue.SandboxEndedError
	if err := <-opened; !errors.As(err, &ended) {
		t.Errorf("OpenSandbox() of one that ends = %v, want its result", err)
	}
	// One whose caller leaves before it is open is cancelled.
	ctx, cancel := context.WithCancelCause(within(t))
	opened = open(ctx, "alone")
	enough := errors.New("enough")
	cancel(enough)
	if err := <-opened; !errors.Is(err, enough) {
		t.Errorf("OpenSandbox() = %v, want %v", err, enough)
	}
	if i, err := s.p.Get(within(t), "alone"); err != nil || i.Status != contracts.StatusCancelled {
		t.Errorf("Get() = %+v, %v, want it cancelled", i, err)
	}
	if _, err := s.p.Submit(within(t), invocation("unwanted")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.p.CloseSandbox(within(t), "unwanted"); err != nil || r.Status != contracts.StatusCancelled {
		t.Errorf("CloseSandbox() of one that waits = %+v, %v, want it cancelled", r, err)
	}
}

// Messages that a restart of the server loses come again.
func TestExecSurvivesARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	s.sandbox("box")
	s.p.SetExecBeat(time.Second / 2)
	random := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{9}).Read(random)
	var out bytes.Buffer
	in, feed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		r, err := s.p.Exec(within(t), "box", queue.ExecRequest{Command: []string{"echo"}, Stdin: in, Stdout: &out})
		if err == nil && r.Status != contracts.StatusSucceeded {
			err = fmt.Errorf("Exec() = %+v", r)
		}
		in.CloseWithError(err)
		done <- err
	}()
	for i, part := range [][]byte{random[:1<<20], random[1<<20 : 3<<20], random[3<<20:]} {
		if i == 1 {
			s.node.Restart(t)
		}
		if _, err := feed.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	feed.Close()
	if err := <-done; err != nil || !bytes.Equal(out.Bytes(), random) {
		t.Errorf("%v, %d bytes, want %d as they were", err, out.Len(), len(random))
	}
}

// What a stranger sends, in JSON, is answered so; what is wrong with it, by name; the same call twice runs once.
func TestSandboxCallsOfOthers(t *testing.T) {
	s := newStage(t, queue.Topology{})
	server, _ := s.sandbox("box")
	inbox := s.pnc.NewInbox()
	sub, err := s.pnc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) {
		t.Helper()
		if err := s.pnc.PublishMsg(&nats.Msg{Subject: s.names.Sandbox("default", "box"), Reply: inbox, Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	// hear returns the next message that is no heartbeat.
	hear := func() contracts.SandboxReply {
		t.Helper()
		for {
			m, err := sub.NextMsgWithContext(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(m.Data, []byte("{")) {
				t.Fatalf("%q is not JSON", m.Data)
			}
			r, err := contracts.Decode[contracts.SandboxReply](m.Data, contracts.Meta{})
			if err != nil || r.Validate() != nil {
				t.Fatalf("%s: %v, %v", m.Data, err, r.Validate())
			}
			if r.Type != contracts.SandboxSaysHeartbeat {
				return r
			}
		}
	}
	const name = `"invocation_id":"box","exec":"abcdefghabcdefgh"`
	for text, want := range map[string]string{
		`{"type":"exec","invocation_id":"other","exec":"abcdefghabcdefgh","command":["say","a","b"],"heartbeat_seconds":2,"window":1}`: "other",
		`{"type":"exec",` + name + `,"command":[],"heartbeat_seconds":2,"window":1}`:                                                   "command",
		`{"type":"exec",` + name + `,"comand":["a"],"heartbeat_seconds":2,"window":1}`:                                                 "comand",
		`{"type":"stdin",` + name + `,"n":1}`:                                                                                          "has ended",
		`{`:                                                                                                                            "",
	} {
		say(text)
		r := hear()
		if r.Type != contracts.SandboxSaysOutcome || r.Outcome.Status != contracts.StatusRejected || !strings.Contains(r.Outcome.Error, want) {
			t.Errorf("%s: %+v %+v, want it rejected: %s", text, r, r.Outcome, want)
		}
	}
	echo := `{"type":"exec",` + name + `,"command":["echo"],"heartbeat_seconds":2,"window":1,"more":true}`
	say(echo)
	say(echo)
	// The second before the first, and more than the window holds.
	say(`{"type":"stdin",` + name + `,"n":2,"data":"Yg=="}`)
	if r := hear(); r.Type != contracts.SandboxSaysAck || r.N != 0 {
		t.Errorf("%+v, want that nothing came so far", r)
	}
	say(`{"type":"stdin",` + name + `,"n":1,"data":"YQ==","more":true}`)
	if r := hear(); r.Type != contracts.SandboxSaysAck || r.N != 1 {
		t.Errorf("%+v, want 1 acknowledged", r)
	}
	say(`{"type":"stdin",` + name + `,"n":2,"data":"Yg=="}`)
	var out []byte
	for {
		r := hear()
		for _, p := range r.Pieces {
			out = append(out, p.Data...)
		}
		if r.Type == contracts.SandboxSaysOutput {
			say(fmt.Sprintf(`{"type":"ack",%s,"n":%d}`, name, r.N))
		}
		if r.Outcome != nil {
			for _, p := range r.Outcome.Tail {
				out = append(out, p.Data...)
			}
			break
		}
	}
	say(`{"type":"end",` + name + `}`)
	if string(out) != "ab" || server.ran != 1 {
		t.Errorf("output %q, %d ran, want ab of one", out, server.ran)
	}
	say(`{"type":"ping","invocation_id":"box"}`)
	if m, err := sub.NextMsgWithContext(within(t)); err != nil || !strings.Contains(string(m.Data), "heartbeat") {
		t.Errorf("ping: %+v, %v", m, err)
	}
}

// Who may not call sandboxes hears that at once, and which subject that was.
func TestExecDenied(t *testing.T) {
	node := queuetest.ServerOf(t, "secured.conf")
	p, err := queue.NewProducer(node.Connect(t, nats.UserInfo("responder", "change-me-responder")), queue.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Exec(within(t), "box", queue.ExecRequest{Command: []string{"true"}})
	if !errors.Is(err, queue.ErrDenied) || !strings.Contains(err.Error(), "runnel.sandbox.default.box") {
		t.Errorf("Exec() = %v, want ErrDenied and the subject", err)
	}
}

// Equal ids of two tenants are two sandboxes.
func TestSandboxesOfTwoTenants(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ours, _ := s.sandbox("box")
	theirs := newToys()
	stop, err := queue.NewSandboxes(s.nc, s.top).Serve("acme", "box", theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	acme, err := queue.NewProducer(s.pnc, queue.ProducerConfig{Topology: s.top, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := acme.Exec(within(t), "box", queue.ExecRequest{Command: []string{"say", "a", "b"}}); err != nil {
			t.Fatal(err)
		}
	}
	if ours.ran != 0 || theirs.ran != 3 {
		t.Errorf("%d ran in ours and %d in theirs, want 0 and 3", ours.ran, theirs.ran)
	}
}

func BenchmarkExecInASandbox(b *testing.B) {
	s := newStage(b, queue.Topology{})
	s.sandbox("box")
	for b.Loop() {
		if _, err := s.p.Exec(b.Context(), "box", queue.ExecRequest{Command: []string{"exit", "0"}}); err != nil {
			b.Fatal(err)
		}
	}
}

package manual_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/manual"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exchange is a runner on a server of its own, and a connection for responders.
func exchange(t *testing.T) (*manual.Runner, *nats.Conn) {
	t.Helper()
	node := queuetest.Server(t)
	nc := node.Connect(t)
	r := manual.New(queue.NewManual(node.Connect(t), queue.Topology{}))
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return r, nc
}

// job is an invocation of a name, with metadata in pairs.
func job(name string, metadata ...string) runner.Job {
	inv := contracts.Invocation{ID: contracts.NewID(), Kind: contracts.KindManual, Name: name}.WithDefaults()
	for i := 0; i < len(metadata); i += 2 {
		if inv.Metadata == nil {
			inv.Metadata = map[string]string{}
		}
		inv.Metadata[metadata[i]] = metadata[i+1]
	}
	return runner.Job{Invocation: inv, Attempt: 1, Run: contracts.NewRun()}
}

// The real responder against the real exchange is held to what every runner owes.
func TestRunner(t *testing.T) {
	var alive atomic.Int64
	handle := func(ctx context.Context, task *runnel.Task) error {
		switch task.Command[0] {
		case "fails":
			return &runnel.ExitError{Code: 3}
		case "writes":
			var n int
			fmt.Sscan(task.Command[1], &n)
			for _, w := range []interface{ Write([]byte) (int, error) }{task.Stdout, task.Stderr} {
				if _, err := w.Write(runnertest.Pattern(n)); err != nil {
					return err
				}
			}
		case "hangs":
			alive.Add(1)
			defer alive.Add(-1)
			if _, err := task.Stdout.Write([]byte("ready\n")); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}
	do := func(command ...string) runner.Job {
		j := job("suite")
		j.Command = command
		return j
	}
	runnertest.Run(t, func(t *testing.T) runner.Runner {
		r, nc := exchange(t)
		responder, err := runnel.Handle(nc, "suite", handle)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := responder.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		})
		return r
	}, runnertest.Options{
		Quick:  func(testing.TB) runner.Job { return do("quick") },
		Fails:  func(testing.TB) runner.Job { return do("fails") },
		Writes: func(_ testing.TB, n int) runner.Job { return do("writes", fmt.Sprint(n)) },
		Hangs: func(testing.TB) (runner.Job, func() bool) {
			return do("hangs"), func() bool { return alive.Load() > 0 }
		},
		Rejected: map[string]func(testing.TB) runner.Job{
			"nobody listens":     func(testing.TB) runner.Job { return job("nobody", "manual.no_responder", "reject") },
			"no such choice":     func(testing.TB) runner.Job { return job("suite", "manual.no_responder", "Wait") },
			"heartbeat 0":        func(testing.TB) runner.Job { return job("suite", "manual.heartbeat_seconds", "0") },
			"heartbeat NaN":      func(testing.TB) runner.Job { return job("suite", "manual.heartbeat_seconds", "NaN") },
			"heartbeat of a day": func(testing.TB) runner.Job { return job("suite", "manual.heartbeat_seconds", "86400") },
			"no such setting":    func(testing.TB) runner.Job { return job("suite", "manual.norespnder", "wait") },
			"too large": func(testing.TB) runner.Job {
				j := do("x", strings.Repeat("\x01", 100<<10)) // six bytes each in JSON
				return j
			},
		},
	})
}

// responder answers every request of "raw" with what say makes of it, as a program in another language would.
func responder(t *testing.T, nc *nats.Conn, say func(request contracts.ManualRequest, send func(map[string]any))) {
	t.Helper()
	sub, err := nc.Subscribe("runnel.manual.raw", func(m *nats.Msg) {
		request, err := contracts.Decode[contracts.ManualRequest](m.Data, contracts.Meta{ContentType: m.Header.Get("Content-Type")})
		if err == nil {
			err = request.Validate()
		}
		if err != nil {
			t.Errorf("request %s: %v", m.Data, err)
		}
		say(request, func(reply map[string]any) {
			data, err := json.Marshal(reply)
			if err != nil {
				t.Error(err)
			}
			if err := m.Respond(data); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
}

type fields = map[string]any

// A stranger's responder that breaks the protocol is bounded: the work fails, or is tried again, and says why (E25).
func TestBadResponders(t *testing.T) {
	right := func(q contracts.ManualRequest, more fields) fields {
		out := fields{"type": "accepted", "invocation_id": q.Invocation.ID, "run": q.Run}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	output := func(q contracts.ManualRequest, n int) fields {
		return right(q, fields{"type": "output", "n": n, "pieces": []fields{{"stream": "stdout", "data": "aGkK"}}})
	}
	ended := fields{"type": "outcome", "outcome": fields{"status": "succeeded"}}
	tests := map[string]struct {
		say   func(q contracts.ManualRequest, send func(fields))
		says  string
		again bool // an error, so that it is tried again
	}{
		"another id": {func(q contracts.ManualRequest, send func(fields)) {
			send(right(q, fields{"invocation_id": "other", "type": "outcome", "outcome": ended["outcome"]}))
		}, `spoke of invocation "other"`, false},
		"another run": {func(q contracts.ManualRequest, send func(fields)) {
			send(right(q, fields{"run": "aaaaaaaa", "type": "outcome", "outcome": ended["outcome"]}))
		}, `spoke of run "aaaaaaaa"`, false},
		"no id": {func(q contracts.ManualRequest, send func(fields)) {
			send(fields{"type": "accepted", "run": q.Run})
		}, "invocation_id", false},
		"an unknown field": {func(q contracts.ManualRequest, send func(fields)) { send(right(q, fields{"exitcode": 1})) }, "exitcode", false},
		"an unknown type":  {func(q contracts.ManualRequest, send func(fields)) { send(right(q, fields{"type": "done"})) }, "type", false},
		"an unknown status": {func(q contracts.ManualRequest, send func(fields)) {
			send(right(q, fields{"type": "outcome", "outcome": fields{"status": "ok"}}))
		}, "outcome.status", false},
		"a lost output": {func(q contracts.ManualRequest, send func(fields)) { send(output(q, 2)) }, "output message 1", true},
		"lost outputs before the outcome": {func(q contracts.ManualRequest, send func(fields)) {
			send(output(q, 1))
			send(right(q, fields{"type": "outcome", "n": 3, "outcome": ended["outcome"]}))
		}, "sent 3 output messages, 1 arrived", true},
		"declines what it took": {func(q contracts.ManualRequest, send func(fields)) {
			send(right(q, nil))
			send(right(q, fields{"type": "declined", "text": "I am tired"}))
		}, "gave it back: I am tired", true},
		"silence after a word": {func(q contracts.ManualRequest, send func(fields)) { send(right(q, nil)) }, "has said nothing for", true},
		"silence":              {func(contracts.ManualRequest, func(fields)) {}, "took the request and has said nothing", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, nc := exchange(t)
			responder(t, nc, test.say)
			beat := "0.2"
			if !strings.HasPrefix(name, "silence") {
				beat = "20"
			}
			sink := &runnertest.Sink{}
			outcome, err := r.Run(t.Context(), job("raw", "manual.heartbeat_seconds", beat), sink)
			sink.Close()
			text := outcome.Error
			if test.again {
				if err == nil {
					t.Fatalf("Run() = %+v, want an error: another worker may try", outcome)
				}
				text = err.Error()
			} else if err != nil || outcome.Status != contracts.StatusFailed || outcome.Reason != contracts.ReasonInfra {
				t.Fatalf("Run() = %+v, %v, want failed/infra", outcome, err)
			}
			if !strings.Contains(text, test.says) {
				t.Errorf("error = %q, want %q in it", text, test.says)
			}
		})
	}
}

// The smallest responder there can be: one message back.
func TestOneMessageIsEnough(t *testing.T) {
	r, nc := exchange(t)
	responder(t, nc, func(q contracts.ManualRequest, send func(fields)) {
		send(fields{"type": "outcome", "invocation_id": q.Invocation.ID, "run": q.Run, "outcome": fields{
			"status": "failed", "exit_code": 3, "error_summary": "no", "tail": []fields{{"stream": "stderr", "data": "aGkK"}},
		}})
		send(fields{"type": "outcome", "invocation_id": q.Invocation.ID, "run": q.Run, "outcome": fields{"status": "succeeded"}}) // too late
	})
	sink := &runnertest.Sink{}
	o, err := r.Run(t.Context(), job("raw"), sink)
	if err != nil || o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonExit || o.ExitCode == nil || *o.ExitCode != 3 || o.Error != "no" {
		t.Errorf("Run() = %+v, %v, want failed with 3", o, err)
	}
	if sink.Stderr() != "hi\n" {
		t.Errorf("stderr = %q, want hi", sink.Stderr())
	}
}

// Of two that answer, outside of the queue group, the first has it.
func TestTheFirstResponderHasIt(t *testing.T) {
	r, nc := exchange(t)
	for _, who := range []string{"a", "b"} {
		responder(t, nc, func(q contracts.ManualRequest, send func(fields)) {
			send(fields{"type": "output", "n": 1, "responder": who, "invocation_id": q.Invocation.ID, "run": q.Run, "pieces": []fields{{"stream": "stdout", "data": "aGkK"}}})
			send(fields{"type": "outcome", "n": 1, "responder": who, "invocation_id": q.Invocation.ID, "run": q.Run, "outcome": fields{"status": "succeeded"}})
		})
	}
	sink := &runnertest.Sink{}
	o, err := r.Run(t.Context(), job("raw"), sink)
	if err != nil || o.Status != contracts.StatusSucceeded || sink.Stdout() != "hi\n" {
		t.Errorf("Run() = %+v, %v, output %q, want one of the two", o, err, sink.Stdout())
	}
}

// Where nobody listens the run waits, takes who comes, and has an end.
func TestWaitsForAResponder(t *testing.T) {
	r, nc := exchange(t)
	j := job("late")
	j.Patience = 50 * time.Millisecond
	if _, err := r.Run(t.Context(), j, &runnertest.Sink{}); !errors.Is(err, runner.ErrQueueTimeout) {
		t.Errorf("Run() = %v, want %v", err, runner.ErrQueueTimeout)
	}
	done := make(chan error, 1)
	go func() {
		o, err := r.Run(context.Background(), job("late"), &runnertest.Sink{})
		if err == nil && o.Status != contracts.StatusSucceeded {
			err = fmt.Errorf("outcome %+v", o)
		}
		done <- err
	}()
	responder, err := runnel.Handle(nc, "late", func(context.Context, *runnel.Task) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer responder.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run() = %v", err)
		}
	case <-time.After(runnertest.Limit):
		t.Error("the responder that came is not asked")
	}
}

// A person's word ends the run, once, whether or not a responder is at it.
func TestAPersonAnswers(t *testing.T) {
	for _, name := range []string{"busy", "nobody"} {
		t.Run(name, func(t *testing.T) {
			r, nc := exchange(t)
			stopped := make(chan error, 1)
			responder, err := runnel.Handle(nc, "busy", func(ctx context.Context, task *runnel.Task) error {
				fmt.Fprintln(task.Stdout, "working")
				<-ctx.Done()
				stopped <- context.Cause(ctx)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer responder.Close()
			j := job(name)
			type said struct {
				o   contracts.Outcome
				err error
			}
			done, working := make(chan said, 1), make(chan struct{}, 10)
			sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error { working <- struct{}{}; return nil }}
			go func() {
				o, err := r.Run(context.Background(), j, sink)
				done <- said{o, err}
			}()
			if name == "busy" {
				<-working
			}
			answer := func(id, name string) (contracts.ManualReceipt, error) {
				data, err := contracts.EncodeJSON(contracts.ManualAnswer{ID: id, Answer: name, Outcome: contracts.ManualOutcome{
					Status: contracts.StatusSucceeded, Tail: []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("approved\n")}},
				}})
				if err != nil {
					t.Fatal(err)
				}
				m, err := nc.Request("runnel.answer.default."+j.ID, data, 300*time.Millisecond)
				if err != nil {
					return contracts.ManualReceipt{}, err
				}
				return contracts.Decode[contracts.ManualReceipt](m.Data, contracts.Meta{})
			}
			if got, err := answer("another", "aaaaaaaabbbbbbbb"); err == nil {
				t.Errorf("an answer to another id is taken: %+v", got)
			}
			mine := "abcdefghabcdefgh"
			for {
				got, err := answer(j.ID, mine)
				if err == nil {
					if got.Answer != mine {
						t.Errorf("receipt = %+v, want %s", got, mine)
					}
					break
				}
			}
			if got, err := answer(j.ID, "aaaaaaaabbbbbbbb"); err == nil && got.Answer != mine {
				t.Errorf("a second answer is taken: %+v", got)
			}
			e := <-done
			if e.err != nil || e.o.Status != contracts.StatusSucceeded || e.o.Metadata["manual.answer"] != mine {
				t.Errorf("Run() = %+v, %v, want the person's word", e.o, e.err)
			}
			if !strings.HasSuffix(sink.Stdout(), "approved\n") {
				t.Errorf("stdout = %q, want what came with the answer", sink.Stdout())
			}
			if name == "busy" {
				if err := <-stopped; !errors.Is(err, runnel.ErrStopped) || !strings.Contains(err.Error(), "answered") {
					t.Errorf("the handler's context ended with %v, want ErrStopped: answered", err)
				}
			}
		})
	}
}

// A worker that is gone is noticed by what its responders say into the void.
func TestAResponderStopsForNobody(t *testing.T) {
	node := queuetest.Server(t)
	stopped := make(chan error, 1)
	responder, err := runnel.Handle(node.Connect(t), "orphan", func(ctx context.Context, task *runnel.Task) error {
		fmt.Fprintln(task.Stdout, "working")
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer responder.Close()
	theirs := node.Connect(t)
	r := manual.New(queue.NewManual(theirs, queue.Topology{}))
	sink := &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error { theirs.Close(); return nil }}
	ctx, cancel := context.WithTimeout(t.Context(), runnertest.Limit)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		j := job("orphan", "manual.heartbeat_seconds", "0.1")
		j.Stop = &contracts.Stop{GraceSeconds: new(0.0)}
		_, _ = r.Run(ctx, j, sink)
	}()
	select {
	case err := <-stopped:
		if !errors.Is(err, runnel.ErrNobodyWaits) {
			t.Errorf("the handler's context ended with %v, want ErrNobodyWaits", err)
		}
	case <-ctx.Done():
		t.Error("the responder works on for nobody")
	}
	cancel()
	<-gone
}

//go:build linux || darwin

package runnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

// manualFleet is a worker of kind manual, a client, and a connection for responders.
func manualFleet(t *testing.T) (*runnel.Client, *nats.Conn) {
	t.Helper()
	return fleet(t, embedded.Config{Worker: embedded.WorkerConfig{Kinds: []string{"manual"}, Slots: 8}})
}

func handle(t *testing.T, nc *nats.Conn, name string, h runnel.Handler, opts ...runnel.Option) *runnel.Responder {
	t.Helper()
	r, err := runnel.Handle(nc, name, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return r
}

func TestHandle(t *testing.T) {
	t.Parallel()
	c, nc := manualFleet(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // 3.2 MB: three windows
	handle(t, nc, "work", func(ctx context.Context, task *runnel.Task) error {
		switch task.Command[0] {
		case "echo":
			in, err := task.OpenStdin(ctx)
			if err != nil {
				return err
			}
			defer in.Close()
			task.SetMetadata("attempt", fmt.Sprint(task.Attempt))
			_, err = io.Copy(task.Stdout, in)
			return err
		case "exit":
			return fmt.Errorf("wrapped: %w", &runnel.ExitError{Code: 7, Text: "seven"})
		case "fail":
			return errors.New("no")
		case "reject":
			return &runnel.RejectedError{Text: "not you"}
		case "panic":
			panic(strings.Repeat("x", 10_000))
		case "goexit":
			runtime.Goexit()
		case "progress":
			fmt.Fprint(task.Stdout, "a")
			if err := task.Progress(0.5, "half\nway"); err != nil {
				return err
			}
			fmt.Fprint(task.Stdout, "b")
		case "metadata":
			task.SetMetadata("x", strings.Repeat("y", 1<<20))
		}
		return nil
	})
	tests := map[string]struct {
		stdin  []byte
		status runnel.Status
		reason runnel.Reason
		code   int // -1 is none
		out    string
		says   string
	}{
		"echo":     {big, runnel.StatusSucceeded, "", 0, string(big), ""},
		"exit":     {nil, runnel.StatusFailed, runnel.ReasonExit, 7, "", "wrapped: seven"},
		"fail":     {nil, runnel.StatusFailed, runnel.ReasonExit, 1, "", "no"},
		"reject":   {nil, runnel.StatusRejected, runnel.ReasonNotAllowed, -1, "", "not you"},
		"panic":    {nil, runnel.StatusFailed, runnel.ReasonExit, 2, "", "panic: xxx"},
		"goexit":   {nil, runnel.StatusFailed, runnel.ReasonExit, 1, "", "ended its goroutine"},
		"progress": {nil, runnel.StatusSucceeded, "", 0, "ab", ""},
		"metadata": {nil, runnel.StatusSucceeded, "", 0, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out, progress bytes.Buffer
			inv := runnel.Invocation{Kind: runnel.KindManual, Name: "work", Command: []string{name}, TimeoutSeconds: 60}
			opts := runnel.RunOptions{Stdout: &out, Stderr: &progress}
			if test.stdin != nil {
				opts.Stdin = bytes.NewReader(test.stdin)
			}
			r, err := c.Run(t.Context(), inv, opts)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != test.status || r.Reason != test.reason || !strings.Contains(r.Error, test.says) {
				t.Errorf("result = %s/%s %q, want %s/%s %q", r.Status, r.Reason, r.Error, test.status, test.reason, test.says)
			}
			if r.ExitCode == nil != (test.code == -1) || r.ExitCode != nil && *r.ExitCode != test.code {
				t.Errorf("exit code = %v, want %d", r.ExitCode, test.code)
			}
			if out.String() != test.out {
				t.Errorf("stdout has %d bytes, want %d", out.Len(), len(test.out))
			}
			if name == "progress" && progress.String() != "50% half way\n" {
				t.Errorf("stderr = %q, want the progress", progress.String())
			}
			if name == "echo" && r.Metadata["attempt"] != "1" {
				t.Errorf("metadata = %v, want what the handler set", r.Metadata)
			}
		})
	}
}

func TestHandleIsCancelled(t *testing.T) {
	t.Parallel()
	c, nc := manualFleet(t)
	stopped := make(chan error, 2)
	handle(t, nc, "slow", func(ctx context.Context, task *runnel.Task) error {
		fmt.Fprintln(task.Stdout, "begun")
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return nil
	})
	receipt, err := c.Submit(t.Context(), runnel.Invocation{Kind: runnel.KindManual, Name: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Watch(t.Context(), receipt.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == runnel.EventOutput {
			break
		}
	}
	report, err := c.Cancel(t.Context(), receipt.ID)
	if err != nil || report.Status != runnel.StatusCancelled || !strings.Contains(report.Killed, "told to stop") {
		t.Errorf("Cancel() = %+v, %v, want cancelled, and who was told", report, err)
	}
	if err := <-stopped; !errors.Is(err, runnel.ErrStopped) || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("the context ended with %v, want ErrStopped: cancelled", err)
	}

	r, err := c.Run(t.Context(), runnel.Invocation{Kind: runnel.KindManual, Name: "slow", TimeoutSeconds: 0.3}, runnel.RunOptions{})
	if err != nil || r.Status != runnel.StatusTimedOut || r.Reason != runnel.ReasonTimeout {
		t.Errorf("Run() = %s/%s, %v, want timed_out/timeout", r.Status, r.Reason, err)
	}
	if err := <-stopped; !errors.Is(err, runnel.ErrStopped) || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("the context ended with %v, want ErrStopped: timeout", err)
	}
	r, err = c.Run(t.Context(), runnel.Invocation{Kind: runnel.KindManual, Name: "nobody", QueueTimeoutSeconds: 0.3}, runnel.RunOptions{})
	if err != nil || r.Status != runnel.StatusTimedOut || r.Reason != runnel.ReasonQueueTimeout {
		t.Errorf("Run() = %s/%s, %v, want timed_out/queue_timeout", r.Status, r.Reason, err)
	}
}

// A responder with one place declines the rest; none is lost, and no more than one runs.
func TestHandleConcurrency(t *testing.T) {
	t.Parallel()
	c, nc := manualFleet(t)
	var at, most, order atomic.Int64
	around := func(add int64) runnel.Middleware {
		return func(next runnel.Handler) runnel.Handler {
			return func(ctx context.Context, task *runnel.Task) error {
				order.Store(order.Load()*10 + add)
				return next(ctx, task)
			}
		}
	}
	handle(t, nc, "one", func(context.Context, *runnel.Task) error {
		most.Store(max(most.Load(), at.Add(1)))
		time.Sleep(5 * time.Millisecond) // long enough for others to come
		at.Add(-1)
		if got := order.Swap(0); got != 12 {
			return fmt.Errorf("middleware ran in the order %d, want 1 before 2", got)
		}
		return nil
	}, runnel.WithConcurrency(1), runnel.WithMiddleware(around(1), around(2)))
	n := 0
	for r, err := range c.RunAll(t.Context(), func(yield func(runnel.Invocation) bool) {
		for range 20 {
			if !yield(runnel.Invocation{Kind: runnel.KindManual, Name: "one"}) {
				return
			}
		}
	}) {
		if err != nil || r.Status != runnel.StatusSucceeded {
			t.Fatalf("result %s: %s %s, %v", r.ID, r.Status, r.Error, err)
		}
		n++
	}
	if n != 20 || most.Load() != 1 {
		t.Errorf("%d results, %d at once, want 20 and 1", n, most.Load())
	}
}

// What a closing responder gives back another one does.
func TestHandleCloses(t *testing.T) {
	t.Parallel()
	c, nc := manualFleet(t)
	begun := make(chan struct{}, 10)
	first := handle(t, nc, "handed", func(ctx context.Context, _ *runnel.Task) error {
		begun <- struct{}{}
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), runnel.ErrClosing) {
			t.Errorf("the context ended with %v, want ErrClosing", context.Cause(ctx))
		}
		return context.Cause(ctx)
	})
	receipt, err := c.Submit(t.Context(), runnel.Invocation{Kind: runnel.KindManual, Name: "handed"})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := first.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	draining := make(chan struct{})
	second := handle(t, nc, "handed", func(context.Context, *runnel.Task) error {
		begun <- struct{}{}
		<-draining
		return nil
	})
	<-begun
	drained := make(chan error, 1)
	go func() { drained <- second.Drain(context.Background()) }()
	close(draining)
	for r, err := range c.Wait(t.Context(), receipt.ID) {
		if err != nil || r.Status != runnel.StatusSucceeded || r.Attempt != 1 {
			t.Errorf("result = %s, attempt %d, %v, want succeeded: what was given back is not counted", r.Status, r.Attempt, err)
		}
	}
	if err := <-drained; err != nil {
		t.Errorf("Drain() = %v", err)
	}
}

func TestHandleRefuses(t *testing.T) {
	t.Parallel()
	_, nc := manualFleet(t)
	nothing := func(context.Context, *runnel.Task) error { return nil }
	for name, test := range map[string]struct {
		nc      *nats.Conn
		name    string
		handler runnel.Handler
		opts    []runnel.Option
	}{
		"no connection":        {nil, "a", nothing, nil},
		"no handler":           {nc, "a", nil, nil},
		"no name":              {nc, "", nothing, nil},
		"a wildcard":           {nc, "*", nothing, nil},
		"two tokens":           {nc, "a.b", nothing, nil},
		"a prefix with a dot":  {nc, "a", nothing, []runnel.Option{runnel.WithPrefix("a.b")}},
		"negative concurrency": {nc, "a", nothing, []runnel.Option{runnel.WithConcurrency(-1)}},
	} {
		if r, err := runnel.Handle(test.nc, test.name, test.handler, test.opts...); err == nil {
			r.Close()
			t.Errorf("%s: Handle() is no error", name)
		}
	}
}

// A stranger's requests are not answered, and do not end a responder.
func TestHandleSurvivesStrangers(t *testing.T) {
	t.Parallel()
	c, nc := manualFleet(t)
	var problems atomic.Int64
	handle(t, nc, "sturdy", func(context.Context, *runnel.Task) error { return nil }, runnel.WithProblems(func(error) { problems.Add(1) }))
	for _, body := range []string{"", "{", "{}", "\xc1", `{"invocation":{}}`, strings.Repeat("x", 600<<10)} {
		if err := nc.PublishRequest("runnel.manual.sturdy", nc.NewInbox(), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.Run(t.Context(), runnel.Invocation{Kind: runnel.KindManual, Name: "sturdy"}, runnel.RunOptions{})
	if err != nil || r.Status != runnel.StatusSucceeded {
		t.Errorf("Run() = %s, %v, want succeeded", r.Status, err)
	}
	if problems.Load() != 6 {
		t.Errorf("%d problems are told, want 6", problems.Load())
	}
}

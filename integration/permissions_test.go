//go:build linux || darwin

package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// A worker and a submitter live on what deploy/nats/users.conf lets them do:
// all that a client can be asked for works, and the server denies nothing.
func TestExamplePermissionsSuffice(t *testing.T) {
	node := queuetest.ServerOf(t, "secured.conf")
	var mu sync.Mutex
	var denied []string
	connect := func(user string) *nats.Conn {
		return node.Connect(t, nats.UserInfo(user, "change-me-"+user), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, user+": "+err.Error())
		}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	js, err := jetstream.New(connect("operator"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(ctx, js, queue.Topology{}); err != nil {
		t.Fatal(err)
	}

	working, stop := context.WithCancel(ctx)
	ready, over := make(chan struct{}), make(chan error, 1)
	control, data := connect("worker"), connect("worker")
	go func() {
		over <- embedded.Work(working, control, data, embedded.WorkerConfig{
			Name: "w", Slots: 2, WorkDir: t.TempDir(), Kinds: []string{"subprocess", "manual"}, Ready: func(string) { close(ready) },
		})
	}()
	defer func() {
		stop()
		if err := <-over; err != nil {
			t.Errorf("Work() = %v", err)
		}
	}()
	select {
	case <-ready:
	case err := <-over:
		over <- nil
		t.Fatalf("Work() as worker = %v before it was ready", err)
	}

	client, err := runnel.New(connect("submitter"), runnel.WithFollowConn(connect("submitter")))
	if err != nil {
		t.Fatal(err)
	}
	// Input beyond the message cap, output, a file.
	input := make([]byte, 2<<20)
	rand.Read(input)
	var output bytes.Buffer
	res, err := client.Run(ctx, sh(`cat; echo left > "$RUNNEL_ARTIFACTS/a"`), runnel.RunOptions{Stdin: bytes.NewReader(input), Stdout: &output})
	if err != nil || res.Status != runnel.StatusSucceeded || !bytes.Equal(output.Bytes(), input) {
		t.Fatalf("Run() = %+v, %v with %d bytes, want %d", res, err, output.Len(), len(input))
	}
	dir := t.TempDir()
	if _, err := client.Download(ctx, res.ID, dir); err != nil {
		t.Errorf("Download() = %v", err)
	} else if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "left\n" {
		t.Errorf("the file that was left = %q, %v", b, err)
	}
	// A running job is cancelled by its holder.
	running, err := client.Submit(ctx, sh("echo up; sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range client.Watch(ctx, running.ID) {
		if err != nil {
			t.Fatalf("Watch() = %v", err)
		}
		if e.Type == runnel.EventOutput || e.Type == runnel.EventStarted {
			break
		}
	}
	if c, err := client.Cancel(ctx, running.ID); err != nil || c.Status != runnel.StatusCancelled {
		t.Errorf("Cancel() of a running one = %+v, %v", c, err)
	}
	// A responder has rights of its own; output beyond a window, so that it needs the worker's acknowledgements.
	responder, err := runnel.Handle(connect("responder"), "greet", func(_ context.Context, task *runnel.Task) error {
		_, err := task.Stdout.Write(input)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	output.Reset()
	res2, err := client.Run(ctx, runnel.Invocation{Kind: runnel.KindManual, Name: "greet"}, runnel.RunOptions{Stdout: &output})
	if err != nil || res2.Status != runnel.StatusSucceeded || !bytes.Equal(output.Bytes(), input) {
		t.Errorf("Run() of a responder = %+v, %v with %d bytes, want %d", res2, err, output.Len(), len(input))
	}
	if err := responder.Close(); err != nil {
		t.Errorf("Close() of a responder = %v", err)
	}
	// A sandbox: its submitter's calls, and the answers of its worker. Input beyond a window, so that both acknowledge.
	box, err := client.Submit(ctx, runnel.Invocation{
		Kind: runnel.KindContainer, Pool: "nobody", Container: &runnel.Container{Image: "x", Sandbox: &runnel.SandboxLimits{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	shut, err := queue.NewSandboxes(data, queue.Topology{}).Serve("default", box.ID, echoes{})
	if err != nil {
		t.Fatalf("Serve() as worker = %v", err)
	}
	output.Reset()
	done, err := client.Sandbox(box.ID).Exec(ctx, runnel.ExecRequest{Command: []string{"echo"}, Stdin: bytes.NewReader(input), Stdout: &output})
	if err != nil || done.Status != runnel.StatusSucceeded || !bytes.Equal(output.Bytes(), input) {
		t.Errorf("Exec() = %+v, %v with %d bytes, want %d", done, err, output.Len(), len(input))
	}
	shut()
	// What no worker takes: cancelled, and withdrawn.
	waiting := sh("true")
	waiting.Pool = "nobody"
	for what, do := range map[string]func(string) error{
		"Cancel": func(id string) error {
			c, err := client.Cancel(ctx, id)
			if err == nil && c.Status != runnel.StatusCancelled {
				err = errors.New(string(c.Status))
			}
			return err
		},
		"Withdraw": func(id string) error { return client.Withdraw(ctx, id) },
	} {
		r, err := client.Submit(ctx, waiting)
		if err != nil {
			t.Fatal(err)
		}
		if err := do(r.ID); err != nil {
			t.Errorf("%s() of a waiting one = %v", what, err)
		}
	}
	for r, err := range client.SubmitAll(ctx, slices.Values([]runnel.Invocation{sh("true"), sh("false")})) {
		if err != nil {
			t.Fatalf("SubmitAll() = %v", err)
		}
		for res, err := range client.Wait(ctx, r.ID) {
			if err != nil || !res.Status.Ended() {
				t.Errorf("Wait() = %+v, %v", res, err)
			}
		}
	}
	if info, err := client.Get(ctx, res.ID); err != nil || info.Status != runnel.StatusSucceeded {
		t.Errorf("Get() = %+v, %v", info, err)
	}
	if id, err := client.Resolve(ctx, res.ID[:8]); err != nil || id != res.ID {
		t.Errorf("Resolve() = %s, %v", id, err)
	}
	for _, err := range client.List(ctx, runnel.ListOptions{}) {
		if err != nil {
			t.Errorf("List() = %v", err)
		}
	}
	if ws, err := client.Workers(ctx); err != nil || len(ws) != 1 {
		t.Errorf("Workers() = %v, %v", ws, err)
	}
	if ok, err := client.Served(ctx, runnel.KindSubprocess, "default"); err != nil || !ok {
		t.Errorf("Served() = %v, %v", ok, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, d := range denied {
		t.Errorf("denied: %s", d)
	}
}

// echoes is a sandbox whose every command is cat.
type echoes struct{}

func (echoes) Close() {}

func (echoes) Exec(_ context.Context, w contracts.SandboxWork) contracts.SandboxOutcome {
	if _, err := io.Copy(w.Stdout, w.Stdin); err != nil {
		return contracts.SandboxOutcome{Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, Error: err.Error()}
	}
	return contracts.SandboxOutcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}
}

func sh(script string) runnel.Invocation {
	return runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", script}}
}

package runnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet starts NATS and a worker in this process and returns a client, and its connection.
func fleet(t *testing.T, cfg embedded.Config) (*runnel.Client, *nats.Conn) {
	t.Helper()
	ctx := within(t)
	node, err := embedded.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := node.Close(end); err != nil {
			t.Error(err)
		}
	})
	closed := make(chan struct{})
	nc, err := node.Connect(append(runnel.ConnectOptions("test"), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); <-closed })
	client, err := runnel.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return client, nc
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestNewRefuses(t *testing.T) {
	if _, err := runnel.New(nil); err == nil {
		t.Error("New() without a connection, want an error")
	}
	_, nc := fleet(t, embedded.Config{NoWorker: true})
	for name, o := range map[string]runnel.Option{"tenant": runnel.WithTenant("a.b"), "prefix": runnel.WithPrefix("A")} {
		if _, err := runnel.New(nc, o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New() with a bad %s = %v, want an error that names it", name, err)
		}
	}
}

// Input of every size comes back as it was, whether it fits into a message or not.
func TestRunStdin(t *testing.T) {
	client, _ := fleet(t, embedded.Config{})
	for _, size := range []int{0, 1, runnel.MaxInlineStdinBytes, runnel.MaxInlineStdinBytes + 1, 3 << 20} {
		in := make([]byte, size)
		if _, err := rand.Read(in); err != nil {
			t.Fatal(err)
		}
		cat := runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"cat"}}
		var out bytes.Buffer
		result, err := client.Run(within(t), cat, runnel.RunOptions{Stdin: bytes.NewReader(in), Stdout: &out})
		if err != nil || result.Status != runnel.StatusSucceeded {
			t.Fatalf("Run() with %d bytes = %+v, %v", size, result, err)
		}
		if !bytes.Equal(out.Bytes(), in) {
			t.Errorf("%d bytes of stdin came back as %d others", size, out.Len())
		}
		if size == 0 {
			continue
		}
		// In the invocation it is the same, and so is its digest, however it travels.
		cat.ID = "stdin-" + runnel.NewID()
		cat.Stdin = &runnel.Input{Data: in}
		first, err := client.Submit(within(t), cat)
		if err != nil {
			t.Fatal(err)
		}
		cat.Stdin = nil
		if again, err := client.SubmitReader(within(t), cat, bytes.NewReader(in)); err != nil || !again.Existed || again.Digest != first.Digest {
			t.Errorf("SubmitReader() of the same = %+v, %v, want it to exist", again, err)
		}
	}
}

// A file is read twice, from where it stands, and not copied to another.
func TestSubmitReaderOfAFileMakesNoCopy(t *testing.T) {
	client, _ := fleet(t, embedded.Config{})
	in := make([]byte, 3<<20)
	if _, err := rand.Read(in); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(name, in, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Seek(100, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "nowhere"))
	ctx := within(t)
	receipt, err := client.SubmitReader(ctx, runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"cat"}}, file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for event, err := range client.Watch(ctx, receipt.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Type == runnel.EventOutput {
			out.Write(event.Output.Data)
		}
	}
	if !bytes.Equal(out.Bytes(), in[100:]) {
		t.Errorf("%d bytes came back as %d others", len(in)-100, out.Len())
	}
}

func TestRunRefusesWithoutATrace(t *testing.T) {
	client, nc := fleet(t, embedded.Config{NoWorker: true})
	ctx := within(t)
	large := strings.NewReader(strings.Repeat("x", runnel.MaxInlineStdinBytes+1))
	var bad *runnel.ValidationError
	if _, err := client.Run(ctx, runnel.Invocation{Kind: runnel.KindSubprocess}, runnel.RunOptions{Stdin: large}); !errors.As(err, &bad) {
		t.Errorf("Run() without a command = %v, want a ValidationError", err)
	}
	both := runnel.Invocation{Kind: runnel.KindNoop, Stdin: &runnel.Input{Data: []byte("a")}}
	if _, err := client.Run(ctx, both, runnel.RunOptions{Stdin: strings.NewReader("b")}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("Run() with stdin twice = %v, want an error", err)
	}
	broken := errors.New("broken pipe")
	if _, err := client.SubmitReader(ctx, runnel.Invocation{Kind: runnel.KindNoop}, io.MultiReader(strings.NewReader("x"), fail{broken})); !errors.Is(err, broken) {
		t.Errorf("SubmitReader() of what cannot be read = %v, want the reader's error", err)
	}
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for name := range js.StreamNames() {
		info, err := js.StreamInfo(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "OBJ_") || info.State.Msgs > 0 {
			t.Errorf("stream %s has %d messages, want no trace", name, info.State.Msgs)
		}
	}
}

type fail struct{ error }

func (f fail) Read([]byte) (int, error)  { return 0, f.error }
func (f fail) Write([]byte) (int, error) { return 0, f.error }

func TestRunOptions(t *testing.T) {
	client, _ := fleet(t, embedded.Config{})
	var out, errs bytes.Buffer
	var events []runnel.EventType
	var receipt runnel.Receipt
	result, err := client.Run(within(t), sh("echo out; echo err >&2; exit 3"), runnel.RunOptions{
		Stdout: &out, Stderr: &errs,
		OnReceipt: func(r runnel.Receipt) { receipt = r },
		OnEvent:   func(e runnel.Event) { events = append(events, e.Type) },
	})
	if err != nil || result.Status != runnel.StatusFailed || result.ExitCode == nil || *result.ExitCode != 3 {
		t.Errorf("Run() = %+v, %v, want exit code 3", result, err)
	}
	if out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("the output is %q and %q", out.String(), errs.String())
	}
	if receipt.ID == "" || receipt.ID != result.ID || receipt.Digest != result.Digest {
		t.Errorf("the receipt is %+v of %s", receipt, result.ID)
	}
	if len(events) < 3 || events[0] != runnel.EventStarted || events[len(events)-1] != runnel.EventResult || !slices.Contains(events, runnel.EventOutput) {
		t.Errorf("the events are %v", events)
	}
	full := errors.New("disk full")
	if _, err := client.Run(within(t), sh("echo out"), runnel.RunOptions{Stdout: fail{full}}); !errors.Is(err, full) {
		t.Errorf("Run() into a writer that fails = %v, want its error", err)
	}
}

// When its context ends, Run takes what it started back.
func TestRunCancels(t *testing.T) {
	client, _ := fleet(t, embedded.Config{})
	cause := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(context.Background())
	result, err := client.Run(ctx, sh("echo on; sleep 600"), runnel.RunOptions{OnEvent: func(e runnel.Event) {
		if e.Type == runnel.EventOutput {
			cancel(cause)
		}
	}})
	if !errors.Is(err, cause) || result.Status != runnel.StatusCancelled {
		t.Errorf("Run() = %+v, %v, want it cancelled for the cause", result, err)
	}
	if info, err := client.Get(within(t), result.ID); err != nil || info.Status != runnel.StatusCancelled {
		t.Errorf("Get() = %+v, %v, want it cancelled", info, err)
	}
}

// What is damaged in the store is said in words of this package, also by a reader.
func TestDamagedArtifact(t *testing.T) {
	client, nc := fleet(t, embedded.Config{})
	ctx := within(t)
	result, err := client.Run(ctx, sh("head -c 1000000 /dev/urandom >$RUNNEL_ARTIFACTS/a"), runnel.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "OBJ_RUNNEL_ARTIFACTS_default")
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := stream.GetLastMsgForSubject(ctx, "$O.RUNNEL_ARTIFACTS_default.C.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(ctx, chunk.Sequence); err != nil {
		t.Fatal(err)
	}
	r, err := client.OpenArtifact(ctx, result.ID, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, runnel.ErrCorrupt) {
		t.Errorf("reading it = %v, want ErrCorrupt", err)
	}
	dir := t.TempDir()
	if _, err := client.Download(ctx, result.ID, dir); !errors.Is(err, runnel.ErrCorrupt) {
		t.Errorf("Download() = %v, want ErrCorrupt", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("Download() of what is damaged left %v, %v", left, err)
	}
}

func TestArtifactErrors(t *testing.T) {
	client, _ := fleet(t, embedded.Config{})
	ctx := within(t)
	waiting, err := client.Submit(ctx, runnel.Invocation{Kind: "teleport"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Artifacts(ctx, waiting.ID); !errors.Is(err, runnel.ErrNotEnded) {
		t.Errorf("Artifacts() of what waits = %v, want ErrNotEnded", err)
	}
	if _, err := client.Artifacts(ctx, "unknown"); !errors.Is(err, runnel.ErrNotFound) {
		t.Errorf("Artifacts() of nothing = %v, want ErrNotFound", err)
	}
	result, err := client.Run(ctx, sh("echo a >$RUNNEL_ARTIFACTS/a"), runnel.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.OpenArtifact(ctx, result.ID, "b"); !errors.Is(err, runnel.ErrNotFound) {
		t.Errorf("OpenArtifact() of no file = %v, want ErrNotFound", err)
	}
	dir := t.TempDir()
	if _, err := client.Download(ctx, result.ID, dir, "b*"); !errors.Is(err, runnel.ErrNotFound) {
		t.Errorf("Download() of no file = %v, want ErrNotFound", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("Download() of no file left %v, %v", left, err)
	}
	bare, err := client.Run(ctx, sh("true"), runnel.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if files, err := client.Artifacts(ctx, bare.ID); err != nil || len(files) > 0 {
		t.Errorf("Artifacts() of a run that left none = %v, %v, want none", files, err)
	}
}

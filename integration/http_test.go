package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// remote is a service that does work for http_async. The work ends once it is released.
type remote struct {
	*httptest.Server
	release atomic.Bool
	polls   atomic.Int64
	cancels atomic.Int64

	mu     sync.Mutex
	starts int
	keys   map[string]int // the run of each idempotency key
}

func serveRemote(t *testing.T) *remote {
	s := &remote{keys: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/cancel/"):
			s.cancels.Add(1)
		case r.Method == http.MethodPost:
			s.mu.Lock()
			key := r.Header.Get("Idempotency-Key")
			run, known := s.keys[key]
			if key == "" || !known {
				s.starts++
				run = s.starts
				s.keys[key] = run
			}
			s.mu.Unlock()
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, `{"id":%d}`, run)
		default:
			s.polls.Add(1)
			state := "running"
			if s.release.Load() {
				state = "completed"
			}
			fmt.Fprintf(w, `{"status":%q,"run":%q}`, state, r.URL.Path)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *remote) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

func (s *remote) invocation(id string, more ...string) contracts.Invocation {
	inv := contracts.Invocation{ID: id, Kind: contracts.KindHTTPAsync, Metadata: map[string]string{
		"http.url": s.URL + "/runs", "http.poll_url_template": s.URL + "/runs/{run_id}", "http.poll_run_id_path": "id", "http.poll_status_path": "status",
		"http.poll_terminal_states": "completed,failed", "http.poll_interval_seconds": "0.05", "http.cancel_url_template": s.URL + "/cancel/{run_id}",
	}}
	for i := 0; i < len(more); i += 2 {
		inv.Metadata[more[i]] = more[i+1]
	}
	return inv
}

// counted is the standard output of the run that a result names, as it is stored.
func counted(t *testing.T, f *fleet.Fleet, r contracts.Result) string {
	t.Helper()
	dump, err := fleet.Dump(t.Context(), f.Conn, f.Topology)
	if err != nil {
		t.Fatal(err)
	}
	chunks := map[int][]contracts.Piece{}
	for _, reply := range dump.Replies {
		if reply.Chunk != nil && reply.Run == r.Run {
			chunks[reply.Chunk.N] = reply.Chunk.Pieces
		}
	}
	var out strings.Builder
	for n := range r.Chunks + 1 {
		pieces := chunks[n+1]
		if n == r.Chunks {
			pieces = r.Tail
		}
		for _, p := range pieces {
			if p.Stream == contracts.Stdout {
				out.Write(p.Data)
			}
		}
	}
	return out.String()
}

// kill -9 of the worker in the middle of http_async: one remote run in total, which the next worker polls on, and one result.
func TestKillWorkerOfHTTPAsync(t *testing.T) {
	// Where the note is published and may not be stored, the service tells by the key that it is asked twice for the same.
	for name, test := range map[string]struct {
		at   queue.Step
		more []string
	}{
		"while it polls":     {"", nil},
		"before it begins":   {queue.StepSpawned, nil},
		"as it notes":        {queue.StepChunkPublished, []string{"http.idempotency_header", "Idempotency-Key"}},
		"result on its way":  {queue.StepResultSent, nil},
		"result not yet ack": {queue.StepResultStored, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.Start(t, fleet.Config{})
			c := f.Client("default", "")
			s := serveRemote(t)
			victim := f.StartWorker(fleet.WorkerConfig{At: test.at})
			id := f.ID("async")
			if strings.HasPrefix(name, "result") {
				s.release.Store(true)
			}
			f.Submit(c, s.invocation(id, test.more...))
			if test.at == "" {
				f.Await("it polls", fleet.Patience, func(context.Context) (bool, string) { n := s.polls.Load(); return n > 3, fmt.Sprint(n) })
			} else {
				victim.Reached(fleet.Patience)
			}
			f.StartWorker(fleet.WorkerConfig{})
			victim.Kill()
			killed, polled := time.Now(), s.polls.Load()
			if !s.release.Load() {
				f.Await("another worker polls", fleet.Patience, func(context.Context) (bool, string) {
					n := s.polls.Load()
					return n > polled+3, fmt.Sprint(n)
				})
				s.release.Store(true)
			}
			r := result(t, c, id, fleet.Patience)
			figure(t, "result after the kill", "%v", since(killed))
			figure(t, "remote runs", "%d", s.started())
			if n := s.started(); n != 1 || s.cancels.Load() != 0 {
				t.Errorf("%d remote runs began, %d were cancelled, want 1 and none", n, s.cancels.Load())
			}
			if r.Status != contracts.StatusSucceeded || r.Attempt != 1 || r.Metadata["http.run_id"] != "1" {
				t.Errorf("result = %+v", r)
			}
			f.Verify()
			if got, want := counted(t, f, r), `{"status":"completed","run":"/runs/1"}`; got != want {
				t.Errorf("output = %q, want %q", got, want)
			}
		})
	}
}

// A cancel reaches the remote run, and a drained worker leaves it to the next.
func TestHTTPAsyncIsToldOfACancelOnly(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	s := serveRemote(t)
	first := f.StartWorker(fleet.WorkerConfig{DrainTimeout: time.Millisecond})
	id := f.ID("async")
	f.Submit(c, s.invocation(id))
	f.Await("it polls", fleet.Patience, func(context.Context) (bool, string) { n := s.polls.Load(); return n > 3, fmt.Sprint(n) })
	first.Terminate()
	if code := first.Ended(fleet.Patience); code != 0 {
		t.Errorf("the drained worker ended with %d", code)
	}
	polled := s.polls.Load()
	f.StartWorker(fleet.WorkerConfig{})
	f.Await("another worker polls", fleet.Patience, func(context.Context) (bool, string) {
		n := s.polls.Load()
		return n > polled+3, fmt.Sprint(n)
	})
	if n := s.cancels.Load(); n != 0 {
		t.Errorf("the remote run was cancelled %d times by a drain", n)
	}
	began := time.Now()
	if _, err := c.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	figure(t, "cancel passed on within", "%v", since(began))
	r := result(t, c, id, fleet.Patience)
	if r.Status != contracts.StatusCancelled || s.cancels.Load() != 1 || s.started() != 1 || !strings.HasPrefix(r.Killed, "the remote run (told") {
		t.Errorf("result = %+v after %d starts and %d cancels", r, s.started(), s.cancels.Load())
	}
	f.Verify()
}

// A cancel while no worker has it reaches the remote run when a worker comes: once, or once more for each that is
// killed between the telling and its record.
func TestCancelOfALostHTTPAsync(t *testing.T) {
	t.Parallel()
	tests := map[string]queue.Step{"drained": ""}
	if rounds(t, 0) > 0 { // a killed worker's job comes to the next after 10 s
		maps.Copy(tests, map[string]queue.Step{"killed": "", "the next before it tells": queue.StepSpawned, "the next after that": queue.StepEndStored})
	}
	for name, at := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.Start(t, fleet.Config{})
			c := f.Client("default", "")
			s := serveRemote(t)
			first := f.StartWorker(fleet.WorkerConfig{DrainTimeout: time.Millisecond})
			id := f.ID("async")
			f.Submit(c, s.invocation(id))
			f.Await("it polls", fleet.Patience, func(context.Context) (bool, string) { n := s.polls.Load(); return n > 3, fmt.Sprint(n) })
			if name == "drained" {
				first.Terminate()
				first.Ended(fleet.Patience)
			} else {
				first.Kill()
			}
			report, err := c.Cancel(t.Context(), id)
			if err != nil || report.Status != contracts.StatusCancelled || report.AlreadyEnded {
				t.Errorf("Cancel() = %+v, %v", report, err)
			}
			if n := s.cancels.Load(); n != 0 {
				t.Errorf("the remote run was told %d times, and nobody was there", n)
			}
			if at != "" {
				middle := f.StartWorker(fleet.WorkerConfig{At: at})
				middle.Reached(fleet.Patience)
				middle.Kill()
			}
			began := time.Now()
			f.StartWorker(fleet.WorkerConfig{})
			f.Await("nothing is queued", fleet.Patience, func(ctx context.Context) (bool, string) {
				dump, err := fleet.Dump(ctx, f.Conn, f.Topology)
				return err == nil && len(dump.Invoke) == 0, fmt.Sprint(len(dump.Invoke), err)
			})
			figure(t, "told and out of the queue", "%v", since(began))
			if n := s.cancels.Load(); n != 1 || s.started() != 1 {
				t.Errorf("of %d remote runs, %d were told, want 1 of 1", s.started(), n)
			}
			f.Verify()
		})
	}
}

// kill -9 of the worker in the middle of http_sse: the next one asks for what comes after the last event that is stored,
// and the result has every event once.
func TestKillWorkerOfHTTPSSE(t *testing.T) {
	t.Parallel()
	const events = 400
	var fresh, connections, sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections.Add(1)
		last, err := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		if err != nil {
			fresh.Add(1)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		for n := last + 1; n <= events; n++ {
			if _, err := fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", n, n); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			sent.Store(int64(n))
			select {
			case <-pace.C:
			case <-r.Context().Done():
				return
			}
		}
		io.WriteString(w, "event: done\ndata: over\n\n")
	}))
	defer s.Close()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	victim := f.StartWorker(fleet.WorkerConfig{})
	id := f.ID("sse")
	f.Submit(c, contracts.Invocation{ID: id, Kind: contracts.KindHTTPSSE, Metadata: map[string]string{
		"http.url": s.URL, "http.sse_terminal_events": "done",
	}})
	f.Follow(f.Client("default", ""), "default", id, "early")
	f.Await("events", fleet.Patience, func(context.Context) (bool, string) {
		n, err := f.Bytes("early", contracts.Stdout)
		return n > 500, fmt.Sprint(n, err)
	})
	f.StartWorker(fleet.WorkerConfig{})
	victim.Kill()
	killed := time.Now()
	figure(t, "events sent when it was killed", "%d of %d", sent.Load(), events)
	r := result(t, c, id, fleet.Patience)
	figure(t, "result after the kill", "%v", since(killed))
	figure(t, "connections", "%d, from the beginning %d", connections.Load(), fresh.Load())
	if r.Status != contracts.StatusSucceeded || r.Attempt != 1 || r.Metadata["http.events"] != strconv.Itoa(events+1) {
		t.Errorf("result = %+v", r)
	}
	if n := fresh.Load(); n != 1 {
		t.Errorf("the stream was begun %d times, want once", n)
	}
	f.Follow(f.Client("default", ""), "default", id, "late")
	f.Verify()
	var want strings.Builder
	for n := range events {
		fmt.Fprintf(&want, "event %d\n", n+1)
	}
	want.WriteString("over\n")
	if got := counted(t, f, r); got != want.String() {
		t.Errorf("the result has %d bytes of events, want every event once: %d", len(got), want.Len())
	}
}

// A large answer is stored whole by a worker that stays small (make soak takes 1 GB). The worker is the program that users get.
func TestLargeResponse(t *testing.T) {
	t.Parallel()
	const worst = 150 << 20
	size := int64(128_000_000)
	if rounds(t, 1) >= 20 {
		size = 1_000_000_000
	}
	piece := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for left := size; left > 0; left -= int64(len(piece)) {
			if _, err := w.Write(piece[:min(int64(len(piece)), left)]); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	f := fleet.Start(t, fleet.Config{})
	w := f.StartWorker(fleet.WorkerConfig{Binary: true})
	c := f.Client("default", "")
	id := f.ID("large")
	began := time.Now()
	f.Submit(c, contracts.Invocation{ID: id, Kind: contracts.KindHTTP, OutputLimitBytes: 1 << 30, Metadata: map[string]string{"http.url": s.URL}})
	r := result(t, c, id, 4*fleet.Patience)
	figure(t, "stored", "%d MB in %v", size/1_000_000, since(began))
	peak := w.PeakRSS()
	figure(t, "worker's peak", "%d MiB", peak>>20)
	if peak > worst {
		t.Errorf("the worker took %d MiB, want under %d", peak>>20, worst>>20)
	}
	if r.Status != contracts.StatusSucceeded || r.StdoutBytes != size || r.CutBytes != 0 {
		t.Errorf("result = %s, %d bytes, %d cut: %s", r.Status, r.StdoutBytes, r.CutBytes, r.Error)
	}
	f.Verify()
}

// A cancel in the middle of an answer closes the connection.
func TestCancelOfARequest(t *testing.T) {
	t.Parallel()
	closed := make(chan time.Time, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "on and on\n"); err != nil {
				break
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		closed <- time.Now()
	}))
	defer s.Close()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{})
	c := f.Client("default", "")
	id := f.ID("endless")
	f.Submit(c, contracts.Invocation{ID: id, Kind: contracts.KindHTTP, Metadata: map[string]string{"http.url": s.URL}})
	f.Follow(f.Client("default", ""), "default", id, "live")
	f.Await("output", fleet.Patience, func(context.Context) (bool, string) {
		n, err := f.Bytes("live", contracts.Stdout)
		return n > 100, fmt.Sprint(n, err)
	})
	began := time.Now()
	if _, err := c.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	select {
	case at := <-closed:
		figure(t, "connection closed after the cancel", "%v", at.Sub(began).Round(time.Millisecond))
	case <-time.After(fleet.Patience):
		t.Error("the connection was not closed")
	}
	if r := result(t, c, id, fleet.Patience); r.Status != contracts.StatusCancelled || r.Killed == "" {
		t.Errorf("result = %+v", r)
	}
	f.Verify()
}

// Neither a secret nor a password in a URL is in any stream, result or log, whoever wrote it and whoever sent it back.
func TestSecretsStayWithTheWorker(t *testing.T) {
	t.Parallel()
	const secret, password = "correct-horse-battery", "hunter2-in-a-url"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	var arrived atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(r.Header.Get("Authorization"), secret) && strings.Contains(string(body), secret) {
			arrived.Add(1)
		}
		if r.URL.Path == "/away" {
			w.Header().Set("Location", "http://me:"+password+"@127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		}
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "%s\n%s\n", r.Header.Get("Authorization"), body)
	}))
	defer s.Close()
	f := fleet.Start(t, fleet.Config{})
	w := f.StartWorker(fleet.WorkerConfig{SecretsDir: dir})
	c := f.Client("default", "")
	var all []contracts.Invocation
	for _, path := range []string{"/", "/away"} {
		all = append(all, contracts.Invocation{ID: f.ID("echo"), Kind: contracts.KindHTTP, Metadata: map[string]string{
			"http.url": s.URL + path, "http.bearer": "secret:token", "http.body": `{"token":"{{secret:token}}"}`,
		}})
	}
	f.Submit(c, all...)
	for _, inv := range all {
		result(t, c, inv.ID, fleet.Patience)
	}
	if arrived.Load() != 2 {
		t.Errorf("the secret arrived %d times, want 2", arrived.Load())
	}
	// The client refuses a password in a URL; one that is put there by hand is refused by the worker, which does not repeat it.
	bad := contracts.Invocation{ID: f.ID("url"), Kind: contracts.KindHTTP, Metadata: map[string]string{"http.url": "http://me:" + password + "@127.0.0.1/"}}
	if _, err := c.Submit(t.Context(), bad); err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("Submit() = %v, want it refused without the password", err)
	}
	bad = bad.WithDefaults()
	digest, err := bad.Digest()
	if err != nil {
		t.Fatal(err)
	}
	data, err := contracts.Encode(bad)
	if err != nil {
		t.Fatal(err)
	}
	f.Submitted(bad)
	invoke := queue.NewStore(f.Conn, f.Topology.InvokeStream(), 1)
	if _, err := invoke.Put(t.Context(), f.Topology.Names().Invoke(queue.AddressOf(bad)), nats.Header{contracts.HeaderDigest: {digest}}, data); err != nil {
		t.Fatal(err)
	}
	f.Accepted("default", bad.ID, digest)
	if r := result(t, c, bad.ID, fleet.Patience); r.Status != contracts.StatusRejected || !strings.Contains(r.Error, "has a user name or password") {
		t.Errorf("result = %+v, want it rejected", r)
	}
	f.Verify()
	if text := w.Log(); strings.Contains(text, secret) || strings.Contains(text, password) {
		t.Errorf("the worker's log has a secret:\n%s", text)
	}
	for _, stream := range []string{f.Topology.InvokeStream(), f.Topology.ReplyStream(), f.Topology.DeadStream()} {
		store := queue.NewStore(f.Conn, stream, 1)
		n := 0
		for m, err := range store.Walk(t.Context(), "runnel.>", 0, queue.WalkOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			asSent := stream == f.Topology.DeadStream() // a dead letter is the invocation as it came
			if bytes.Contains(m.Data, []byte(secret)) || !asSent && bytes.Contains(m.Data, []byte(password)) {
				t.Errorf("%s has a secret", m.Subject)
			}
		}
		if n == 0 && stream == f.Topology.ReplyStream() {
			t.Error("no reply was looked at")
		}
	}
}

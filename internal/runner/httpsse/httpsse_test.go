package httpsse_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/httpsse"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/runner/web/webtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connection is what a server says on one connection.
type connection struct {
	code   int // 0 is 200
	text   string
	then   string // "" ends it, "break" breaks it off, "stay" keeps it open
	header map[string]string
}

// service says the next of its connections to each that comes; the last one again and again.
type service struct {
	*httptest.Server
	mu    sync.Mutex
	says  []connection
	heads []http.Header
}

func serve(t testing.TB, says ...connection) *service {
	t.Helper()
	s := &service{says: says}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	c := s.says[0]
	if len(s.says) > 1 {
		s.says = s.says[1:]
	}
	s.heads = append(s.heads, r.Header)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	for name, value := range c.header {
		w.Header().Set(name, value)
	}
	if c.code != 0 {
		w.WriteHeader(c.code)
	}
	io.WriteString(w, c.text)
	w.(http.Flusher).Flush()
	switch c.then {
	case "break":
		panic(http.ErrAbortHandler)
	case "stay":
		<-r.Context().Done()
	}
}

// lastIDs are what each connection said it had heard last.
func (s *service) lastIDs() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.heads {
		ids = append(ids, h.Get("Last-Event-ID"))
	}
	return ids
}

func (s *service) job(t testing.TB, pairs ...string) runner.Job {
	t.Helper()
	return webtest.Job(t, contracts.KindHTTPSSE, map[string]string{"http.url": s.URL, "http.sse_terminal_events": "done,error", "http.sse_success_events": "done"}, pairs...)
}

type keeper struct {
	runnertest.Sink
	note string
}

func (k *keeper) Note(state []byte) error                    { k.note = string(state); return nil }
func (k *keeper) Save(_ context.Context, state []byte) error { return k.Note(state) }

func open(t testing.TB) (*httpsse.Runner, *webtest.Client) {
	t.Helper()
	c := webtest.Open(t, web.Config{})
	return httpsse.New(c.Client), c
}

func run(t *testing.T, r runner.Runner, job runner.Job) (contracts.Outcome, *keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), runnertest.Limit, errors.New("test: no end"))
	defer cancel()
	k := &keeper{}
	o, err := r.Run(ctx, job, k)
	if err != nil {
		t.Fatalf("Run() = %v", err)
	}
	return o, k
}

func TestRunner(t *testing.T) {
	quick := serve(t, connection{text: "event: done\ndata: ok\n\n"})
	fails := serve(t, connection{text: "event: error\ndata: no\n\n"})
	hangs := serve(t, connection{text: "data: ready\n\n", then: "stay"})
	var client *webtest.Client
	runnertest.Run(t, func(t *testing.T) runner.Runner {
		r, c := open(t)
		client = c
		return r
	}, runnertest.Options{
		Quick:    func(t testing.TB) runner.Job { return quick.job(t) },
		Fails:    func(t testing.TB) runner.Job { return fails.job(t) },
		FailCode: 1,
		Hangs: func(t testing.TB) (runner.Job, func() bool) {
			return hangs.job(t), func() bool { return client.Connections() > 0 }
		},
		Rejected: map[string]func(testing.TB) runner.Job{
			"no end": func(t testing.TB) runner.Job {
				j := quick.job(t)
				delete(j.Metadata, "http.sse_terminal_events")
				delete(j.Metadata, "http.sse_success_events")
				return j
			},
			"never a success": func(t testing.TB) runner.Job { return quick.job(t, "http.sse_success_events", "ok") },
		},
	})
}

// What ends a stream, and how (E47: what the ancestors did not have).
func TestOutcomes(t *testing.T) {
	byState := []string{"http.sse_status_path", "s.0", "http.sse_terminal_states", "completed,failed"}
	for name, test := range map[string]struct {
		says   []connection
		pairs  []string
		ok     bool
		want   string // in the error
		stdout string
		ids    string // what was said to have been heard, with commas
	}{
		"terminal event":       {[]connection{{text: "data: a\n\nevent: done\ndata: b\n\ndata: c\n\n", then: "stay"}}, nil, true, "", "a\nb\n", ""},
		"terminal failure":     {[]connection{{text: "event: error\ndata: why\n\n", then: "stay"}}, nil, false, `the stream ended with event "error": why`, "why\n", ""},
		"terminal data":        {[]connection{{text: "data: a\n\ndata: [DONE]\n\n", then: "stay"}}, []string{"http.sse_terminal_data", "[DONE]"}, true, "", "a\n[DONE]\n", ""},
		"state in the data":    {[]connection{{text: "data: no json\n\ndata: {\"s\":[\"running\"]}\n\ndata: {\"s\":[\"completed\"]}\n\n", then: "stay"}}, byState, true, "", "no json\n{\"s\":[\"running\"]}\n{\"s\":[\"completed\"]}\n", ""},
		"bad state":            {[]connection{{text: "data: {\"s\":[\"failed\"]}\n\n", then: "stay"}}, byState, false, "terminal status: failed", "{\"s\":[\"failed\"]}\n", ""},
		"the end is an end":    {[]connection{{text: "data: a\n\n"}}, []string{"http.sse_eof_ends", "true"}, true, "", "a\n", ""},
		"nothing is an end":    {[]connection{{code: 204}}, []string{"http.sse_eof_ends", "true"}, true, "", "", ""},
		"nothing":              {[]connection{{code: 204}}, nil, false, "HTTP 204", "", ""},
		"json":                 {[]connection{{text: "id: 1\nevent: done\ndata: a\ndata: \"b\"\n\n"}}, []string{"http.sse_format", "json"}, true, "", `{"id":"1","event":"done","data":"a\n\"b\""}` + "\n", ""},
		"goes on (an end)":     {[]connection{{text: "retry: 10\nid: 1\ndata: a\n\n"}, {text: "id: 2\ndata: b\n\n"}, {text: "event: done\ndata: c\n\n"}}, nil, true, "", "a\nb\nc\n", ",1,2"},
		"goes on (broken off)": {[]connection{{text: "retry: 10\nid: 1\ndata: a\n\ndata: half", then: "break"}, {text: "event: done\ndata: c\n\n"}}, nil, true, "", "a\nc\n", ",1"},
		"a storm":              {[]connection{{code: 503, header: map[string]string{"Retry-After": "0"}}, {text: "retry: 10\ndata: a\n\n"}, {code: 500}, {text: "event: done\ndata: c\n\n"}}, nil, true, "", "a\nc\n", ",,,"},
		"a storm too long":     {[]connection{{text: "retry: 10\n\n"}}, []string{"http.retries", "3"}, false, "the stream ended after 11 bytes without an event that ends it", "", ",,,"},
		"404":                  {[]connection{{code: 404, text: "gone"}}, nil, false, "HTTP 404: gone", "", ""},
		"not a stream":         {[]connection{{text: "{}", header: map[string]string{"Content-Type": "application/json"}}}, nil, false, "not a stream of events", "", ""},
		"a line too long":      {[]connection{{text: "data: " + strings.Repeat("x", 2<<20), then: "stay"}}, nil, false, "a line of more than", "", ""},
		"POST is not repeated": {[]connection{{text: "retry: 10\ndata: a\n\n"}}, []string{"http.method", "POST"}, false, "the stream ended", "a\n", ""},
		"POST with ids is":     {[]connection{{text: "retry: 10\nid: 1\ndata: a\n\n"}, {text: "event: done\ndata: b\n\n"}}, []string{"http.method", "POST", "http.body", "{}"}, true, "", "a\nb\n", ",1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, test.says...)
			j := s.job(t, test.pairs...)
			r, _ := open(t)
			o, k := run(t, r, j)
			if k.Stdout() != test.stdout {
				t.Errorf("stdout = %q, want %q", k.Stdout(), test.stdout)
			}
			if got := strings.Join(s.lastIDs(), ","); got != test.ids {
				t.Errorf("last ids = %q, want %q", got, test.ids)
			}
			if test.ok && (o.Status != contracts.StatusSucceeded || *o.ExitCode != 0) {
				t.Errorf("outcome = %+v", o)
			}
			if !test.ok && (o.Status != contracts.StatusFailed || *o.ExitCode != 1 || !strings.Contains(o.Error, test.want)) {
				t.Errorf("outcome = %+v, want %s", o, test.want)
			}
		})
	}
}

// Silence has a bound of its own; a comment now and then is not silence.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := serve(t, connection{text: "data: a\n\n", then: "stay"})
	r, client := open(t)
	o, k := run(t, r, s.job(t, "http.sse_idle_seconds", "0.2"))
	if o.Status != contracts.StatusTimedOut || o.Reason != contracts.ReasonIdleTimeout || k.Stdout() != "a\n" {
		t.Errorf("outcome = %+v", o)
	}
	if n := client.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	pings := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 20 {
			io.WriteString(w, ": ping\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond) // the silence that is tried here
		}
		io.WriteString(w, "event: done\ndata: b\n\n")
	}))
	defer pings.Close()
	if o, _ := run(t, r, s.job(t, "http.url", pings.URL, "http.sse_idle_seconds", "0.8")); o.Status != contracts.StatusSucceeded {
		t.Errorf("outcome = %+v of a stream that is never silent", o)
	}
	// Nobody there, and waits between: silence all the same.
	if o, _ := run(t, r, s.job(t, "http.url", "http://127.0.0.1:1/", "http.sse_idle_seconds", "0.2")); o.Reason != contracts.ReasonIdleTimeout {
		t.Errorf("outcome = %+v", o)
	}
}

// Another worker goes on behind the last event that the lost one had taken in.
func TestResume(t *testing.T) {
	t.Parallel()
	s := serve(t, connection{text: "id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: half", then: "stay"}, connection{text: "event: done\ndata: c\n\n"})
	r, _ := open(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	k := &keeper{}
	k.OnWrite = func(_ contracts.Stream, _ contracts.Phase, data []byte) error {
		if string(data) == "b\n" {
			time.AfterFunc(100*time.Millisecond, func() { cancel(runner.ErrStopped) })
		}
		return nil
	}
	if _, err := r.Run(ctx, s.job(t), k); !errors.Is(err, runner.ErrStopped) {
		t.Fatalf("Run() = %v", err)
	}
	j := s.job(t)
	j.Resume = []byte(k.note)
	o, next := run(t, r, j)
	if o.Status != contracts.StatusSucceeded || next.Stdout() != "c\n" || o.Metadata["http.events"] != "3" || o.Metadata["http.requests"] != "2" {
		t.Errorf("outcome = %+v, stdout %q", o, next.Stdout())
	}
	if got := fmt.Sprint(s.lastIDs()); got != "[ 2]" {
		t.Errorf("last ids = %s", got)
	}
	j.Resume = []byte("?")
	if _, err := r.Run(t.Context(), j, &keeper{}); err == nil {
		t.Error("Run() takes a note that cannot be read")
	}
}

// One deadline is over all connections, and over those of a lost run.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, connection{text: "id: 1\ndata: a\n\n", then: "stay"})
	r, _ := open(t)
	j := s.job(t)
	j.TimeoutSeconds = 0.3
	k := &keeper{}
	if _, err := r.Run(t.Context(), j, k); !errors.Is(err, runner.ErrTimeout) {
		t.Fatalf("Run() = %v, want the timeout", err)
	}
	j.Resume, j.TimeoutSeconds = []byte(k.note), 3600
	if _, err := r.Run(t.Context(), j, &keeper{}); !errors.Is(err, runner.ErrTimeout) {
		t.Errorf("Run() = %v, want the timeout of the lost run", err)
	}
}

// The deadline is noted by the fleet's clock, not by this machine's.
func TestDeadlineIsTheFleets(t *testing.T) {
	t.Parallel()
	s := serve(t, connection{text: "id: 1\ndata: a\n\n", then: "stay"})
	r, _ := open(t)
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		j := s.job(t)
		j.TimeoutSeconds, j.Offset = 0.3, offset
		k := &keeper{}
		before := time.Now()
		if _, err := r.Run(t.Context(), j, k); !errors.Is(err, runner.ErrTimeout) {
			t.Fatalf("with a clock %v off Run() = %v, want the timeout", offset, err)
		}
		var note struct{ Deadline int64 }
		if err := json.Unmarshal([]byte(k.note), &note); err != nil {
			t.Fatal(err)
		}
		if at := time.UnixMilli(note.Deadline).Sub(before.Add(offset)); at < 0 || at > 5*time.Minute {
			t.Errorf("with a clock %v off it notes %v from now", offset, at)
		}
	}
}

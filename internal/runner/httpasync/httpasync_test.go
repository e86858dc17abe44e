package httpasync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/httpasync"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/runner/web/webtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answer is one that the service gives.
type answer struct {
	code   int // 0 breaks the connection
	body   string
	header map[string]string
	wait   time.Duration
}

// service is a remote service: it answers as it was told to, and notes what it was asked.
type service struct {
	*httptest.Server
	mu    sync.Mutex
	kick  []answer
	polls []answer // the last one is given again and again
	asked []string // "POST /runs"
	heads []http.Header
}

func serve(t testing.TB, kick, polls []answer) *service {
	t.Helper()
	s := &service{kick: kick, polls: polls}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.RequestURI)
	s.heads = append(s.heads, r.Header)
	next := func(list *[]answer) answer {
		a := (*list)[0]
		if len(*list) > 1 {
			*list = (*list)[1:]
		}
		return a
	}
	var a answer
	switch {
	case strings.HasPrefix(r.URL.Path, "/cancel"):
		a = answer{code: 200}
	case r.Method == http.MethodPost:
		a = next(&s.kick)
	default:
		a = next(&s.polls)
	}
	s.mu.Unlock()
	select {
	case <-time.After(a.wait):
	case <-r.Context().Done():
		return
	}
	if a.code == 0 {
		panic(http.ErrAbortHandler)
	}
	for name, value := range a.header {
		w.Header().Set(name, strings.ReplaceAll(value, "SELF", s.URL))
	}
	w.WriteHeader(a.code)
	io.WriteString(w, a.body)
}

// all is what was asked so far, with commas.
func (s *service) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, ",")
}

func (s *service) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

func (s *service) job(t testing.TB, pairs ...string) runner.Job {
	t.Helper()
	return webtest.Job(t, contracts.KindHTTPAsync, map[string]string{
		"http.url": s.URL + "/runs", "http.poll_url_template": s.URL + "/runs/{run_id}", "http.poll_run_id_path": "id", "http.poll_status_path": "status",
		"http.poll_terminal_states": "completed,failed", "http.poll_interval_seconds": "0.01", "http.cancel_url_template": s.URL + "/cancel/{run_id}",
	}, pairs...)
}

// without takes settings away.
func without(j runner.Job, names ...string) runner.Job {
	for _, name := range names {
		delete(j.Metadata, name)
	}
	return j
}

func open(t testing.TB, cfg web.Config) *httpasync.Runner {
	t.Helper()
	return httpasync.New(webtest.Open(t, cfg).Client)
}

// keeper is a sink that keeps notes.
type keeper struct {
	runnertest.Sink
	mu    sync.Mutex
	notes []string
	fail  error
}

func (k *keeper) Note(state []byte) error { return k.Save(context.Background(), state) }

func (k *keeper) Save(_ context.Context, state []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notes = append(k.notes, string(state))
	return k.fail
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

var (
	accepted = answer{code: 202, body: `{"id":"17"}`}
	running  = answer{code: 200, body: `{"status":"running"}`}
	done     = answer{code: 200, body: `{"status":"completed","result":[1]}`}
)

func TestRunner(t *testing.T) {
	quick := serve(t, []answer{accepted}, []answer{done})
	fails := serve(t, []answer{accepted}, []answer{{code: 200, body: `{"status":"failed"}`}})
	var live *webtest.Client
	runnertest.Run(t, func(t *testing.T) runner.Runner {
		live = webtest.Open(t, web.Config{})
		return httpasync.New(live.Client)
	}, runnertest.Options{
		Quick:    func(t testing.TB) runner.Job { return quick.job(t) },
		Fails:    func(t testing.TB) runner.Job { return fails.job(t) },
		FailCode: 1,
		Rejected: map[string]func(testing.TB) runner.Job{
			"run id without a path (E37)": func(t testing.TB) runner.Job { return without(quick.job(t), "http.poll_run_id_path") },
			"never a success (E41)":       func(t testing.TB) runner.Job { return quick.job(t, "http.poll_success_states", "ok") },
			"interval 0":                  func(t testing.TB) runner.Job { return quick.job(t, "http.poll_interval_seconds", "0") },
			"unknown secret":              func(t testing.TB) runner.Job { return quick.job(t, "http.bearer", "secret:x") },
		},
	})
	if n := quick.count("POST /cancel"); n != 0 {
		t.Errorf("a run that ended by itself was cancelled %d times", n)
	}
}

// The whole way: start, poll, end; what each answer means (E34, E35, E36, E38, E39, E40, E41).
func TestOutcomes(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	tests := map[string]struct {
		kick, polls []answer
		pairs       []string
		without     []string
		ok          bool
		want        string // in the error, or stdout
		asked       string // what was asked, with commas
	}{
		"202, then polls":                {[]answer{accepted}, []answer{running, running, done}, nil, nil, true, done.body, "POST /runs,GET /runs/17,GET /runs/17,GET /runs/17"},
		"200 that is the end (E34)":      {[]answer{{code: 200, body: `{"status":"completed"}`}}, nil, nil, nil, true, `{"status":"completed"}`, "POST /runs"},
		"200 that is a failure (E34)":    {[]answer{{code: 200, body: `{"status":"failed"}`}}, nil, nil, nil, false, "sync 200 reported non-success status: failed", "POST /runs"},
		"200 that acknowledges (E34)":    {[]answer{{code: 200, body: `{"status":"queued","id":17}`}}, []answer{done}, nil, nil, true, done.body, "POST /runs,GET /runs/17"},
		"200 that is no JSON (E34)":      {[]answer{{code: 200, body: `ok`}}, []answer{done}, []string{"http.poll_url_template", "SELF/fixed"}, []string{"http.poll_run_id_path", "http.cancel_url_template"}, true, done.body, "POST /runs,GET /fixed"},
		"201 (E35)":                      {[]answer{{code: 201, body: `{"id":17}`}}, nil, nil, nil, false, `kickoff expected 202 (or 200), got HTTP 201: {"id":17}`, "POST /runs"},
		"201 by option (E35)":            {[]answer{{code: 201, body: `{"id":17}`}}, []answer{done}, []string{"http.poll_accepted", "2xx"}, nil, true, done.body, "POST /runs,GET /runs/17"},
		"500 (E35)":                      {[]answer{{code: 500, body: big}}, nil, nil, nil, false, "got HTTP 500: xxx", "POST /runs"},
		"list in the path (E36)":         {[]answer{{code: 202, body: `{"runs":[{"id":"a"},{"id":"b"}]}`}}, []answer{done}, []string{"http.poll_run_id_path", "runs.1.id"}, nil, true, done.body, "POST /runs,GET /runs/b"},
		"pointer (E36)":                  {[]answer{{code: 202, body: `{"a/b":{"":7}}`}}, []answer{done}, []string{"http.poll_run_id_path", "/a~1b/"}, nil, true, done.body, "POST /runs,GET /runs/7"},
		"empty elements (E36)":           {[]answer{{code: 202, body: `{"a":{"b":12345678901234567890}}`}}, []answer{done}, []string{"http.poll_run_id_path", "a..b."}, nil, true, done.body, "POST /runs,GET /runs/12345678901234567890"},
		"id that must be escaped (E36)":  {[]answer{{code: 202, body: `{"id":"a/../b?c=d&e f+%"}`}}, []answer{done}, nil, nil, true, done.body, "POST /runs,GET /runs/a%2F..%2Fb%3Fc%3Dd%26e%20f%2B%25"},
		"id in the query":                {[]answer{{code: 202, body: `{"id":"a&b"}`}}, []answer{done}, []string{"http.poll_url_template", "SELF/get?id={run_id}&x=1"}, nil, true, done.body, "POST /runs,GET /get?id=a%26b&x=1"},
		"id that leads up":               {[]answer{{code: 202, body: `{"id":".."}`}}, nil, nil, nil, false, `the id of the run is ".."`, "POST /runs"},
		"id that is empty":               {[]answer{{code: 202, body: `{"id":""}`}}, nil, nil, nil, false, "has 0 bytes", "POST /runs"},
		"id too long":                    {[]answer{{code: 202, body: `{"id":"` + big + `"}`}}, nil, nil, nil, false, "run id of 100000 bytes", "POST /runs"},
		"no id (E36)":                    {[]answer{{code: 202, body: `{"ID":1}`}}, nil, nil, nil, false, "kickoff response has no field at path id", "POST /runs"},
		"id that is an object (E36)":     {[]answer{{code: 202, body: `{"id":{}}`}}, nil, nil, nil, false, "kickoff response has no field at path id", "POST /runs"},
		"kickoff not JSON (E36)":         {[]answer{{code: 202, body: `<html>`}}, nil, nil, nil, false, "kickoff response is not JSON: <html>", "POST /runs"},
		"template without an id (E38)":   {[]answer{{code: 202}}, []answer{done}, []string{"http.poll_url_template", "SELF/fixed"}, []string{"http.poll_run_id_path", "http.cancel_url_template"}, true, done.body, "POST /runs,GET /fixed"},
		"location (E38)":                 {[]answer{{code: 202, header: map[string]string{"Location": "/at/9?k=v"}}}, []answer{done}, []string{"http.poll_location", "true"}, []string{"http.poll_url_template", "http.poll_run_id_path", "http.cancel_url_template"}, true, done.body, "POST /runs,GET /at/9?k=v"},
		"no location (E38)":              {[]answer{{code: 202}}, nil, []string{"http.poll_location", "true"}, []string{"http.poll_url_template", "http.poll_run_id_path", "http.cancel_url_template"}, false, "Location header of 0 bytes", "POST /runs"},
		"location elsewhere (E38)":       {[]answer{{code: 202, header: map[string]string{"Location": "http://127.0.0.2:1/"}}}, nil, []string{"http.poll_location", "true"}, []string{"http.poll_url_template", "http.poll_run_id_path", "http.cancel_url_template"}, false, "Location header to another host", "POST /runs"},
		"location with a user":           {[]answer{{code: 202, header: map[string]string{"Location": "http://u:hunter2@127.0.0.1/"}}}, nil, []string{"http.poll_location", "true"}, []string{"http.poll_url_template", "http.poll_run_id_path", "http.cancel_url_template"}, false, "not a URL to poll", "POST /runs"},
		"poll of 404 (E39)":              {[]answer{accepted}, []answer{{code: 404, body: "gone"}}, nil, nil, false, "poll expected HTTP 200, got 404: gone", "POST /runs,GET /runs/17"},
		"pending codes (E39)":            {[]answer{accepted}, []answer{{code: 404}, {code: 503}, done}, []string{"http.poll_pending_codes", "404,503"}, nil, true, done.body, "POST /runs,GET /runs/17,GET /runs/17,GET /runs/17"},
		"a storm (E39)":                  {[]answer{accepted}, []answer{{code: 503, header: map[string]string{"Retry-After": "0"}}, {code: 429, header: map[string]string{"Retry-After": "0"}}, {}, {code: 500, header: map[string]string{"Retry-After": "0"}}, done}, nil, nil, true, done.body, "POST /runs,GET /runs/17,GET /runs/17,GET /runs/17,GET /runs/17,GET /runs/17"},
		"a storm too long (E39)":         {[]answer{accepted}, []answer{{code: 503, body: "no", header: map[string]string{"Retry-After": "0"}}}, []string{"http.retries", "2"}, nil, false, "poll expected HTTP 200, got 503: no", "POST /runs,GET /runs/17,GET /runs/17,GET /runs/17"},
		"a storm at the kickoff":         {[]answer{{code: 503, header: map[string]string{"Retry-After": "0"}}, {code: 429, header: map[string]string{"Retry-After": "0"}}, accepted}, []answer{done}, nil, nil, true, done.body, "POST /runs,POST /runs,POST /runs,GET /runs/17"},
		"a kickoff that broke":           {[]answer{{}, accepted}, nil, nil, nil, false, "kickoff: http error: ", "POST /runs"},
		"a kickoff that broke, with key": {[]answer{{}, accepted}, []answer{done}, []string{"http.idempotency_header", "K"}, nil, true, done.body, "POST /runs,POST /runs,GET /runs/17"},
		"poll not JSON (E40)":            {[]answer{accepted}, []answer{{code: 200, body: `{"status":`}}, nil, nil, false, "poll response is not JSON", "POST /runs,GET /runs/17"},
		"poll with two documents":        {[]answer{accepted}, []answer{{code: 200, body: done.body + "{}"}}, nil, nil, false, "poll response is not JSON", "POST /runs,GET /runs/17"},
		"no status (E40)":                {[]answer{accepted}, []answer{{code: 200, body: `{"secret":"hunter2"}`}}, nil, nil, false, "poll response has no field at path status", "POST /runs,GET /runs/17"},
		"terminal, not a success (E41)":  {[]answer{accepted}, []answer{{code: 200, body: `{"status":"failed"}`}}, nil, nil, false, "backend reported terminal status: failed", "POST /runs,GET /runs/17"},
		"state that is a number (E41)":   {[]answer{accepted}, []answer{{code: 200, body: `{"status":1}`}}, []string{"http.poll_terminal_states", "1,2", "http.poll_success_states", "1"}, nil, true, `{"status":1}`, "POST /runs,GET /runs/17"},
		"poll is refused":                {[]answer{accepted}, nil, []string{"http.poll_url_template", "http://169.254.169.254/{run_id}"}, nil, false, "link-local", "POST /runs"},
	}
	r := open(t, web.Config{})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.polls == nil {
				test.polls = []answer{{code: 599}}
			}
			s := serve(t, test.kick, test.polls)
			for i := range test.pairs {
				test.pairs[i] = strings.ReplaceAll(test.pairs[i], "SELF", s.URL)
			}
			o, k := run(t, r, without(s.job(t, test.pairs...), test.without...))
			if got := s.all(); got != test.asked {
				t.Errorf("asked %s, want %s", got, test.asked)
			}
			if strings.Contains(fmt.Sprint(o), "hunter2") {
				t.Errorf("an answer is in the outcome: %+v", o)
			}
			if test.ok {
				if o.Status != contracts.StatusSucceeded || *o.ExitCode != 0 || k.Stdout() != test.want {
					t.Errorf("outcome = %+v, stdout %q", o, k.Stdout())
				}
				return
			}
			if o.Status != contracts.StatusFailed || *o.ExitCode != 1 || !strings.Contains(o.Error, test.want) || len(o.Error) > 1100 {
				t.Errorf("outcome = %+v, want %s", o, test.want)
			}
		})
	}
}

// The first poll is at once, and the wait between two is what was set, whatever else is (E42).
func TestPace(t *testing.T) {
	t.Parallel()
	s := serve(t, []answer{accepted}, []answer{{code: 200, body: running.body, header: map[string]string{"Retry-After": "1"}}, running, running, done})
	began := time.Now()
	o, k := run(t, open(t, web.Config{}), s.job(t, "http.poll_interval_seconds", "0.1", "http.poll_backoff", "2", "http.poll_jitter", "0"))
	took := time.Since(began) // 1 s as the answer asks, 0.2 s, 0.4 s
	if o.Status != contracts.StatusSucceeded || took < 1600*time.Millisecond {
		t.Errorf("outcome = %+v after %v, want at least 1.6 s", o, took)
	}
	if got := k.Stderr(); got != "status: running\n" {
		t.Errorf("stderr = %q", got)
	}
	if o.Metadata["http.requests"] != "5" || o.Metadata["http.run_id"] != "17" || o.Metadata["http.state"] != "completed" {
		t.Errorf("metadata = %v", o.Metadata)
	}
}

// A timeout and a cancel end it at once wherever it stands, and the remote run is told (E42, E43, E44, E45).
func TestStop(t *testing.T) {
	for name, test := range map[string]struct {
		kick, poll answer
		pairs      []string
		cause      error
		cancels    int
		killed     string
	}{
		"cancel while it waits":   {accepted, running, []string{"http.poll_interval_seconds", "3600"}, runner.ErrCancelled, 1, "the remote run (told, HTTP 200)"},
		"timeout in a poll":       {accepted, answer{code: 200, wait: time.Hour}, nil, runner.ErrTimeout, 1, "the remote run (told, HTTP 200)"},
		"timeout in the kickoff":  {answer{code: 202, wait: time.Hour}, running, nil, runner.ErrTimeout, 0, "the connection"},
		"drain":                   {accepted, running, nil, runner.ErrStopped, 0, "the connection; the remote run goes on"},
		"cancel in a retry":       {accepted, answer{code: 503, header: map[string]string{"Retry-After": "3600"}}, nil, runner.ErrCancelled, 1, "the remote run (told, HTTP 200)"},
		"cancel by another verb":  {accepted, running, []string{"http.cancel_method", "delete"}, runner.ErrCancelled, 1, "the remote run (told, HTTP 200)"},
		"cancel that is not told": {accepted, running, []string{"http.cancel_url_template", "http://127.0.0.1:1/{run_id}"}, runner.ErrCancelled, 0, "the connection; the remote run could not be told: http error: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, []answer{test.kick}, []answer{test.poll})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			time.AfterFunc(200*time.Millisecond, func() { cancel(test.cause) })
			o, err := open(t, web.Config{}).Run(ctx, s.job(t, test.pairs...), &keeper{})
			if !errors.Is(err, test.cause) || !strings.HasPrefix(o.Killed, test.killed) {
				t.Errorf("Run() = %+v, %v, want %s", o, err, test.killed)
			}
			if n := s.count("POST /cancel/17") + s.count("DELETE /cancel/17"); n != test.cancels {
				t.Errorf("the remote run was told %d times, want %d: %v", n, test.cancels, s.all())
			}
		})
	}
}

// The deadline is over all of it, also over what a lost run took (E43).
func TestCancelOfALostRun(t *testing.T) {
	const note = `{"run_id":"17","requests":3}`
	for name, test := range map[string]struct {
		note    string
		set     []string
		cancels int
		killed  string
	}{
		"told":      {note, nil, 1, "the remote run (told, HTTP 200)"},
		"no URL":    {note, []string{"http.cancel_url_template", ""}, 0, "nothing; the remote run was not told (no http.cancel_url_template)"},
		"nobody":    {note, []string{"http.cancel_url_template", "http://127.0.0.1:1/{run_id}"}, 0, "nothing; the remote run could not be told: http error: "},
		"no note":   {"{", nil, 0, "nothing; the remote run was not told: unexpected end of JSON input"},
		"no secret": {note, []string{"http.bearer", "secret:x"}, 0, "nothing; the remote run was not told: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, nil)
			job := s.job(t, test.set...)
			if name == "no URL" {
				job = without(job, "http.cancel_url_template")
			}
			job.Resume = []byte(test.note)
			killed := open(t, web.Config{Allow: []string{"127.0.0.0/8"}}).Cancel(t.Context(), job)
			if !strings.HasPrefix(killed, test.killed) || strings.Contains(killed, "\n") {
				t.Errorf("Cancel() = %q, want %q", killed, test.killed)
			}
			if n := s.count("POST /cancel/17"); n != test.cancels || s.count("") != n {
				t.Errorf("it was told %d times, want %d: %v", n, test.cancels, s.all())
			}
		})
	}
	// One that does not answer is given the grace.
	s := serve(t, nil, nil)
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer mute.Close()
	job := s.job(t, "http.cancel_url_template", mute.URL+"/{run_id}")
	job.Resume, job.Stop = []byte(note), &contracts.Stop{GraceSeconds: new(0.1)}
	if killed := open(t, web.Config{}).Cancel(t.Context(), job); !strings.Contains(killed, "could not be told") {
		t.Errorf("Cancel() of one that does not answer = %q", killed)
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, []answer{accepted}, []answer{running})
	j := s.job(t)
	j.TimeoutSeconds = 0.3
	k := &keeper{}
	if _, err := open(t, web.Config{}).Run(t.Context(), j, k); !errors.Is(err, runner.ErrTimeout) {
		t.Fatalf("Run() = %v, want the timeout", err)
	}
	j.Resume = []byte(k.notes[0]) // whose deadline has passed
	j.TimeoutSeconds = 3600
	if _, err := open(t, web.Config{}).Run(t.Context(), j, &keeper{}); !errors.Is(err, runner.ErrTimeout) {
		t.Errorf("Run() = %v, want the timeout of the lost run", err)
	}
	if n := s.count("POST /runs"); n != 1 {
		t.Errorf("%d remote runs, want 1", n)
	}
}

// The deadline is noted by the fleet's clock: a worker whose own is ten minutes off neither ends the work at once nor late.
func TestDeadlineIsTheFleets(t *testing.T) {
	t.Parallel()
	s := serve(t, []answer{accepted}, []answer{running})
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		j := s.job(t)
		j.TimeoutSeconds, j.Offset = 3600, offset
		k := &keeper{fail: errors.New("the worker is gone")}
		before := time.Now()
		if _, err := open(t, web.Config{}).Run(t.Context(), j, k); !errors.Is(err, k.fail) {
			t.Fatalf("Run() = %v, want the error of the note", err)
		}
		var note struct{ Deadline int64 }
		if err := json.Unmarshal([]byte(k.notes[0]), &note); err != nil {
			t.Fatal(err)
		}
		if at := time.UnixMilli(note.Deadline).Sub(before.Add(offset)); at < time.Hour-time.Second || at > time.Hour+10*time.Minute-time.Second {
			t.Errorf("with a clock %v off it notes %v from now, want an hour", offset, at)
		}
		j.Resume, j.TimeoutSeconds = []byte(fmt.Sprintf(`{"run_id":"17","deadline":%d}`, time.Now().Add(offset+300*time.Millisecond).UnixMilli())), 3600
		if _, err := open(t, web.Config{}).Run(t.Context(), j, &keeper{}); !errors.Is(err, runner.ErrTimeout) {
			t.Errorf("with a clock %v off Run() = %v, want the timeout that another worker noted", offset, err)
		}
	}
}

// The remote run is noted before it is polled, and polled by whoever has the note; runs do not touch each other (E46).
func TestResume(t *testing.T) {
	t.Parallel()
	s := serve(t, []answer{{code: 202, body: `{"id":"a b"}`}}, []answer{done})
	r := open(t, web.Config{})
	k := &keeper{fail: errors.New("the worker is gone")}
	if _, err := r.Run(t.Context(), s.job(t), k); !errors.Is(err, k.fail) {
		t.Fatalf("Run() = %v, want the error of the note", err)
	}
	if got := s.all(); got != "POST /runs" || len(k.notes) != 1 {
		t.Fatalf("asked %s, noted %q: want nothing polled before the note is stored", got, k.notes)
	}
	if !json.Valid([]byte(k.notes[0])) || len(k.notes[0]) > contracts.MaxStateBytes {
		t.Errorf("note = %s", k.notes[0])
	}
	j := s.job(t)
	j.Resume = []byte(k.notes[0])
	if o, k := run(t, r, j); o.Status != contracts.StatusSucceeded || k.Stdout() != done.body || o.Metadata["http.requests"] != "2" {
		t.Errorf("outcome = %+v", o)
	}
	if got := s.all(); got != "POST /runs,GET /runs/a%20b" {
		t.Errorf("asked %s: want no second start", got)
	}
	j.Resume = []byte("{")
	if _, err := r.Run(t.Context(), j, &keeper{}); err == nil || errors.Is(err, runner.ErrRejected) {
		t.Errorf("Run() = %v of a note that cannot be read", err)
	}
}

// Polls and the cancel bring the login along; the idempotency key belongs to the start alone.
func TestHeaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "t"), []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, []answer{accepted}, []answer{{code: 200, body: `{"status":"completed","echo":"hunter2"}`}})
	o, k := run(t, open(t, web.Config{SecretsDir: dir}), s.job(t, "http.bearer", "secret:t", "http.idempotency_header", "Idempotency-Key", "http.body", `{}`))
	if o.Status != contracts.StatusSucceeded || strings.Contains(fmt.Sprint(o, k.Stdout(), k.notes), "hunter2") {
		t.Errorf("outcome = %+v, stdout %s", o, k.Stdout())
	}
	for i, want := range []http.Header{
		{"Authorization": {"Bearer hunter2"}, "Idempotency-Key": {"default.job.1"}, "Content-Type": {"application/json"}}, {"Authorization": {"Bearer hunter2"}},
	} {
		for _, name := range []string{"Authorization", "Idempotency-Key", "Content-Type"} {
			if got := s.heads[i].Get(name); got != want.Get(name) {
				t.Errorf("request %d: %s = %q, want %q", i, name, got, want.Get(name))
			}
		}
	}
}

// Whatever a service answers, the run ends and says why in bounds.
func FuzzAnswers(f *testing.F) {
	f.Add(202, `{"id":"1"}`, 200, `{"status":"completed"}`)
	f.Add(200, `{"id":[{}],"status":"failed"}`, 503, ``)
	f.Add(202, `{"id":1e400}`, 200, `[null]`)
	f.Add(301, "\xff", 204, "{}")
	var mu sync.Mutex
	var kick, poll answer
	polls := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		a := kick
		if r.Method == http.MethodGet {
			if a = poll; polls > 3 {
				a = answer{code: 200, body: `{"status":"failed"}`}
			}
			polls++
		}
		mu.Unlock()
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(a.code)
		io.WriteString(w, a.body)
	}))
	f.Cleanup(s.Close)
	template := &service{Server: s}
	r := open(f, web.Config{})
	f.Fuzz(func(t *testing.T, code int, body string, pollCode int, pollBody string) {
		if code < 200 || code > 599 || pollCode < 200 || pollCode > 599 {
			return
		}
		mu.Lock()
		kick, poll, polls = answer{code: code, body: body}, answer{code: pollCode, body: pollBody}, 0
		mu.Unlock()
		o, _ := run(t, r, template.job(t, "http.retries", "1"))
		if o.Status != contracts.StatusSucceeded && (o.Status != contracts.StatusFailed || o.Error == "" || len(o.Error) > 1100) {
			t.Errorf("outcome = %+v", o)
		}
	})
}

package http_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/http"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/web"
	"github.com/runnel-project/runnel/internal/runner/web/webtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, handler nethttp.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func open(t testing.TB, cfg web.Config) (*http.Runner, *webtest.Client) {
	t.Helper()
	c := webtest.Open(t, cfg)
	return http.New(c.Client), c
}

func job(t testing.TB, url string, pairs ...string) runner.Job {
	t.Helper()
	return webtest.Job(t, contracts.KindHTTP, map[string]string{"http.url": url}, pairs...)
}

// run runs a job, and fails the test where the runner cannot say how it ended.
func run(t *testing.T, r runner.Runner, job runner.Job) (contracts.Outcome, *runnertest.Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), runnertest.Limit, errors.New("test: no end"))
	defer cancel()
	sink := &runnertest.Sink{}
	o, err := r.Run(ctx, job, sink)
	if err != nil {
		t.Fatalf("Run() = %v", err)
	}
	return o, sink
}

func TestRunner(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch path, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); path {
		case "status":
			code, _ := strconv.Atoi(arg)
			w.WriteHeader(code)
		case "bytes":
			n, _ := strconv.Atoi(arg)
			w.Write(runnertest.Pattern(n))
		case "echo":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(nethttp.ErrAbortHandler)
			}
			w.Write(body)
		case "hang":
			io.WriteString(w, "ready\n")
			w.(nethttp.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	var client *webtest.Client
	runnertest.Run(t, func(t *testing.T) runner.Runner {
		r, c := open(t, web.Config{})
		client = c
		return r
	}, runnertest.Options{
		Quick:      func(t testing.TB) runner.Job { return job(t, s.URL+"/status/204") },
		Fails:      func(t testing.TB) runner.Job { return job(t, s.URL+"/status/503") },
		FailCode:   1,
		Writes:     func(t testing.TB, n int) runner.Job { return job(t, fmt.Sprintf("%s/bytes/%d", s.URL, n)) },
		StdoutOnly: true,
		Echo:       func(t testing.TB) runner.Job { return job(t, s.URL+"/echo") },
		Hangs: func(t testing.TB) (runner.Job, func() bool) {
			return job(t, s.URL+"/hang"), func() bool { return client.Connections() > 0 }
		},
		Rejected: map[string]func(testing.TB) runner.Job{
			"no url (E26)": func(t testing.TB) runner.Job {
				j := job(t, "")
				delete(j.Metadata, "http.url")
				return j
			},
			"unknown secret": func(t testing.TB) runner.Job { return job(t, s.URL, "http.bearer", "secret:nobody") },
			"not allowed":    func(t testing.TB) runner.Job { return job(t, "http://169.254.169.254/") },
		},
	})
}

// seen is what a server was sent.
type seen struct {
	method, uri, body string
	header            nethttp.Header
}

// What is set is what is sent (E26, E27, E31).
func TestRequest(t *testing.T) {
	var got seen
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, string(body), r.Header}
	})
	r, _ := open(t, web.Config{SecretsDir: secretsDir(t, map[string]string{"token": "to\"ken&1\n", "p": "p w"})})
	tests := map[string]struct {
		pairs []string
		want  seen
	}{
		"default (E26)": {nil, seen{"POST", "/a", "", nethttp.Header{"User-Agent": {"runnel"}}}},
		"json (E27)": {[]string{"http.body", ` {"n": 12345678901234567890}`, "http.method", "put"},
			seen{"PUT", "/a", ` {"n": 12345678901234567890}`, nethttp.Header{"Content-Type": {"application/json"}}}},
		"form (E27)": {[]string{"http.body", `{"a":"x y","b":[1,2]}`, "http.body_format", "form"},
			seen{"POST", "/a", "a=x+y&b=1&b=2", nethttp.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}},
		"raw":          {[]string{"http.body", "a\n", "http.body_format", "raw"}, seen{"POST", "/a", "a\n", nethttp.Header{"Content-Type": {"text/plain; charset=utf-8"}}}},
		"empty":        {[]string{"http.body", "", "http.body_format", "raw"}, seen{"POST", "/a", "", nethttp.Header{"Content-Length": {"0"}}}},
		"own type":     {[]string{"http.body", "1", "http.header.content-type", "x/y"}, seen{"POST", "/a", "1", nethttp.Header{"Content-Type": {"x/y"}}}},
		"query":        {[]string{"http.query.q", "a&b", "http.method", "GET"}, seen{"GET", "/a?q=a%26b", "", nil}},
		"header (E31)": {[]string{"http.header.x-a", "b"}, seen{"POST", "/a", "", nethttp.Header{"X-A": {"b"}}}},
		"bearer":       {[]string{"http.bearer", "secret:p"}, seen{"POST", "/a", "", nethttp.Header{"Authorization": {"Bearer p w"}}}},
		"basic":        {[]string{"http.basic_user", "u", "http.basic_password", "secret:p"}, seen{"POST", "/a", "", nethttp.Header{"Authorization": {"Basic dTpwIHc="}}}},
		"secrets": {[]string{"http.header.x-a", "t {{secret:p}}", "http.body", `{"a":["{{secret:token}}"]}`},
			seen{"POST", "/a", `{"a":["to\"ken&1"]}`, nethttp.Header{"X-A": {"t p w"}}}},
		"secret form": {[]string{"http.body", `{"a":"{{secret:token}}"}`, "http.body_format", "form"}, seen{"POST", "/a", `a=to%22ken%261`, nil}},
		"secret raw":  {[]string{"http.body", `secret:token`, "http.body_format", "raw"}, seen{"POST", "/a", `to"ken&1`, nil}},
		"idempotency": {[]string{"http.idempotency_header", "idempotency-key"}, seen{"POST", "/a", "", nethttp.Header{"Idempotency-Key": {"default.job.1"}}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, _ := run(t, r, job(t, s.URL+"/a", test.pairs...))
			if o.Status != contracts.StatusSucceeded {
				t.Fatalf("outcome = %+v", o)
			}
			if got.method != test.want.method || got.uri != test.want.uri || got.body != test.want.body {
				t.Errorf("sent %s %s %q, want %s %s %q", got.method, got.uri, got.body, test.want.method, test.want.uri, test.want.body)
			}
			for name, want := range test.want.header {
				if got.header.Get(name) != want[0] {
					t.Errorf("header %s = %q, want %q", name, got.header.Get(name), want[0])
				}
			}
		})
	}
}

func secretsDir(t testing.TB, values map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range values {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The status decides, and is kept; the answer's body is the output (E29, E31).
func TestOutcome(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("X-Told", "yes")
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("X-Long", strings.Repeat("x", 2000))
		w.WriteHeader(code)
		if code != 204 {
			io.WriteString(w, strings.Repeat("é", 300))
		}
	})
	r, _ := open(t, web.Config{})
	for name, test := range map[string]struct {
		code, expect string
		ok           bool
	}{
		"200": {"200", "", true}, "204": {"204", "", true}, "299": {"299", "", true}, "404": {"404", "", false}, "503": {"503", "", false},
		"404 expected": {"404", "404", true}, "200 not expected": {"200", "201", false}, "304": {"304", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var pairs []string
			if test.expect != "" {
				pairs = []string{"http.expect", test.expect}
			}
			o, sink := run(t, r, job(t, s.URL+"/"+test.code, pairs...))
			if o.Metadata["http.status"] != test.code || o.Metadata["http.header.X-Told"] != "yes" {
				t.Errorf("metadata = %v", o.Metadata)
			}
			for _, name := range []string{"http.header.Set-Cookie", "http.header.X-Long"} {
				if _, told := o.Metadata[name]; told {
					t.Errorf("%s is told", name)
				}
			}
			if test.code != "204" && test.code != "304" && sink.Stdout() != strings.Repeat("é", 300) {
				t.Errorf("stdout = %q", sink.Stdout())
			}
			if test.ok {
				if o.Status != contracts.StatusSucceeded || *o.ExitCode != 0 || o.Error != "" {
					t.Errorf("outcome = %+v", o)
				}
				return
			}
			if o.Status != contracts.StatusFailed || *o.ExitCode != 1 || o.Reason != contracts.ReasonExit || !strings.HasPrefix(o.Error, "HTTP "+test.code+": ") || len(o.Error) > 220 {
				t.Errorf("outcome = %+v", o)
			}
		})
	}
}

// Timeouts come from the worker and are its cause; everything else is a failure (E28, E30).
func TestFaults(t *testing.T) {
	stop := make(chan struct{})
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch r.URL.Path {
		case "/half": // a body that breaks off
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			w.(nethttp.Flusher).Flush()
			panic(nethttp.ErrAbortHandler)
		case "/chunked":
			io.WriteString(w, "one")
			w.(nethttp.Flusher).Flush()
			panic(nethttp.ErrAbortHandler)
		case "/reset":
			panic(nethttp.ErrAbortHandler)
		case "/slow": // a byte now and then, for ever
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "."); err != nil {
					return
				}
				w.(nethttp.Flusher).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-stop:
					return
				}
			}
		case "/silent":
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		case "/header":
			w.Header().Set("X-Large", strings.Repeat("x", 100<<10))
		}
	})
	defer close(stop)
	r, client := open(t, web.Config{})
	for path, want := range map[string]string{
		"/half": "the answer broke off after 4 bytes: unexpected EOF", "/chunked": "the answer broke off after 3 bytes", "/reset": "EOF",
		"/header": "server response headers exceeded",
	} {
		o, _ := run(t, r, job(t, s.URL+path))
		if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonExit || !strings.Contains(o.Error, want) {
			t.Errorf("%s: outcome = %+v, want %s", path, o, want)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + listener.Addr().String()
	listener.Close()
	if o, _ := run(t, r, job(t, dead)); o.Status != contracts.StatusFailed || !strings.Contains(o.Error, "http error: ") || !strings.Contains(o.Error, "refused") {
		t.Errorf("nobody listens: %+v", o)
	}
	if o, _ := run(t, r, job(t, "http://no-such-host.invalid/")); o.Status != contracts.StatusFailed || !strings.Contains(o.Error, "no-such-host.invalid") {
		t.Errorf("no such host: %+v", o)
	}
	for _, path := range []string{"/slow", "/silent"} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, runner.ErrTimeout)
		o, err := r.Run(ctx, job(t, s.URL+path), &runnertest.Sink{})
		cancel()
		if !errors.Is(err, runner.ErrTimeout) || o.Killed == "" {
			t.Errorf("%s: Run() = %+v, %v, want the timeout", path, o, err)
		}
	}
	client.Close()
	if n := client.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A request is sent again where that cannot do harm, and no more often than was said.
func TestRetries(t *testing.T) {
	var calls atomic.Int64
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		n := calls.Add(1)
		fails, code, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		body, _ := io.ReadAll(r.Body)
		if limit, _ := strconv.Atoi(fails); n <= int64(limit) {
			if code == "0" {
				panic(nethttp.ErrAbortHandler)
			}
			w.Header().Set("Retry-After", "0")
			status, _ := strconv.Atoi(code)
			w.WriteHeader(status)
			return
		}
		w.Write(body)
	})
	r, _ := open(t, web.Config{})
	for name, test := range map[string]struct {
		path  string
		pairs []string
		calls int64
		ok    bool
	}{
		"none by default":     {"/1/503", nil, 1, false},
		"storm of 503":        {"/9/503", []string{"http.retries", "9"}, 10, true},
		"storm too long":      {"/9/429", []string{"http.retries", "8"}, 9, false},
		"500 of a POST":       {"/1/500", []string{"http.retries", "3"}, 1, false},
		"500 of a GET":        {"/1/500", []string{"http.retries", "3", "http.method", "GET"}, 2, true},
		"500 with a key":      {"/1/502", []string{"http.retries", "3", "http.idempotency_header", "K"}, 2, true},
		"broken with a key":   {"/1/0", []string{"http.retries", "3", "http.idempotency_header", "K"}, 2, true},
		"broken without one":  {"/1/0", []string{"http.retries", "3"}, 1, false},
		"404 is an answer":    {"/1/404", []string{"http.retries", "3", "http.method", "GET"}, 1, false},
		"503 that is a while": {"/1/503", []string{"http.retries", "3", "http.expect", "503"}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			calls.Store(0)
			o, _ := run(t, r, job(t, s.URL+test.path, append(test.pairs, "http.body", `"x"`)...))
			if (o.Status == contracts.StatusSucceeded) != test.ok || calls.Load() != test.calls {
				t.Errorf("outcome = %+v after %d calls, want ok = %v after %d", o, calls.Load(), test.ok, test.calls)
			}
		})
	}
}

// Redirects are followed as browsers do, up to a bound; what is secret stays with the host that it is for (E28).
func TestRedirects(t *testing.T) {
	var got seen
	other := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, string(body), r.Header}
	})
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		code, to, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		status, _ := strconv.Atoi(code)
		switch to {
		case "away":
			w.Header().Set("Location", other.URL+"/there")
		case "here":
			w.Header().Set("Location", "/200/end")
		case "loop":
			w.Header().Set("Location", r.URL.Path)
		case "file":
			w.Header().Set("Location", "file:///etc/passwd")
		case "user":
			w.Header().Set("Location", strings.Replace(other.URL, "://", "://me:hunter2@", 1))
		case "bad":
			w.Header().Set("Location", "http://me:hunter2@[::")
		case "local":
			w.Header().Set("Location", "http://169.254.169.254/latest/meta-data")
		case "end":
			body, _ := io.ReadAll(r.Body)
			got = seen{r.Method, r.RequestURI, string(body), r.Header}
		}
		w.WriteHeader(status)
	})
	dir := secretsDir(t, map[string]string{"t": "hunter2"})
	r, _ := open(t, web.Config{SecretsDir: dir})
	login := []string{"http.bearer", "secret:t", "http.header.X-Key", "secret:t", "http.header.X-Plain", "p", "http.header.Cookie", "c"}
	for name, test := range map[string]struct {
		path   string
		pairs  []string
		status contracts.Status
		want   string // in the error, or method and body
		bare   bool   // no secret arrived
	}{
		"302 becomes GET":         {"/302/here", []string{"http.body", "1"}, "succeeded", "GET ", false},
		"303 becomes GET":         {"/303/here", []string{"http.body", "1", "http.method", "PUT"}, "succeeded", "GET ", false},
		"307 stays":               {"/307/here", []string{"http.body", "1"}, "succeeded", "POST 1", false},
		"308 stays":               {"/308/here", []string{"http.body", "1"}, "succeeded", "POST 1", false},
		"away":                    {"/307/away", []string{"http.body", "1"}, "succeeded", "POST 1", true},
		"away with a secret body": {"/307/away", []string{"http.body", `"{{secret:t}}"`}, "failed", "of a body with a secret in it", true},
		"loop":                    {"/302/loop", []string{"http.max_redirects", "3"}, "failed", "more than 3 redirects", false},
		"not followed":            {"/302/here", []string{"http.max_redirects", "0"}, "failed", "HTTP 302", false},
		"to a file":               {"/302/file", nil, "failed", "not http or https", false},
		"with a user":             {"/302/user", nil, "failed", "a redirect to a URL with a user name", false},
		"to no url":               {"/302/bad", nil, "failed", "a redirect to what is not a URL", false},
		"to link-local":           {"/302/local", nil, "failed", "169.254.169.254 (link-local): not allowed", false},
	} {
		t.Run(name, func(t *testing.T) {
			got = seen{}
			o, _ := run(t, r, job(t, s.URL+test.path, append(test.pairs, login...)...))
			if o.Status != test.status {
				t.Fatalf("outcome = %+v", o)
			}
			if strings.Contains(fmt.Sprint(o), "hunter2") {
				t.Errorf("a secret is in the outcome: %+v", o)
			}
			if o.Status == contracts.StatusFailed {
				if !strings.Contains(o.Error, test.want) {
					t.Errorf("error = %q, want %s", o.Error, test.want)
				}
				return
			}
			if sent := got.method + " " + got.body; sent != test.want {
				t.Errorf("arrived %q, want %q", sent, test.want)
			}
			for _, name := range []string{"Authorization", "X-Key", "Cookie"} {
				if arrived := got.header.Get(name) != ""; arrived == test.bare {
					t.Errorf("%s arrived: %v", name, arrived)
				}
			}
			if got.header.Get("X-Plain") != "p" {
				t.Error("a plain header is lost")
			}
		})
	}
}

// A body from standard input is sent again after a redirect.
func TestInputIsSentAgain(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/a" {
			w.Header().Set("Location", "/b")
			w.WriteHeader(307)
			return
		}
		w.Write(body)
	})
	r, _ := open(t, web.Config{})
	content := runnertest.Pattern(1 << 20)
	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	j := job(t, s.URL+"/a")
	j.Stdin = file
	if o, sink := run(t, r, j); o.Status != contracts.StatusSucceeded || !bytes.Equal(sink.Bytes(contracts.Stdout), content) {
		t.Errorf("outcome = %+v, %d bytes", o, len(sink.Stdout()))
	}
	j.Stdin = strings.NewReader("once")
	if o, _ := run(t, r, j); o.Status != contracts.StatusFailed || !strings.Contains(o.Error, "cannot be sent twice") {
		t.Errorf("outcome = %+v", o)
	}
}

// TLS is verified, with a private CA by the worker's policy (E28).
func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		fmt.Fprintf(w, "%x", r.TLS.Version)
	}))
	s.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	trusting, _ := open(t, web.Config{CAFile: ca})
	if o, sink := run(t, trusting, job(t, s.URL)); o.Status != contracts.StatusSucceeded || sink.Stdout() != "303" {
		t.Errorf("private CA: %+v, %q", o, sink.Stdout())
	}
	if o, _ := run(t, trusting, job(t, s.URL, "http.tls_min", "1.3")); o.Status != contracts.StatusFailed || !strings.Contains(o.Error, "protocol version") {
		t.Errorf("TLS 1.2 where 1.3 is asked for: %+v", o)
	}
	strange, _ := open(t, web.Config{})
	if o, _ := run(t, strange, job(t, s.URL)); o.Status != contracts.StatusFailed || !strings.Contains(o.Error, "certificate") {
		t.Errorf("unknown CA: %+v", o)
	}
}

// A large answer can be kept as a file.
func TestResponseFile(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
		w.Write(runnertest.Pattern(100_000))
	})
	r, _ := open(t, web.Config{})
	j := job(t, s.URL, "http.response_file", "out/body.bin")
	o, sink := run(t, r, j)
	got, err := os.ReadFile(filepath.Join(j.Artifacts, "out", "body.bin"))
	if o.Status != contracts.StatusSucceeded || err != nil || !bytes.Equal(got, runnertest.Pattern(100_000)) || sink.Stdout() != "" {
		t.Errorf("outcome = %+v, %d bytes, %v", o, len(got), err)
	}
	j = job(t, s.URL+"/bad", "http.response_file", "body.bin")
	if o, sink := run(t, r, j); o.Status != contracts.StatusFailed || len(sink.Stdout()) != 100_000 {
		t.Errorf("outcome = %+v, %d bytes on stdout: an error's body is for people", o, len(sink.Stdout()))
	}
}

// What the other side sends back of a secret is not stored: not in output, errors or metadata.
func TestSecretsDoNotComeBack(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		if r.URL.Path == "/bad" {
			w.WriteHeader(400)
		}
		if r.URL.Path == "/away" {
			w.Header().Set("Location", "http://127.0.0.1:1/"+r.Header.Get("X-Key"))
			w.WriteHeader(302)
		}
		for name := range r.Header {
			fmt.Fprintf(w, "%s: %s\n", name, r.Header.Get(name))
			w.(nethttp.Flusher).Flush()
		}
		io.WriteString(w, "hun")
		w.(nethttp.Flusher).Flush()
		time.Sleep(10 * time.Millisecond) // so that it is read in two pieces, which is what is tried here
		io.WriteString(w, "ter2 hunt")
	})
	r, _ := open(t, web.Config{SecretsDir: secretsDir(t, map[string]string{"t": "hunter2"})})
	for _, path := range []string{"/", "/bad", "/away"} {
		for _, login := range [][]string{{"http.bearer", "secret:t"}, {"http.basic_user", "u", "http.basic_password", "secret:t"}} {
			o, sink := run(t, r, job(t, s.URL+path, append(login, "http.header.X-Key", "secret:t")...))
			all := fmt.Sprint(o) + sink.Stdout()
			if strings.Contains(all, "hunter2") || strings.Contains(all, "dTpodW50ZXIy") {
				t.Errorf("%s: the secret came back: %s", path, all)
			}
			if path != "/away" && !strings.HasSuffix(sink.Stdout(), "[secret] hunt") {
				t.Errorf("stdout = %q: what only looks like a secret is lost", sink.Stdout())
			}
		}
	}
}

// An unknown secret is named, and nothing is sent.
func TestUnknownSecret(t *testing.T) {
	var calls atomic.Int64
	s := serve(t, func(nethttp.ResponseWriter, *nethttp.Request) { calls.Add(1) })
	r, _ := open(t, web.Config{SecretsDir: secretsDir(t, map[string]string{"empty": "", "lines": "a\nb"})})
	for pair, want := range map[[2]string]string{
		{"http.bearer", "secret:nobody"}:      `secret "nobody": this worker has no such secret`,
		{"http.bearer", "secret:empty"}:       `secret "empty": it is empty`,
		{"http.header.X", "secret:lines"}:     `has a character that no header may have`,
		{"http.body", `"{{secret:no.body}}"`}: `secret "no.body"`,
	} {
		_, err := r.Run(t.Context(), job(t, s.URL, pair[0], pair[1]), &runnertest.Sink{})
		if !errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: Run() = %v, want %s", pair, err, want)
		}
	}
	if calls.Load() != 0 {
		t.Errorf("%d requests were sent", calls.Load())
	}
}

// Connections are used again by one tenant's jobs, never by another's.
func TestConnectionsOfATenant(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { io.WriteString(w, "ok") })
	r, client := open(t, web.Config{})
	for i, tenant := range []string{"a", "a", "a", "b", "b", "a"} {
		j := job(t, s.URL)
		j.Tenant = tenant
		run(t, r, j)
		if want := map[bool]int{true: 1, false: 2}[i < 3]; client.Dialed() != want {
			t.Errorf("job %d: %d connections so far, want %d", i, client.Dialed(), want)
		}
	}
}

var quiet = log.New(io.Discard, "", 0)

//go:build unix

package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// echo answers with what it was sent.
func echo(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/503":
			w.WriteHeader(503)
			io.WriteString(w, "not now")
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: one\n\nevent: done\ndata: two\n\n")
		case "/runs":
			w.WriteHeader(202)
			io.WriteString(w, `{"id":7}`)
		case "/runs/7":
			io.WriteString(w, `{"state":"completed"}`)
		default:
			fmt.Fprintf(w, "%s %s %s %s %s\n", r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("X-A")+r.Header.Get("Authorization"), body)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestHTTP(t *testing.T) {
	a, s := newAccount(t), echo(t)
	secrets := a.file("secrets")
	if err := os.WriteFile(secrets, []byte("token=hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.dev("127.0.0.1:0", "--http-allow", "127.0.0.0/8", "--secrets-file", secrets)
	file := a.file("body")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		out  string
		err  string // a part
	}{
		"get":     {[]string{s.URL + "/a", "--query", "q=1 2", "-H", "X-A: b"}, 0, "GET /a?q=1+2  b \n", ""},
		"json":    {[]string{s.URL, "-d", `{"a":1}`}, 0, "POST / application/json  {\"a\":1}\n", ""},
		"raw":     {[]string{s.URL, "-X", "put", "--raw", "-d", "text"}, 0, "PUT / text/plain; charset=utf-8  text\n", ""},
		"form":    {[]string{s.URL, "--form", "a=1", "--form", "a=2"}, 0, "POST / application/x-www-form-urlencoded  a=1&a=2\n", ""},
		"file":    {[]string{s.URL, "--raw", "-d", "@" + file}, 0, "POST / application/octet-stream  " + strings.Repeat("x", 1<<20) + "\n", ""},
		"secret":  {[]string{s.URL, "--bearer", "secret:token"}, 0, "GET /  Bearer [secret] \n", ""},
		"503":     {[]string{s.URL + "/503"}, 1, "not now", "HTTP 503: not now"},
		"expect":  {[]string{s.URL + "/503", "--expect", "503"}, 0, "not now", ""},
		"nobody":  {[]string{"http://127.0.0.1:1/"}, 1, "", "http error"},
		"events":  {[]string{s.URL + "/events", "--sse", "--sse-terminal-events", "done"}, 0, "one\ntwo\n", ""},
		"polls":   {[]string{s.URL + "/runs", "--poll-url-template", s.URL + "/runs/{run_id}", "--poll-run-id-path", "id", "--poll-status-path", "state", "--poll-terminal-states", "completed"}, 0, `{"state":"completed"}`, ""},
		"refused": {[]string{"http://me:hunter2@127.0.0.1/"}, 125, "", "has a user name or password"},
		"no end":  {[]string{s.URL, "--sse"}, 125, "", "nothing would end the stream"},
		"both":    {[]string{s.URL, "--sse", "--poll-status-path", "x"}, 125, "", "use one of them"},
		"bodies":  {[]string{s.URL, "-d", "1", "--form", "a=1"}, 125, "", "use one of them"},
		"header":  {[]string{s.URL, "-H", "nothing"}, 125, "", "it is NAME: VALUE"},
		"field":   {[]string{s.URL, "--form", "nothing"}, 125, "", "it is NAME=VALUE"},
		"no data": {[]string{s.URL, "--raw"}, 125, "", "there is none"},
		"no file": {[]string{s.URL, "-d", "@/nonexistent"}, 125, "", "--data"},
		"policy":  {[]string{"http://10.0.0.1/"}, 125, "", "10.0.0.1 (private): not allowed by this worker"},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.submit(append([]string{"http"}, c.args...)...)
			if got.code != c.code || got.out != c.out || !strings.Contains(got.err, c.err) {
				t.Errorf("exit code %d, stdout %.200q, stderr %q; want %d, %.200q, %q", got.code, got.out, got.err, c.code, c.out, c.err)
			}
			if strings.Contains(got.out+got.err, "hunter2") {
				t.Errorf("a secret was printed: %q, %q", got.out, got.err)
			}
		})
	}
	var report struct {
		Status   string            `json:"status"`
		Metadata map[string]string `json:"metadata"`
	}
	got := a.submit("http", "--json", s.URL+"/503")
	if err := json.Unmarshal([]byte(got.out), &report); err != nil || report.Status != "failed" || report.Metadata["http.status"] != "503" {
		t.Errorf("--json says %s, %v", got.out, err)
	}
	doc := fmt.Sprintf(`{"runtime_kind":"http","metadata":{"http.url":%q}}`, s.URL)
	if got := a.feed(strings.NewReader(doc), "send", "-f", "-", "--wait"); got.code != 0 || got.out != "POST /   \n" {
		t.Errorf("send: %s", got)
	}
}

// In this process the worker is the user's own: it may call this machine, and has secrets of the environment.
func TestHTTPEmbedded(t *testing.T) {
	a, s := newAccount(t), echo(t)
	a.set("RUNNEL_SECRET_token", "hunter2")
	if got, want := a.submit("http", "--embedded", s.URL, "--bearer", "secret:token"), (said{"GET /  Bearer [secret] \n", "", 0}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := a.submit("http", "--embedded", "--detach", s.URL); got.code != 125 || !strings.Contains(got.err, "http --detach --embedded") {
		t.Errorf("got %s, want it refused", got)
	}
}

// In RxP the exit code of http is the status of the answer (E29); what breaks a rule is rejected before anything is sent (E26, E33).
func TestRxPOfHTTP(t *testing.T) {
	a, s := newAccount(t), echo(t)
	a.dir = a.home
	a.dev("127.0.0.1:0", "--http-allow", "127.0.0.0/8")
	polls := map[string]string{
		"http.url": s.URL + "/runs", "http.poll_url_template": s.URL + "/runs/{run_id}", "http.poll_run_id_path": "id", "http.poll_status_path": "state",
		"http.poll_terminal_states": "completed",
	}
	for name, c := range map[string]struct {
		kind     string
		metadata map[string]string
		status   string
		code     int64 // -1 is null
		says     string
	}{
		"200":          {"http", map[string]string{"http.url": s.URL + "/"}, "succeeded", 200, ""},
		"503":          {"http", map[string]string{"http.url": s.URL + "/503"}, "failed", 503, "HTTP 503: not now"},
		"nobody":       {"http", map[string]string{"http.url": "http://127.0.0.1:1/"}, "failed", 1, "http error: "},
		"no url":       {"http", nil, "rejected", -1, "is missing"},
		"async":        {"http_async", polls, "succeeded", 0, ""},
		"async, empty": {"http_async", map[string]string{"http.url": s.URL}, "rejected", -1, "http.poll_url_template"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.metadata == nil {
				c.metadata = map[string]string{}
			}
			id := strings.NewReplacer(" ", "", ",", "").Replace(name)
			r := a.result(a.rxp(asked{"invocation_id": id, "runtime_kind": c.kind, "command": []string{"unused"}, "metadata": c.metadata}))
			code := int64(-1)
			if r.ExitCode != nil {
				code = *r.ExitCode
			}
			said := ""
			if r.ErrorSummary != nil {
				said = *r.ErrorSummary
			}
			if string(r.Status) != c.status || code != c.code || !strings.Contains(said, c.says) {
				t.Errorf("%s, exit code %d, %q; want %s, %d, %q", r.Status, code, said, c.status, c.code, c.says)
			}
		})
	}
}

package contracts_test

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/contracts"
)

func request(kind contracts.Kind, metadata map[string]string) contracts.Invocation {
	return contracts.Invocation{ID: "job", Kind: kind, Metadata: metadata}
}

// with returns a copy of m with pairs of names and values; the value "-" takes a name away.
func with(m map[string]string, pairs ...string) map[string]string {
	m = maps.Clone(m)
	for i := 0; i < len(pairs); i += 2 {
		if m[pairs[i]] = pairs[i+1]; pairs[i+1] == "-" {
			delete(m, pairs[i])
		}
	}
	return m
}

var (
	plainHTTP = map[string]string{"http.url": "http://example.com/a"}
	polled    = with(plainHTTP, "http.poll_url_template", "http://example.com/runs/{run_id}", "http.poll_run_id_path", "run.id",
		"http.poll_status_path", "status", "http.poll_terminal_states", "completed, failed")
	streamed = with(plainHTTP, "http.sse_terminal_events", "done,error")
)

// What is left out has a default (E26, E27, E28, E32).
func TestHTTPDefaults(t *testing.T) {
	u, _ := url.Parse("http://example.com/a")
	base := contracts.HTTP{URL: u, Method: "POST", Headers: map[string]string{}, Format: "json", MaxRedirects: 10, TLSMin: "1.2"}
	plain := base
	plain.Expect = contracts.Codes{{200, 299}}
	async := base
	async.Retries = 5
	async.Poll = &contracts.HTTPPoll{
		URL: "http://example.com/runs/{run_id}", RunID: contracts.JSONPath{"run", "id"}, Status: contracts.JSONPath{"status"},
		CancelMethod: "POST", Terminal: []string{"completed", "failed"}, Success: []string{"completed"},
		Interval: 2 * time.Second, MaxInterval: time.Minute, Backoff: 1, Jitter: 0.1, Accepted: contracts.Codes{{200, 200}, {202, 202}},
	}
	events := base
	events.Method, events.Retries = "GET", 5
	events.Events = &contracts.HTTPEvents{Terminal: []string{"done", "error"}, Success: []string{"done", "error"}, Idle: 5 * time.Minute}
	for kind, test := range map[contracts.Kind]struct {
		metadata map[string]string
		want     contracts.HTTP
	}{
		contracts.KindHTTP: {plainHTTP, plain}, contracts.KindHTTPAsync: {polled, async}, contracts.KindHTTPSSE: {streamed, events},
	} {
		got, err := request(kind, test.metadata).HTTP()
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
		if err := request(kind, test.metadata).Validate(); err != nil {
			t.Errorf("Validate() = %v", err)
		}
	}
}

func TestHTTPSettings(t *testing.T) {
	h, err := request(contracts.KindHTTP, with(plainHTTP,
		"http.url", "https://example.com:8443/a?x=1", "http.query.q", "a b&c", "http.method", "patch", "http.header.x-trace", "t {{secret:trace}}",
		"http.bearer", "secret:token", "http.body", `{"a":"{{secret:in.body}}"}`, "http.expect", "200, 3xx,404-410",
		"http.max_redirects", "0", "http.tls_min", "1.3", "http.response_file", "out/body.bin", "http.idempotency_header", "idempotency-key",
		"other.key", "is nobody's business",
	)).HTTP()
	if err != nil {
		t.Fatal(err)
	}
	if got := h.URL.String(); got != "https://example.com:8443/a?x=1&q=a+b%26c" {
		t.Errorf("URL = %s", got)
	}
	if h.Method != "PATCH" || h.Headers["X-Trace"] != "t {{secret:trace}}" || h.MaxRedirects != 0 || h.TLSMin != "1.3" || h.IdempotencyHeader != "Idempotency-Key" {
		t.Errorf("settings = %+v", h)
	}
	for code, want := range map[int]bool{200: true, 201: false, 302: true, 404: true, 410: true, 411: false, 500: false} {
		if h.Expect.Has(code) != want {
			t.Errorf("Expect.Has(%d) = %v", code, !want)
		}
	}
}

// Every rule is broken once, and named; nothing is sent before (E26, E27, E32, E33, E37, E41).
func TestHTTPNamesWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		kind     contracts.Kind
		metadata map[string]string
		want     string // one of the problems
	}{
		"no url (E26)":              {contracts.KindHTTP, nil, `metadata["http.url"]: is missing`},
		"not a url":                 {contracts.KindHTTP, with(plainHTTP, "http.url", "http://a b/"), `metadata["http.url"]: is not a URL`},
		"another scheme":            {contracts.KindHTTP, with(plainHTTP, "http.url", "file:///etc/passwd"), `must begin with http:// or https://`},
		"no host":                   {contracts.KindHTTP, with(plainHTTP, "http.url", "http:///a"), `has no host`},
		"port":                      {contracts.KindHTTP, with(plainHTTP, "http.url", "http://a:70000/"), `has a port`},
		"user in url":               {contracts.KindHTTP, with(plainHTTP, "http.url", "http://u:hunter2@a/"), `has a user name or password`},
		"secret in url":             {contracts.KindHTTP, with(plainHTTP, "http.url", "http://a/?k={{secret:k}}"), `has a reference to a secret`},
		"secret in query":           {contracts.KindHTTP, with(plainHTTP, "http.query.key", "secret:k"), `metadata["http.query.key"]: has a reference to a secret`},
		"query without a name":      {contracts.KindHTTP, with(plainHTTP, "http.query.", "k"), `the name must not be empty`},
		"method":                    {contracts.KindHTTP, with(plainHTTP, "http.method", "GE T"), `metadata["http.method"]: "GE T" is not a method`},
		"connect":                   {contracts.KindHTTP, with(plainHTTP, "http.method", "connect"), `CONNECT is not allowed`},
		"body not json (E27)":       {contracts.KindHTTP, with(plainHTTP, "http.body", "{"), `metadata["http.body"]: invalid body: is not JSON`},
		"form not object (E27)":     {contracts.KindHTTP, with(plainHTTP, "http.body", "[1]", "http.body_format", "form"), `invalid body: a form is a JSON object`},
		"form nested (E27)":         {contracts.KindHTTP, with(plainHTTP, "http.body", `{"a":[{}]}`, "http.body_format", "form"), `invalid body: field "a" of the form`},
		"body format (E27)":         {contracts.KindHTTP, with(plainHTTP, "http.body", "{}", "http.body_format", "xml"), `invalid body: "xml" is not json, form or raw`},
		"open reference":            {contracts.KindHTTP, with(plainHTTP, "http.body", `"{{secret:x"`), `metadata["http.body"]: has a {{secret:`},
		"bad reference":             {contracts.KindHTTP, with(plainHTTP, "http.header.A", `{{secret:../x}}`), `metadata["http.header.A"]: has a {{secret:`},
		"header name":               {contracts.KindHTTP, with(plainHTTP, "http.header.a b", "c"), `is not the name of a header`},
		"header without a name":     {contracts.KindHTTP, with(plainHTTP, "http.header.", "c"), `is not the name of a header`},
		"header of the connection":  {contracts.KindHTTP, with(plainHTTP, "http.header.host", "c"), `Host is the connection's`},
		"header of a proxy":         {contracts.KindHTTP, with(plainHTTP, "http.header.proxy-authorization", "c"), `Proxy-Authorization is the connection's`},
		"header twice":              {contracts.KindHTTP, with(plainHTTP, "http.header.a", "c", "http.header.A", "c"), `is there twice`},
		"header of two lines":       {contracts.KindHTTP, with(plainHTTP, "http.header.a", "c\r\nHost: x"), `has a control character`},
		"bearer in the clear":       {contracts.KindHTTP, with(plainHTTP, "http.bearer", "hunter2"), `must be a reference to a secret`},
		"password in the clear":     {contracts.KindHTTP, with(plainHTTP, "http.basic_user", "u", "http.basic_password", "hunter2"), `must be a reference to a secret`},
		"password without user":     {contracts.KindHTTP, with(plainHTTP, "http.basic_password", "secret:p"), `metadata["http.basic_user"]: is missing`},
		"user without password":     {contracts.KindHTTP, with(plainHTTP, "http.basic_user", "u"), `metadata["http.basic_password"]: is missing`},
		"user with a colon":         {contracts.KindHTTP, with(plainHTTP, "http.basic_user", "u:v", "http.basic_password", "secret:p"), `has a character`},
		"two logins":                {contracts.KindHTTP, with(plainHTTP, "http.basic_user", "u", "http.basic_password", "secret:p", "http.bearer", "secret:b"), `must not be set beside`},
		"login and header":          {contracts.KindHTTP, with(plainHTTP, "http.bearer", "secret:b", "http.header.authorization", "c"), `must not be set beside`},
		"expect":                    {contracts.KindHTTP, with(plainHTTP, "http.expect", "200,ok"), `metadata["http.expect"]: must be comma-separated integers`},
		"expect nothing":            {contracts.KindHTTP, with(plainHTTP, "http.expect", " "), `metadata["http.expect"]: must be`},
		"redirects":                 {contracts.KindHTTP, with(plainHTTP, "http.max_redirects", "21"), `"21" is not a whole number within 0 to 20`},
		"tls":                       {contracts.KindHTTP, with(plainHTTP, "http.tls_min", "1.0"), `"1.0" is not 1.2 or 1.3`},
		"file outside":              {contracts.KindHTTP, with(plainHTTP, "http.response_file", "../x"), `is not a relative path`},
		"retries":                   {contracts.KindHTTP, with(plainHTTP, "http.retries", "-1"), `is not a whole number`},
		"idempotency header":        {contracts.KindHTTP, with(plainHTTP, "http.idempotency_header", "a b"), `is not the name of a header`},
		"idempotency header twice":  {contracts.KindHTTP, with(plainHTTP, "http.idempotency_header", "k", "http.header.K", "1"), `is set by http.header, too`},
		"unknown":                   {contracts.KindHTTP, with(plainHTTP, "http.methode", "GET"), `metadata["http.methode"]: is not a setting of kind http: did you mean "http.method"?`},
		"unknown to the last":       {contracts.KindHTTP, with(plainHTTP, "http.zzzzzzzzzz", "GET"), `metadata["http.zzzzzzzzzz"]: is not a setting of kind http`},
		"of another kind":           {contracts.KindHTTP, polled, `metadata["http.poll_status_path"]: is not a setting of kind http`},
		"no template (E33)":         {contracts.KindHTTPAsync, with(polled, "http.poll_url_template", "-"), `metadata["http.poll_url_template"]: is missing`},
		"two ways to poll":          {contracts.KindHTTPAsync, with(polled, "http.poll_location", "true"), `must not be set beside http.poll_location`},
		"location":                  {contracts.KindHTTPAsync, with(polled, "http.poll_location", "yes"), `"yes" is not true or false`},
		"template of another":       {contracts.KindHTTPAsync, with(polled, "http.poll_url_template", "http://{run_id}.example.com/"), `has {run_id} before the path`},
		"template with a user":      {contracts.KindHTTPAsync, with(polled, "http.poll_url_template", "http://u:hunter2@a/{run_id}"), `has a user name or password`},
		"unknown placeholder":       {contracts.KindHTTPAsync, with(polled, "http.poll_url_template", "http://a/{id}"), `has a placeholder that is not {run_id}`},
		"cancel template":           {contracts.KindHTTPAsync, with(polled, "http.cancel_url_template", "ftp://a/{run_id}"), `metadata["http.cancel_url_template"]: must begin`},
		"cancel method":             {contracts.KindHTTPAsync, with(polled, "http.cancel_method", ""), `metadata["http.cancel_method"]`},
		"no run id path (E37)":      {contracts.KindHTTPAsync, with(polled, "http.poll_run_id_path", "-"), `metadata["http.poll_run_id_path"]: is missing: a template has {run_id}`},
		"empty path (E36)":          {contracts.KindHTTPAsync, with(polled, "http.poll_run_id_path", ".."), `names nothing`},
		"bad pointer":               {contracts.KindHTTPAsync, with(polled, "http.poll_run_id_path", "/a~2"), `has a ~ that is not`},
		"no status path (E33)":      {contracts.KindHTTPAsync, with(polled, "http.poll_status_path", "-"), `metadata["http.poll_status_path"]: is missing`},
		"no states (E33)":           {contracts.KindHTTPAsync, with(polled, "http.poll_terminal_states", "-"), `metadata["http.poll_terminal_states"]: is missing`},
		"empty states (E33)":        {contracts.KindHTTPAsync, with(polled, "http.poll_terminal_states", " , "), `metadata["http.poll_terminal_states"]: is empty`},
		"success not an end (E41)":  {contracts.KindHTTPAsync, with(polled, "http.poll_success_states", "done"), `metadata["http.poll_success_states"]: "done" is not in http.poll_terminal_states: it would never end`},
		"default not an end (E41)":  {contracts.KindHTTPAsync, with(polled, "http.poll_terminal_states", "failed"), `"completed" is not in http.poll_terminal_states`},
		"pending codes (E33)":       {contracts.KindHTTPAsync, with(polled, "http.poll_pending_codes", "404,soon"), `metadata["http.poll_pending_codes"]: must be comma-separated integers`},
		"negative interval (E33)":   {contracts.KindHTTPAsync, with(polled, "http.poll_interval_seconds", "-1"), `metadata["http.poll_interval_seconds"]: "-1" is not a number within`},
		"interval 0":                {contracts.KindHTTPAsync, with(polled, "http.poll_interval_seconds", "0"), `metadata["http.poll_interval_seconds"]: "0" is not a number within`},
		"interval no number (E33)":  {contracts.KindHTTPAsync, with(polled, "http.poll_interval_seconds", "soon"), `metadata["http.poll_interval_seconds"]: "soon" is not a number`},
		"interval NaN":              {contracts.KindHTTPAsync, with(polled, "http.poll_interval_seconds", "NaN"), `"NaN" is not a number`},
		"most below least":          {contracts.KindHTTPAsync, with(polled, "http.poll_max_interval_seconds", "1"), `is less than http.poll_interval_seconds`},
		"backoff":                   {contracts.KindHTTPAsync, with(polled, "http.poll_backoff", "0.5"), `metadata["http.poll_backoff"]`},
		"jitter":                    {contracts.KindHTTPAsync, with(polled, "http.poll_jitter", "2"), `metadata["http.poll_jitter"]`},
		"accepted":                  {contracts.KindHTTPAsync, with(polled, "http.poll_accepted", "99"), `metadata["http.poll_accepted"]`},
		"stream without an end":     {contracts.KindHTTPSSE, plainHTTP, `metadata["http.sse_terminal_events"]: is missing: nothing would end the stream`},
		"success event not an end":  {contracts.KindHTTPSSE, with(streamed, "http.sse_success_events", "ok"), `"ok" is not in http.sse_terminal_events: it would never end`},
		"status without states":     {contracts.KindHTTPSSE, with(streamed, "http.sse_status_path", "s"), `metadata["http.sse_terminal_states"]: is missing beside`},
		"states without status":     {contracts.KindHTTPSSE, with(streamed, "http.sse_terminal_states", "a"), `metadata["http.sse_status_path"]: is missing`},
		"success state not an end":  {contracts.KindHTTPSSE, with(streamed, "http.sse_status_path", "s", "http.sse_terminal_states", "a"), `"completed" is not in http.sse_terminal_states`},
		"idle":                      {contracts.KindHTTPSSE, with(streamed, "http.sse_idle_seconds", "0"), `metadata["http.sse_idle_seconds"]`},
		"format":                    {contracts.KindHTTPSSE, with(streamed, "http.sse_format", "xml"), `"xml" is not data or json`},
		"eof":                       {contracts.KindHTTPSSE, with(streamed, "http.sse_eof_ends", "1"), `"1" is not true or false`},
		"expect of another kind":    {contracts.KindHTTPSSE, with(streamed, "http.expect", "200"), `metadata["http.expect"]: is not a setting of kind http_sse`},
		"response file, wrong kind": {contracts.KindHTTPAsync, with(polled, "http.response_file", "a"), `metadata["http.response_file"]: is not a setting of kind http_async`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inv := request(test.kind, test.metadata)
			_, err := inv.HTTP()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("HTTP() = %v, want %s", err, test.want)
			}
			if again := inv.Validate(); again == nil || err != nil && again.Error() != err.Error() {
				t.Errorf("Validate() = %v, HTTP() says %v", again, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a password is in the error: %v", err)
			}
		})
	}
	body := request(contracts.KindHTTP, with(plainHTTP, "http.body", "{}"))
	body.Stdin = &contracts.Input{Data: []byte("x")}
	if err := body.Validate(); err == nil || !strings.Contains(err.Error(), "standard input is the body") {
		t.Errorf("Validate() = %v, want the two bodies refused", err)
	}
	// The order in which they are found is that of E33.
	_, err := request(contracts.KindHTTPAsync, map[string]string{"http.poll_pending_codes": "x", "http.poll_interval_seconds": "-1", "http.body": "{"}).HTTP()
	at := -1
	for _, name := range []string{"http.url", "http.poll_url_template", "http.poll_status_path", "http.poll_terminal_states", "http.poll_pending_codes", "http.poll_interval_seconds", "http.body"} {
		next := strings.Index(err.Error(), name+`"]`)
		if next <= at {
			t.Errorf("%s is not told in its place: %v", name, err)
		}
		at = next
	}
}

func TestFormValues(t *testing.T) {
	got, why := contracts.FormValues(`{"b":[1,true,"x"],"a":"é&","n":null,"big":12345678901234567890}`)
	want := [][2]string{{"a", "é&"}, {"b", "1"}, {"b", "true"}, {"b", "x"}, {"big", "12345678901234567890"}, {"n", ""}}
	if !slices.Equal(got, want) || why != "" {
		t.Errorf("FormValues() = %q, %q, want %q", got, why, want)
	}
}

func TestExpandSecrets(t *testing.T) {
	reveal := func(name string) string { return "<" + name + ">" }
	for value, want := range map[string]string{
		"": "", "plain": "plain", "secret:a": "<a>", "{{secret:a}}": "<a>", "x {{secret:a}} {{secret:b.c}} y": "x <a> <b.c> y", "a secret:b": "a secret:b", "{{secret": "{{secret",
	} {
		if got, why := contracts.ExpandSecrets(value, reveal); got != want || why != "" {
			t.Errorf("ExpandSecrets(%q) = %q, %q, want %q", value, got, why, want)
		}
	}
	for _, value := range []string{"secret:", "secret:a b", "secret:../../etc/passwd", "secret:.hidden", "{{secret:", "{{secret:}}", "{{secret:a/b}}", "{{secret:a"} {
		if _, why := contracts.ExpandSecrets(value, reveal); why == "" {
			t.Errorf("ExpandSecrets(%q) finds nothing wrong", value)
		}
	}
}

func TestParseJSONPath(t *testing.T) {
	for text, want := range map[string][]string{
		"a": {"a"}, "a..b.": {"a", "b"}, "items.0.id": {"items", "0", "id"}, "/a/b": {"a", "b"}, "/a~1b/~0": {"a/b", "~"}, "/": {""},
	} {
		if got, why := contracts.ParseJSONPath(text); !slices.Equal(got, want) || why != "" {
			t.Errorf("ParseJSONPath(%q) = %q, %q, want %q", text, got, why, want)
		}
	}
	for _, text := range []string{"", ".", "/~", "/~2", strings.Repeat("a.", 65)} {
		if _, why := contracts.ParseJSONPath(text); why == "" {
			t.Errorf("ParseJSONPath(%.20q) finds nothing wrong", text)
		}
	}
}

// Whatever a setting says, reading it does not panic, and what it takes Validate takes.
func FuzzHTTP(f *testing.F) {
	for _, seed := range []map[string]string{plainHTTP, polled, streamed} {
		for name, value := range seed {
			f.Add(name, value)
		}
	}
	for _, name := range []string{
		"http.query.a", "http.header.A", "http.method", "http.body", "http.body_format", "http.bearer", "http.basic_user", "http.basic_password", "http.expect",
		"http.max_redirects", "http.tls_min", "http.response_file", "http.idempotency_header", "http.retries", "http.poll_location", "http.poll_success_states",
		"http.poll_interval_seconds", "http.poll_max_interval_seconds", "http.poll_backoff", "http.poll_jitter", "http.poll_pending_codes", "http.poll_accepted",
		"http.cancel_url_template", "http.cancel_method", "http.sse_success_events", "http.sse_terminal_data", "http.sse_status_path", "http.sse_terminal_states",
		"http.sse_success_states", "http.sse_eof_ends", "http.sse_idle_seconds", "http.sse_format",
	} {
		for _, value := range []string{"", "secret:a", "{{secret:a}}", "2xx,404", "1e999", "-0", "http://u:p@[::1]:1/{run_id}?q#f", "/a/~1", `{"a":[1,null]}`} {
			f.Add(name, value)
		}
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		for kind, base := range map[contracts.Kind]map[string]string{contracts.KindHTTP: plainHTTP, contracts.KindHTTPAsync: polled, contracts.KindHTTPSSE: streamed} {
			inv := request(kind, with(base, name, value))
			h, err := inv.HTTP()
			if valid := inv.Validate() == nil; valid && err != nil {
				t.Fatalf("%s: valid, and not read: %v", kind, err)
			}
			if err != nil {
				continue
			}
			if h.URL == nil || h.URL.User != nil || h.URL.Hostname() == "" {
				t.Fatalf("%s: URL = %v", kind, h.URL)
			}
			if q := h.Poll; q != nil && (q.Interval <= 0 || q.MaxInterval < q.Interval || len(q.Terminal) == 0 || len(q.Status) == 0 || q.URL == "" && !q.Location) {
				t.Fatalf("a poll that never ends: %+v", q)
			}
			if e := h.Events; e != nil && (e.Idle <= 0 || len(e.Terminal) == 0 && e.Data == "" && len(e.States) == 0 && !e.EOF) {
				t.Fatalf("a stream that never ends: %+v", e)
			}
		}
	})
}

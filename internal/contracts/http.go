package contracts

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// HTTP is what the metadata of an http, http_async or http_sse invocation asks for (E26, E32). Every name and its
// rules stand in docs/protocol.md, "The HTTP kinds". Texts may hold references to secrets: see SecretNames.
type HTTP struct {
	// URL is where the request goes: http or https, with a host, without a user; http.query.* is in it already.
	URL *url.URL
	// Method is in upper case.
	Method string
	// Headers have canonical names.
	Headers map[string]string
	// Body is what is sent where standard input is not; HasBody tells an empty one from none.
	Body    string
	HasBody bool
	// Format is json, form or raw. "" is raw, of standard input.
	Format string
	// Bearer, or User and Password, log in. Bearer and Password are references to secrets.
	Bearer, User, Password string
	// Expect are the statuses that are a success.
	Expect Codes
	// MaxRedirects is how many redirects are followed; 0 is none.
	MaxRedirects int
	// TLSMin is the least version of TLS: 1.2 or 1.3.
	TLSMin string
	// ResponseFile is the artifact that gets the response's body in place of standard output; "" is none.
	ResponseFile string
	// IdempotencyHeader is the header that tells the request of one attempt from every other; "" sends none.
	IdempotencyHeader string
	// Retries is how often a request is sent again, in a row, that the other side may not have taken.
	Retries int

	// Poll is set for http_async, Events for http_sse.
	Poll   *HTTPPoll
	Events *HTTPEvents
}

// Metadata names of the HTTP kinds that others need to know.
const (
	httpPrefix       = "http."
	HTTPHeaderPrefix = "http.header."
	HTTPQueryPrefix  = "http.query."
)

// Bounds of the settings of the HTTP kinds.
const (
	maxRedirects  = 20
	maxRetries    = 100
	maxURLBytes   = 8 << 10
	minInterval   = 0.01
	maxInterval   = 86400
	maxHTTPStates = 64
)

// HTTPKind reports whether invocations of a kind have HTTP settings.
func HTTPKind(kind Kind) bool {
	return kind == KindHTTP || kind == KindHTTPAsync || kind == KindHTTPSSE
}

// HTTP reads the settings of an invocation of an HTTP kind. Its error is a *ValidationError with every rule that
// they break; it never has the value of a setting that may hold credentials.
func (inv Invocation) HTTP() (HTTP, error) {
	var p problems
	r := httpReader{p: &p, kind: inv.Kind, m: inv.Metadata, used: map[string]bool{}}
	h := r.read(inv)
	return h, p.err()
}

// http is the part of Validate for the HTTP kinds.
func (p *problems) http(inv Invocation) {
	if HTTPKind(inv.Kind) {
		r := httpReader{p: p, kind: inv.Kind, m: inv.Metadata, used: map[string]bool{}}
		r.read(inv)
	}
}

// httpReader takes settings by name and notes which it took: what is left is unknown.
type httpReader struct {
	p    *problems
	kind Kind
	m    map[string]string
	used map[string]bool
}

func (r *httpReader) bad(name, format string, a ...any) {
	r.p.add(key("metadata", name), format, a...)
}

func (r *httpReader) get(name string) (string, bool) {
	r.used[name] = true
	v, ok := r.m[name]
	return v, ok
}

func (r *httpReader) read(inv Invocation) HTTP {
	h := HTTP{Headers: map[string]string{}}
	// The order is that of E33: who reads one error only reads the first.
	if text, ok := r.get("http.url"); !ok || text == "" {
		r.bad("http.url", "is missing")
	} else {
		h.URL = r.url("http.url", text)
	}
	switch r.kind {
	case KindHTTPAsync:
		h.Poll = r.poll()
	case KindHTTPSSE:
		h.Events = r.events()
	}
	h.Method = r.method("http.method", map[bool]string{true: http.MethodGet, false: http.MethodPost}[r.kind == KindHTTPSSE])
	r.body(&h, inv)
	r.login(&h)
	for _, name := range slices.Sorted(maps.Keys(r.m)) {
		if header, ok := strings.CutPrefix(name, HTTPHeaderPrefix); ok {
			r.header(&h, name, header)
		}
	}
	r.query(&h)
	if r.kind == KindHTTP {
		h.Expect = r.codes("http.expect", "2xx")
		if h.ResponseFile, _ = r.get("http.response_file"); h.ResponseFile != "" {
			r.responseFile(h.ResponseFile)
		}
	}
	h.MaxRedirects = r.integer("http.max_redirects", 10, 0, maxRedirects)
	switch h.TLSMin, _ = r.get("http.tls_min"); h.TLSMin {
	case "":
		h.TLSMin = "1.2"
	case "1.2", "1.3":
	default:
		r.bad("http.tls_min", "%s is not 1.2 or 1.3", quote(h.TLSMin))
	}
	if h.IdempotencyHeader, _ = r.get("http.idempotency_header"); h.IdempotencyHeader != "" {
		if why := headerProblem(h.IdempotencyHeader); why != "" {
			r.bad("http.idempotency_header", "%s", why)
		}
		h.IdempotencyHeader = http.CanonicalHeaderKey(h.IdempotencyHeader)
		if _, twice := h.Headers[h.IdempotencyHeader]; twice {
			r.bad("http.idempotency_header", "%s is set by http.header, too", quote(h.IdempotencyHeader))
		}
	}
	h.Retries = r.integer("http.retries", map[bool]int{false: 5}[r.kind == KindHTTP], 0, maxRetries)
	r.unknown()
	return h
}

// unknown names every setting that nobody asked for.
func (r *httpReader) unknown() {
	for _, name := range slices.Sorted(maps.Keys(r.m)) {
		if !strings.HasPrefix(name, httpPrefix) || r.used[name] {
			continue
		}
		best, distance := "", len(name)/4+1
		for _, known := range slices.Sorted(maps.Keys(r.used)) {
			if d := difference(plain(name), plain(known)); d < distance {
				best, distance = known, d
			}
		}
		if best != "" && !strings.HasSuffix(best, ".") {
			r.bad(name, "is not a setting of kind %s: did you mean %q?", r.kind, best)
		} else {
			r.bad(name, "is not a setting of kind %s", r.kind)
		}
	}
}

// url checks a URL, and says nothing of what is in it: it may be a password in the wrong place.
func (r *httpReader) url(name, text string) *url.URL {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURLBytes:
		r.bad(name, "is %d bytes, more than %d", len(text), maxURLBytes)
	case err != nil:
		r.bad(name, "is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		r.bad(name, "must begin with http:// or https://")
	case u.Hostname() == "":
		r.bad(name, "has no host")
	case u.User != nil:
		r.bad(name, "has a user name or password: set http.basic_user and http.basic_password, or http.bearer, which take references to secrets")
	case strings.Contains(text, secretOpen):
		r.bad(name, "has a reference to a secret: URLs are logged everywhere; use a header, http.bearer or the body")
	case u.Port() != "" && !validPort(u.Port()):
		r.bad(name, "has a port that is not within 1 to 65535")
	default:
		return u
	}
	return nil
}

func validPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 65535
}

func (r *httpReader) method(name, none string) string {
	text, ok := r.get(name)
	if !ok {
		return none
	}
	method := strings.ToUpper(text)
	switch {
	case !validHeaderToken(method) || len(method) > 32:
		r.bad(name, "%s is not a method", quote(text))
	case method == http.MethodConnect || method == http.MethodTrace:
		r.bad(name, "%s is not allowed", method)
	}
	return method
}

func (r *httpReader) body(h *HTTP, inv Invocation) {
	stdin := inv.Stdin != nil && (inv.Stdin.Blob != "" || len(inv.Stdin.Data) > 0)
	h.Body, h.HasBody = r.get("http.body")
	h.Format, _ = r.get("http.body_format")
	if h.Format == "" && !stdin {
		h.Format = "json"
	}
	if h.HasBody && stdin {
		r.bad("http.body", "must not be set beside stdin: standard input is the body")
	}
	switch h.Format {
	case "", "raw":
	case "json":
		if h.HasBody && !json.Valid([]byte(h.Body)) {
			r.bad("http.body", "invalid body: is not JSON")
		}
	case "form":
		if h.HasBody {
			if _, why := FormValues(h.Body); why != "" {
				r.bad("http.body", "invalid body: %s", why)
			}
		}
	default:
		r.bad("http.body_format", "invalid body: %s is not json, form or raw", quote(h.Format))
	}
	r.secrets("http.body", h.Body)
}

// FormValues returns the fields of a form that is written as a JSON object (E27): texts, numbers and booleans
// as they are written, null as an empty text, a list of these as a field that is there more than once. why says what is wrong.
func FormValues(body string) (form [][2]string, why string) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &object); err != nil || object == nil {
		return nil, "a form is a JSON object"
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		values := []json.RawMessage{object[name]}
		if object[name][0] == '[' {
			values = nil
			_ = json.Unmarshal(object[name], &values) // it was read before
		}
		for _, raw := range values {
			switch text := string(raw); {
			case text == "null":
				form = append(form, [2]string{name, ""})
			case raw[0] == '"':
				_ = json.Unmarshal(raw, &text)
				form = append(form, [2]string{name, text})
			case raw[0] == '{' || raw[0] == '[':
				return nil, "field " + quote(name) + " of the form is not a text, a number or a list of these"
			default:
				form = append(form, [2]string{name, text})
			}
		}
	}
	return form, ""
}

func (r *httpReader) login(h *HTTP) {
	h.Bearer, _ = r.get("http.bearer")
	h.User, _ = r.get("http.basic_user")
	h.Password, _ = r.get("http.basic_password")
	for name, value := range map[string]string{"http.bearer": h.Bearer, "http.basic_password": h.Password} {
		if value != "" && !strings.HasPrefix(value, secretPrefix) {
			r.bad(name, "must be a reference to a secret of the worker, secret:NAME: what is written here is stored")
		}
	}
	r.secrets("http.bearer", h.Bearer)
	r.secrets("http.basic_password", h.Password)
	r.secrets("http.basic_user", h.User)
	switch {
	case h.Password != "" && h.User == "":
		r.bad("http.basic_user", "is missing beside http.basic_password")
	case h.User != "" && h.Password == "":
		r.bad("http.basic_password", "is missing beside http.basic_user")
	case !isSecretReference(h.User) && strings.ContainsAny(h.User, ":\r\n"):
		r.bad("http.basic_user", "has a character that a user name must not have")
	}
	if h.User != "" && h.Bearer != "" {
		r.bad("http.bearer", "must not be set beside http.basic_user")
	}
}

func (r *httpReader) header(h *HTTP, name, header string) {
	value, _ := r.get(name)
	if why := headerProblem(header); why != "" {
		r.bad(name, "%s", why)
		return
	}
	canonical := http.CanonicalHeaderKey(header)
	if _, twice := h.Headers[canonical]; twice {
		r.bad(name, "is there twice, in another spelling")
	}
	if canonical == "Authorization" && (h.Bearer != "" || h.User != "") {
		r.bad(name, "must not be set beside http.bearer and http.basic_user")
	}
	if !ValidHeaderValue(value) {
		r.bad(name, "has a control character")
	}
	r.secrets(name, value)
	h.Headers[canonical] = value
}

// headerProblem says why a header may not be set; "" if it may.
func headerProblem(name string) string {
	switch canonical := http.CanonicalHeaderKey(name); {
	case !validHeaderToken(name):
		return "is not the name of a header"
	case slices.Contains([]string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "Te", "Trailer", "Expect"}, canonical),
		strings.HasPrefix(canonical, "Proxy-"):
		return canonical + " is the connection's, and not to be set"
	}
	return ""
}

func validHeaderToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !lowerOrDigit(c) && (c < 'A' || c > 'Z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// ValidHeaderValue reports whether s may be the value of a header.
func ValidHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// query puts http.query.* into the URL.
func (r *httpReader) query(h *HTTP) {
	var more url.Values
	for _, name := range slices.Sorted(maps.Keys(r.m)) {
		field, ok := strings.CutPrefix(name, HTTPQueryPrefix)
		if !ok {
			continue
		}
		value, _ := r.get(name)
		switch {
		case field == "":
			r.bad(name, "the name must not be empty")
		case isSecretReference(value):
			r.bad(name, "has a reference to a secret: URLs are logged everywhere; use a header, http.bearer or the body")
		default:
			if more == nil {
				more = url.Values{}
			}
			more.Set(field, value)
		}
	}
	if more != nil && h.URL != nil {
		u := *h.URL
		u.RawQuery = strings.TrimPrefix(u.RawQuery+"&"+more.Encode(), "&")
		h.URL = &u
	}
}

func (r *httpReader) responseFile(name string) {
	if name != path.Clean(name) || path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") || len(name) > MaxNameBytes || strings.Contains(name, `\`) {
		r.bad("http.response_file", "%s is not a relative path without '.' and '..'", quote(name))
	}
}

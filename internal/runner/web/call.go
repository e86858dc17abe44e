package web

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// Call is what one run sends: its settings with the secrets in them, which nothing outside of this package sees.
type Call struct {
	// HTTP are the settings as they were written.
	contracts.HTTP
	// Requests counts what was sent, with redirects and repetitions.
	Requests int

	client  *Client
	tenant  string
	origin  string // of the settings' URL: secrets go there, and where templates point
	header  http.Header
	secret  map[string]bool // headers with a secret in them
	body    []byte
	private bool // the body has a secret in it
	stdin   io.Reader
	size    int64 // of stdin; -1 is unknown
	spent   bool  // stdin was read and cannot be read again
	scrub   scrubber
}

// Begin reads the settings of a job and finds its secrets. What is wrong with them is a rejection; nothing has been
// sent then.
func (c *Client) Begin(job runner.Job) (*Call, error) {
	settings, err := job.HTTP()
	if err != nil {
		return nil, reject(contracts.ReasonBadInvocation, err)
	}
	call := &Call{
		HTTP: settings, client: c, tenant: cmp.Or(job.Tenant, contracts.DefaultTenant), origin: originOf(settings.URL),
		header: http.Header{}, secret: map[string]bool{}, size: -1,
	}
	if err := call.prepare(job); err != nil {
		return nil, reject(contracts.ReasonBadInvocation, err)
	}
	if err := c.policy.host(settings.URL.Hostname()); err != nil {
		return nil, reject(contracts.ReasonNotAllowed, err)
	}
	return call, nil
}

// prepare puts headers and body together.
func (c *Call) prepare(job runner.Job) error {
	reveal := func(name, value string, escape func(string) string) (string, error) {
		var failed error
		expanded, why := contracts.ExpandSecrets(value, func(secret string) string {
			text, err := c.client.secrets.find(secret)
			if err != nil {
				failed = fmt.Errorf("metadata[%q]: secret %q: %w", name, secret, err)
				return ""
			}
			c.scrub.add(text)
			return escape(text)
		})
		if why != "" {
			failed = fmt.Errorf("metadata[%q]: %s", name, why)
		}
		return expanded, failed
	}
	plain := func(s string) string { return s }
	set := func(header, name, value string) error {
		text, err := reveal(name, value, plain)
		if err != nil {
			return err
		}
		if !contracts.ValidHeaderValue(text) {
			return fmt.Errorf("metadata[%q]: the secret in it has a character that no header may have", name)
		}
		c.header.Set(header, text)
		c.secret[header] = text != value
		return nil
	}
	for name, value := range c.Headers {
		if err := set(name, contracts.HTTPHeaderPrefix+name, value); err != nil {
			return err
		}
	}
	if c.Bearer != "" {
		if err := set("Authorization", "http.bearer", c.Bearer); err != nil {
			return err
		}
		c.header.Set("Authorization", "Bearer "+c.header.Get("Authorization"))
	}
	if c.User != "" {
		user, err := reveal("http.basic_user", c.User, plain)
		if err != nil {
			return err
		}
		password, err := reveal("http.basic_password", c.Password, plain)
		if err != nil {
			return err
		}
		both := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		c.scrub.add(both)
		c.header.Set("Authorization", "Basic "+both)
		c.secret["Authorization"] = true
	}
	if c.IdempotencyHeader != "" {
		c.header.Set(c.IdempotencyHeader, fmt.Sprintf("%s.%s.%d", c.tenant, job.ID, max(job.Attempt, 1)))
	}
	if err := c.fill(job, reveal); err != nil {
		return err
	}
	types := map[string]string{"": "application/octet-stream", "json": "application/json", "form": "application/x-www-form-urlencoded", "raw": "text/plain; charset=utf-8"}
	if c.header.Get("Content-Type") == "" && (c.HasBody || c.stdin != nil) {
		c.header.Set("Content-Type", types[c.Format])
		if c.stdin != nil && c.Format == "raw" {
			c.header.Set("Content-Type", types[""])
		}
	}
	if c.header.Get("User-Agent") == "" {
		c.header.Set("User-Agent", "runnel")
	}
	return nil
}

// fill makes the body.
func (c *Call) fill(job runner.Job, reveal func(name, value string, escape func(string) string) (string, error)) error {
	if !c.HasBody {
		c.stdin = job.Stdin
		if f, ok := job.Stdin.(*os.File); ok {
			if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
				c.size = info.Size()
			}
		}
		return nil
	}
	quoted := func(s string) string { // within a JSON text, which is the only place that a reference can have there
		text := strings.Builder{}
		_ = jsonEncoder(&text).Encode(s)
		return strings.TrimSuffix(text.String(), "\n")[1 : text.Len()-2]
	}
	escape := quoted
	if c.Format == "raw" || strings.HasPrefix(c.Body, "secret:") {
		escape = func(s string) string { return s }
	}
	text, err := reveal("http.body", c.Body, escape)
	if err != nil {
		return err
	}
	c.private = text != c.Body
	if c.Format == "form" {
		form, why := contracts.FormValues(text)
		if why != "" {
			return fmt.Errorf("metadata[%q]: invalid body: %s", "http.body", why)
		}
		values := url.Values{}
		for _, field := range form {
			values.Add(field[0], field[1])
		}
		text = values.Encode()
	}
	c.body = []byte(text)
	return nil
}

// Request is what to send besides the settings.
type Request struct {
	Method string
	URL    *url.URL
	// Bare leaves out the body, its type and the idempotency header: a poll, not the call itself.
	Bare bool
	// Header is added.
	Header map[string]string
	// Foreign says that an answer named the URL: secrets go there only if it is at the origin of the settings.
	Foreign bool
	// Final are statuses that the caller takes as they are; others may be a reason to send it again (Send).
	Final contracts.Codes
}

// Failure is what became of a request that has no answer: not an error of the worker's, but how the work ended.
type Failure struct {
	// Text has no secrets, and no URL beyond its path.
	Text string
	// Unsent says that the other side cannot have begun anything.
	Unsent bool
	// Reason is not_allowed where the policy stopped it.
	Reason contracts.Reason
}

func (f *Failure) Error() string { return f.Text }

// Do sends a request and follows redirects. The caller closes the answer's body. The error is a *Failure, a *runner.Rejection
// where the policy refuses the URL itself, the cause of ctx, or the error of the job's input.
func (c *Call) Do(ctx context.Context, r Request) (*http.Response, error) {
	method, at, withBody := r.Method, r.URL, !r.Bare
	for hop := 0; ; hop++ {
		response, err := c.trip(ctx, r, method, at, withBody, hop > 0 || r.Foreign)
		var rejected *Refused
		if hop == 0 && !r.Bare && errors.As(err, &rejected) {
			return nil, reject(contracts.ReasonNotAllowed, rejected)
		}
		if err != nil {
			return nil, c.failure(ctx, at, hop, err)
		}
		location := response.Header.Get("Location")
		if !redirects(response.StatusCode) || location == "" || c.MaxRedirects == 0 {
			return response, nil
		}
		Discard(response)
		fail := func(format string, a ...any) (*http.Response, error) {
			return nil, &Failure{Text: c.scrub.text("http error: " + fmt.Sprintf(format, a...))}
		}
		if hop == c.MaxRedirects {
			return fail("more than %d redirects", c.MaxRedirects)
		}
		next, err := at.Parse(location)
		switch {
		case err != nil:
			return fail("a redirect to what is not a URL")
		case next.Scheme != "http" && next.Scheme != "https" || next.Hostname() == "":
			return fail("a redirect to what is not http or https")
		case next.User != nil:
			return fail("a redirect to a URL with a user name")
		}
		at = next
		switch code := response.StatusCode; {
		case code == http.StatusSeeOther && method != http.MethodHead,
			(code == http.StatusMovedPermanently || code == http.StatusFound) && method == http.MethodPost:
			method, withBody = http.MethodGet, false
		}
		if withBody && originOf(at) != c.origin && c.private {
			return fail("a redirect to another host, %s, of a body with a secret in it", at.Host)
		}
		if withBody && c.spent {
			return fail("a redirect of a body that cannot be sent twice")
		}
	}
}

func redirects(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// trip sends one request. away says that the settings do not name the URL.
func (c *Call) trip(ctx context.Context, r Request, method string, at *url.URL, withBody, away bool) (*http.Response, error) {
	if c.client.proxy != nil {
		if _, err := c.client.resolve(ctx, at.Hostname()); err != nil {
			return nil, &unsent{err}
		}
	}
	var body *input
	request := (&http.Request{Method: method, URL: at, Host: at.Host, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1})
	for name, values := range c.header {
		own := name == "Authorization" || name == "Cookie" || c.secret[name]
		if away && own && originOf(at) != c.origin {
			continue
		}
		if !withBody && (strings.HasPrefix(name, "Content-") || r.Bare && name == c.IdempotencyHeader) {
			continue
		}
		request.Header[name] = values
	}
	for name, value := range r.Header {
		request.Header.Set(name, value)
	}
	if withBody {
		if body = c.open(); body != nil {
			request.Body, request.ContentLength = body, body.size
			if body.size == 0 {
				request.Body = http.NoBody
			} else if body.size > 0 {
				// For a connection that the other side closed while it was idle.
				request.GetBody = func() (io.ReadCloser, error) { return body.again(c.source()), nil }
			}
		}
	}
	c.Requests++
	var line connection
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      line.got,
		WroteHeaders: func() { line.used(true) },
	})
	transport := c.client.transport(c.tenant, c.TLSMin)
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		if broken := body.end(); broken != nil {
			return nil, broken
		}
		if !line.used(false) {
			err = &unsent{err}
		}
		return nil, err
	}
	response.Body = &answer{ReadCloser: response.Body, line: &line, body: body}
	return response, nil
}

// connection is the line that a request went over.
type connection struct {
	mu    sync.Mutex
	close func() error
	wrote bool
}

func (l *connection) got(info httptrace.GotConnInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close = info.Conn.Close
}

func (l *connection) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.close != nil {
		_ = l.close()
	}
}

// used notes that something went over it, and reports whether something did.
func (l *connection) used(now bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote = l.wrote || now
	return l.wrote
}

// answer is the body of a response. Closed before its end or after that of the run, it takes its connection
// along at once: the other side is to see that nobody reads any more.
type answer struct {
	io.ReadCloser
	line  *connection
	body  *input // what was sent; an answer may come before all of it was read
	ended bool
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil {
		a.ended = err == io.EOF
		if broken := a.body.broken(); broken != nil {
			return n, broken
		}
	}
	return n, err
}

func (a *answer) Close() error {
	if !a.ended {
		a.line.end()
	}
	a.body.end()
	return a.ReadCloser.Close()
}

// Discard reads a little of what is left of an answer, so that its connection can be used again, and closes it.
func Discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
	_ = response.Body.Close()
}

// unsent marks an error of a request of which nothing went out.
type unsent struct{ error }

func (u *unsent) Unwrap() error { return u.error }

// failure says why there is no answer.
func (c *Call) failure(ctx context.Context, at *url.URL, hop int, err error) error {
	var input *inputError
	var refused *Refused
	var silent *unsent
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &input):
		return err
	case errors.As(err, &refused):
		text := refused.Error()
		if hop > 0 {
			text = "a redirect to " + text
		}
		return &Failure{Text: c.scrub.text("http error: " + text), Reason: contracts.ReasonNotAllowed, Unsent: hop == 0}
	}
	return &Failure{Text: c.Clean(fmt.Sprintf("http error: %s: %v", shown(at), err)), Unsent: errors.As(err, &silent)}
}

// Clean returns text without secrets, cut to what an error may have of a stranger's words.
func (c *Call) Clean(text string) string {
	const most = 1 << 10
	if text = c.scrub.text(text); len(text) > most {
		text = text[:most] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Output returns the writer through which the other side's words go to w, and what passes on the end of them.
func (c *Call) Output(w io.Writer) (io.Writer, func() error) {
	s := &scrubbed{w: w, values: c.scrub.values}
	return s, s.flush
}

// shown is as much of a URL as may be said: queries hold keys.
func shown(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// Bounds of what a result tells of an answer's header.
const (
	maxToldBytes = 8 << 10
	maxToldValue = 1 << 10
)

// Metadata is what a result tells of an answer: its status, its headers as far as they are of use and not too many, and
// where it came from.
func (c *Call) Metadata(response *http.Response) map[string]string {
	m := map[string]string{
		"http.status":   strconv.Itoa(response.StatusCode),
		"http.requests": strconv.Itoa(c.Requests),
		"http.url":      c.Clean(shown(response.Request.URL)),
	}
	room := maxToldBytes
	for name, values := range response.Header {
		value := c.scrub.text(strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD"))
		if name == "Location" {
			u, err := url.Parse(value)
			if err != nil {
				continue
			}
			u.User, u.RawQuery, u.Fragment = nil, "", ""
			value = u.String()
		}
		if name == "Set-Cookie" || len(value) > maxToldValue || len(name)+len(value) > room || strings.ContainsRune(value, 0) {
			continue
		}
		room -= len(name) + len(value)
		m[contracts.HTTPHeaderPrefix+name] = value
	}
	return m
}

// Wait waits for d, and returns the cause of ctx if that ends first.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

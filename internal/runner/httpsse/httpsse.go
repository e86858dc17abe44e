// Package httpsse runs invocations of kind http_sse: it follows a stream of server-sent events, whose data is the output
// of the run.
package httpsse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/web"
)

// Bounds of the wait before it connects again, whatever the stream asks for.
const (
	defaultWait = time.Second
	minWait     = 10 * time.Millisecond
	maxWait     = time.Minute
)

// Runner follows streams. Its client may be shared with the other HTTP kinds.
type Runner struct{ client *web.Client }

// New returns a Runner that sends through client, and closes it with itself.
func New(client *web.Client) *Runner { return &Runner{client} }

// Capabilities says whom it may call.
func (r *Runner) Capabilities() map[string]string {
	return r.client.Capabilities(contracts.KindHTTPSSE)
}

// Close closes idle connections.
func (r *Runner) Close() error { return r.client.Close() }

// Resumes says that a run goes on with the stream of a lost one.
func (r *Runner) Resumes(contracts.Invocation) bool { return true }

// note is what a run leaves for the one that takes it over.
type note struct {
	LastID string `json:"last_event_id,omitempty"`
	Events int    `json:"events,omitempty"`
	// Deadline is that of web.Resume.
	Deadline int64 `json:"deadline,omitempty"`
	Requests int   `json:"requests,omitempty"`
}

// errIdle ends a run that has heard nothing for too long.
var errIdle = errors.New("nothing was heard for too long")

// Run follows the stream until an event ends it. The data of each event is written to stdout with a line feed, or each event
// as a line of JSON. A connection that breaks is made again from the last event on, up to Retries times without an event between.
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("http_sse: %w", context.Cause(ctx))
	}
	call, err := r.client.Begin(job)
	if err != nil {
		return contracts.Outcome{}, err
	}
	f := &follower{Call: call, out: out}
	ctx, cancel, err := web.Resume(ctx, job, &f.note, &f.note.Deadline)
	if err != nil {
		return contracts.Outcome{}, fmt.Errorf("http_sse: %w", err)
	}
	defer cancel()
	f.Requests, f.id = f.note.Requests, f.note.LastID
	outcome, err := f.run(ctx)
	if err == nil {
		if outcome.Metadata == nil {
			outcome.Metadata = map[string]string{}
		}
		outcome.Metadata["http.events"] = fmt.Sprint(f.note.Events)
		if f.id != "" {
			outcome.Metadata["http.last_event_id"] = f.Clean(f.id)
		}
	}
	return outcome, err
}

// follower is one run.
type follower struct {
	*web.Call
	parser
	out   runner.Sink
	note  note
	write func([]byte) error
	idle  *time.Timer        // ends the run when nothing is heard
	ended *contracts.Outcome // what an event said
}

func (f *follower) run(ctx context.Context) (contracts.Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.idle = time.AfterFunc(f.Events.Idle, func() { cancel(errIdle) })
	defer f.idle.Stop()
	o, err := f.reconnect(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errIdle) {
		o = web.Failed(contracts.Outcome{}, fmt.Sprintf("http_sse stream was silent for %v", f.Events.Idle))
		o.Status, o.Reason = contracts.StatusTimedOut, contracts.ReasonIdleTimeout
		return o, nil
	}
	return o, err
}

// reconnect connects until an event ends the stream, or there is no use in it.
func (f *follower) reconnect(ctx context.Context) (contracts.Outcome, error) {
	stdout, flush := f.Output(f.out.Stream(contracts.Stdout, contracts.PhaseMain))
	f.write = func(p []byte) error {
		if _, err := stdout.Write(p); err != nil {
			return err
		}
		return flush() // a line is whole: nothing of it may be held back
	}
	for fruitless := 0; ; fruitless++ {
		before := f.note.Events
		response, err := f.follow(ctx)
		var metadata map[string]string
		if response != nil {
			metadata = f.Metadata(response)
		}
		if f.note.Events > before {
			fruitless = 0
		}
		wait := min(max(minWait, f.retryOr(defaultWait)<<min(fruitless, 6)), maxWait)
		var broken *interruption
		switch {
		case f.ended != nil:
			f.ended.Metadata = metadata
			return *f.ended, nil
		case ctx.Err() != nil || !errors.As(err, &broken):
			return web.Ended(ctx, err)
		case broken.final || fruitless >= f.Retries:
			return web.Failed(contracts.Outcome{Metadata: metadata, Reason: broken.reason}, f.Clean(broken.text)), nil
		case broken.after > 0:
			wait = broken.after
		}
		if err := web.Wait(ctx, web.Spread(wait, 0.1)); err != nil {
			return web.Ended(ctx, err)
		}
	}
}

func (f *follower) retryOr(d time.Duration) time.Duration {
	if f.retry > 0 {
		return f.retry
	}
	return d
}

// interruption is why a connection ended before an event ended the stream.
type interruption struct {
	text   string
	final  bool // connecting again cannot help
	reason contracts.Reason
	after  time.Duration // what the other side asks to wait; 0 is nothing
}

func (i *interruption) Error() string { return i.text }

// follow connects once and takes in what comes. The response, if there was one, is closed.
func (f *follower) follow(ctx context.Context) (*http.Response, error) {
	header := map[string]string{"Accept": "text/event-stream", "Cache-Control": "no-cache"}
	if f.id != "" {
		header["Last-Event-Id"] = f.id
	}
	response, err := f.Do(ctx, web.Request{Method: f.Method, URL: f.URL, Header: header})
	var failure *web.Failure
	if errors.As(err, &failure) {
		return nil, &interruption{text: failure.Text, reason: failure.Reason, final: failure.Reason != "" || !f.mayRepeat(failure.Unsent)}
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if err := f.accepts(response); err != nil {
		return response, err
	}
	f.reset()
	n, err := web.Copy(&hearing{f}, response.Body)
	var broken *web.ReadError
	switch {
	case f.ended != nil:
		return response, nil
	case ctx.Err() != nil:
		return response, context.Cause(ctx)
	case err == nil && f.Events.EOF:
		f.ended = &contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}
		return response, nil
	case err == nil:
		err = &interruption{text: fmt.Sprintf("http error: the stream ended after %d bytes without an event that ends it", n)}
	case errors.As(err, &broken) && !web.Input(err):
		err = &interruption{text: fmt.Sprintf("http error: the stream broke off after %d bytes: %v", n, broken)}
	}
	var i *interruption
	if errors.As(err, &i) && !f.mayRepeat(false) {
		i.final = true
	}
	return response, err
}

// mayRepeat reports whether the request may be sent again: where it starts something, an event with an id or an
// idempotency header must say that it goes on with the same.
func (f *follower) mayRepeat(unsent bool) bool {
	if !f.Repeatable() {
		return false
	}
	return unsent || f.Method == http.MethodGet || f.id != "" || f.IdempotencyHeader != ""
}

// accepts looks at what comes before the events.
func (f *follower) accepts(response *http.Response) error {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch code := response.StatusCode; {
	case code == http.StatusNoContent:
		// The standard's way to say that there is nothing more.
		if f.Events.EOF {
			f.ended = &contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}
			return nil
		}
		return &interruption{text: "HTTP 204: the stream is over without an event that ends it", final: true}
	case code != http.StatusOK:
		body, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		i := &interruption{text: fmt.Sprintf("HTTP %d: %s", code, body), final: code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout}
		i.after, _ = web.RetryAfter(response, time.Now())
		if code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable && !f.mayRepeat(false) {
			i.final = true
		}
		return i
	case kind != "text/event-stream":
		return &interruption{text: fmt.Sprintf("the answer is %.100q, not a stream of events (text/event-stream)", response.Header.Get("Content-Type")), final: true}
	}
	return nil
}

// hearing takes in a stream, and keeps the clock of silence.
type hearing struct{ f *follower }

var errEnded = errors.New("an event ended the stream")

func (h *hearing) Write(p []byte) (int, error) {
	h.f.idle.Reset(h.f.Events.Idle)
	var sink *sinkError
	err := h.f.feed(p, h.f.heard)
	switch {
	case err == nil:
		return len(p), nil
	case errors.Is(err, errEnded):
		return 0, err
	case errors.As(err, &sink):
		return 0, sink.error
	}
	return 0, &interruption{text: "http error: " + err.Error(), final: true}
}

// sinkError marks an error of writing our own output.
type sinkError struct{ error }

// heard takes in one event.
func (f *follower) heard(e event) error {
	if err := f.print(e); err != nil {
		return &sinkError{err}
	}
	f.note.Events++
	f.note.LastID, f.note.Requests = e.id, f.Requests
	if k, ok := f.out.(runner.Keeper); ok {
		state, err := json.Marshal(f.note)
		if err == nil {
			err = k.Note(state)
		}
		if err != nil {
			return &sinkError{err}
		}
	}
	if good, ends, why := f.ends(e); ends {
		o := contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0)}
		if !good {
			o = web.Failed(contracts.Outcome{}, f.Clean(why))
		}
		f.ended = &o
		return errEnded
	}
	return nil
}

// print writes an event to the output.
func (f *follower) print(e event) error {
	if !f.Events.JSON {
		return f.write([]byte(e.data + "\n"))
	}
	line, err := json.Marshal(struct {
		ID    string `json:"id"`
		Event string `json:"event"`
		Data  string `json:"data"`
	}{e.id, e.name, strings.ToValidUTF8(e.data, "\uFFFD")})
	if err != nil {
		return err
	}
	return f.write(append(line, '\n'))
}

// ends reports whether an event ends the stream, whether that is a success, and why not.
func (f *follower) ends(e event) (good, ends bool, why string) {
	s := f.Events
	switch {
	case slices.Contains(s.Terminal, e.name):
		return slices.Contains(s.Success, e.name), true, fmt.Sprintf("the stream ended with event %q: %.200s", e.name, e.data)
	case s.Data != "" && e.data == s.Data:
		return true, true, ""
	case s.Status == nil:
		return false, false, ""
	}
	v, err := web.ParseJSON([]byte(e.data))
	if err != nil {
		return false, false, "" // not every event has to be a document
	}
	state, ok := web.Lookup(v, s.Status)
	if !ok || !slices.Contains(s.States, state) {
		return false, false, ""
	}
	return slices.Contains(s.Good, state), true, fmt.Sprintf("the stream reported terminal status: %s", state)
}

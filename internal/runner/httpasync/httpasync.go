// Package httpasync runs invocations of kind http_async: a request that starts work at a service, and polls until it ends.
package httpasync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/web"
)

// Runner starts work and polls. Its client may be shared with the other HTTP kinds.
type Runner struct{ client *web.Client }

// New returns a Runner that sends through client, and closes it with itself.
func New(client *web.Client) *Runner { return &Runner{client} }

// Capabilities says whom it may call.
func (r *Runner) Capabilities() map[string]string {
	return r.client.Capabilities(contracts.KindHTTPAsync)
}

// Close closes idle connections.
func (r *Runner) Close() error { return r.client.Close() }

// Resumes says that a run goes on with the remote run of a lost one.
func (r *Runner) Resumes(contracts.Invocation) bool { return true }

// note is what a run leaves for the one that takes it over: all that is needed to poll the same remote run.
type note struct {
	RunID    string `json:"run_id,omitempty"`
	Location string `json:"location,omitempty"`
	// Deadline is that of web.Resume.
	Deadline int64 `json:"deadline,omitempty"`
	// Requests is how many were sent so far.
	Requests int `json:"requests,omitempty"`
}

// maxNoteField keeps a note within contracts.MaxStateBytes, however its texts are escaped.
const maxNoteField = 1024

// Run starts the remote run, or goes on with the one that job.Resume names, and polls until it ends. What its last answer
// says is written to stdout, and each new state as a line to stderr. When the run is cancelled or out of time, the
// remote run is told (E45); when only this worker stops, it goes on for the next.
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("http_async: %w", context.Cause(ctx))
	}
	call, err := r.client.Begin(job)
	if err != nil {
		return contracts.Outcome{}, err
	}
	w := &work{Call: call, job: job, out: out, started: job.Resume != nil}
	ctx, cancel, err := web.Resume(ctx, job, &w.note, &w.note.Deadline)
	if err != nil {
		return contracts.Outcome{}, fmt.Errorf("http_async: %w", err)
	}
	defer cancel()
	w.Requests = w.note.Requests
	outcome, err := w.run(ctx)
	if err != nil && ctx.Err() != nil {
		outcome.Killed = w.stop(ctx)
		if w.note.RunID != "" {
			outcome.Metadata = map[string]string{"http.run_id": w.Clean(w.note.RunID)}
		}
	}
	return outcome, err
}

// Cancel tells the remote run of a lost run that nobody waits for it any more.
func (r *Runner) Cancel(ctx context.Context, job runner.Job) string {
	call, err := r.client.Begin(job)
	w := &work{Call: call, job: job}
	if err == nil {
		err = json.Unmarshal(job.Resume, &w.note)
	}
	if err != nil {
		return line("nothing; the remote run was not told: " + err.Error())
	}
	told, text := w.dismiss(ctx)
	if !told {
		text = "nothing; " + text
	}
	return text
}

// work is one run.
type work struct {
	*web.Call
	job     runner.Job
	out     runner.Sink
	note    note
	started bool // there is a remote run, and note says which
	state   string
}

func (w *work) run(ctx context.Context) (contracts.Outcome, error) {
	if !w.started {
		if ended, outcome, err := w.kickoff(ctx); ended || err != nil {
			return outcome, err
		}
	}
	at, err := w.pollURL()
	if err != nil {
		return w.fail(nil, "poll: %v", err), nil
	}
	wait := w.Poll.Interval
	for {
		ended, outcome, told, err := w.poll(ctx, at)
		if ended || err != nil {
			return outcome, err
		}
		pause := max(web.Spread(wait, w.Poll.Jitter), told)
		wait = min(time.Duration(float64(wait)*w.Poll.Backoff), w.Poll.MaxInterval)
		if err := web.Wait(ctx, pause); err != nil {
			return web.Ended(ctx, err)
		}
	}
}

// fail is a failure by the work's own doing, with what is known of the answer.
func (w *work) fail(response *http.Response, format string, a ...any) contracts.Outcome {
	var o contracts.Outcome
	if response != nil {
		o.Metadata = w.metadata(response)
	}
	return web.Failed(o, w.Clean(fmt.Sprintf(format, a...)))
}

func (w *work) metadata(response *http.Response) map[string]string {
	m := w.Metadata(response)
	if w.note.RunID != "" {
		m["http.run_id"] = w.Clean(w.note.RunID)
	}
	if w.state != "" {
		m["http.state"] = w.state
	}
	return m
}

// kickoff starts the remote run. ended says that the answer was the end already (E34).
func (w *work) kickoff(ctx context.Context) (ended bool, o contracts.Outcome, err error) {
	response, err := w.Send(ctx, web.Request{Method: w.Method, URL: w.URL, Final: w.Poll.Accepted})
	if err != nil {
		return w.trouble(ctx, "kickoff", err)
	}
	defer response.Body.Close()
	body, err := web.Read(response)
	if err != nil {
		return w.trouble(ctx, "kickoff", &web.Failure{Text: "http error: " + err.Error()})
	}
	if !w.Poll.Accepted.Has(response.StatusCode) {
		return true, w.fail(response, "kickoff expected 202 (or 200), got HTTP %d: %s", response.StatusCode, web.Beginning(body)), nil // E35
	}
	answer, notJSON := web.ParseJSON(body)
	if notJSON == nil && response.StatusCode != http.StatusAccepted {
		if state, ok := web.Lookup(answer, w.Poll.Status); ok && slices.Contains(w.Poll.Terminal, state) {
			return w.end(ctx, response, body, state, fmt.Sprintf("sync %d reported non-success status: %s", response.StatusCode, state))
		}
	}
	if w.Poll.RunID != nil {
		if notJSON != nil {
			return true, w.fail(response, "kickoff response is not JSON: %s", web.Beginning(body)), nil // E36
		}
		var ok bool
		if w.note.RunID, ok = web.Lookup(answer, w.Poll.RunID); !ok {
			return true, w.fail(response, "kickoff response has no field at path %s", w.Poll.RunID), nil // E36
		}
		if len(w.note.RunID) > maxNoteField {
			return true, w.fail(response, "kickoff response has a run id of %d bytes, more than %d", len(w.note.RunID), maxNoteField), nil
		}
	}
	if w.Poll.Location {
		if why := w.follow(response); why != "" {
			return true, w.fail(response, "%s", why), nil
		}
	}
	w.started = true
	if _, err := w.pollURL(); err != nil {
		return true, w.fail(response, "kickoff: %v", err), nil
	}
	if err := w.save(ctx); err != nil {
		o, err := web.Ended(ctx, err)
		return false, o, err
	}
	return false, contracts.Outcome{}, nil
}

// trouble sorts the errors of requests: how the work ended, or why the run does.
func (w *work) trouble(ctx context.Context, phase string, err error) (bool, contracts.Outcome, error) {
	var f *web.Failure
	if ctx.Err() == nil && errors.As(err, &f) {
		return true, web.Failed(contracts.Outcome{Reason: f.Reason}, w.Clean(phase+": "+f.Text)), nil
	}
	o, err := web.Ended(ctx, err)
	return false, o, err
}

// follow takes the URL to poll from the answer's header: of the same host, for the poll brings secrets along.
func (w *work) follow(response *http.Response) string {
	location := response.Header.Get("Location")
	if location == "" || len(location) > maxNoteField {
		return fmt.Sprintf("kickoff response has a Location header of %d bytes, not within 1 to %d", len(location), maxNoteField)
	}
	u, err := response.Request.URL.Parse(location)
	if err != nil || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "kickoff response has a Location header that is not a URL to poll"
	}
	if !strings.EqualFold(u.Host, response.Request.URL.Host) || u.Scheme != response.Request.URL.Scheme {
		return fmt.Sprintf("kickoff response has a Location header to another host, %s", u.Host)
	}
	w.note.Location = u.String()
	return ""
}

// save has the note stored before anything is polled: from then on every worker can.
func (w *work) save(ctx context.Context) error {
	w.note.Requests = w.Requests
	state, err := json.Marshal(w.note)
	if err != nil {
		return err
	}
	if k, ok := w.out.(runner.Keeper); ok {
		return k.Save(ctx, state)
	}
	return nil
}

func (w *work) pollURL() (*url.URL, error) {
	if w.note.Location != "" {
		return url.Parse(w.note.Location)
	}
	return web.FillTemplate(w.Poll.URL, w.note.RunID)
}

// poll asks once. told is how long the answer asks to wait.
func (w *work) poll(ctx context.Context, at *url.URL) (ended bool, o contracts.Outcome, told time.Duration, err error) {
	final := append(slices.Clone(w.Poll.Pending), [2]int{http.StatusOK, http.StatusOK})
	response, err := w.Send(ctx, web.Request{Method: http.MethodGet, URL: at, Bare: true, Foreign: w.note.Location != "", Final: final})
	if err != nil {
		ended, o, err = w.trouble(ctx, "poll", err)
		return ended, o, 0, err
	}
	defer response.Body.Close()
	told, _ = web.RetryAfter(response, time.Now())
	if w.Poll.Pending.Has(response.StatusCode) {
		web.Discard(response)
		return false, o, told, nil
	}
	body, err := web.Read(response)
	if err != nil {
		ended, o, err = w.trouble(ctx, "poll", &web.Failure{Text: "http error: " + err.Error()})
		return ended, o, 0, err
	}
	if response.StatusCode != http.StatusOK {
		return true, w.fail(response, "poll expected HTTP 200, got %d: %s", response.StatusCode, web.Beginning(body)), 0, nil // E39
	}
	answer, notJSON := web.ParseJSON(body)
	if notJSON != nil {
		return true, w.fail(response, "poll response is not JSON: %s", web.Beginning(body)), 0, nil // E40
	}
	state, ok := web.Lookup(answer, w.Poll.Status)
	if !ok {
		// Not the answer itself: it is of any length, and may hold secrets.
		return true, w.fail(response, "poll response has no field at path %s", w.Poll.Status), 0, nil // E40
	}
	if slices.Contains(w.Poll.Terminal, state) {
		ended, o, err = w.end(ctx, response, body, state, "backend reported terminal status: "+state) // E41
		return ended, o, 0, err
	}
	return false, o, told, w.tell(ctx, state)
}

// tell writes a new state to stderr.
func (w *work) tell(ctx context.Context, state string) error {
	state = line(w.Clean(state))
	if state == w.state {
		return nil
	}
	w.state = state
	if _, err := io.WriteString(w.out.Stream(contracts.Stderr, contracts.PhaseMain), "status: "+state+"\n"); err != nil {
		_, err := web.Ended(ctx, err)
		return err
	}
	return nil
}

// line makes one line of a stranger's text.
func line(s string) string {
	const most = 200
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// end is the end of the remote run: its last answer is the output.
func (w *work) end(ctx context.Context, response *http.Response, body []byte, state, why string) (bool, contracts.Outcome, error) {
	w.state = line(w.Clean(state))
	to, flush := w.Output(w.out.Stream(contracts.Stdout, contracts.PhaseMain))
	_, err := to.Write(body)
	if err == nil {
		err = flush()
	}
	if err != nil {
		o, err := web.Ended(ctx, err)
		return false, o, err
	}
	if !slices.Contains(w.Poll.Success, state) {
		return true, w.fail(response, "%s", why), nil
	}
	return true, contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0), Metadata: w.metadata(response)}, nil
}

const defaultGrace = 5 * time.Second

// stop tells the remote run that nobody waits for it any more, if that is so, and says what became of it.
func (w *work) stop(ctx context.Context) string {
	cause := context.Cause(ctx)
	switch {
	case !w.started:
		return "the connection"
	case !errors.Is(cause, runner.ErrCancelled) && !errors.Is(cause, runner.ErrTimeout):
		return "the connection; the remote run goes on"
	}
	told, text := w.dismiss(context.WithoutCancel(ctx))
	if !told {
		text = "the connection; " + text
	}
	return text
}

// dismiss calls the URL that ends the remote run, once and within the grace.
func (w *work) dismiss(ctx context.Context) (told bool, text string) {
	if w.Poll.CancelURL == "" {
		return false, "the remote run was not told (no http.cancel_url_template)"
	}
	at, err := web.FillTemplate(w.Poll.CancelURL, w.note.RunID)
	if err != nil {
		return false, w.Clean("the remote run was not told: " + err.Error())
	}
	grace := defaultGrace
	if s := w.job.Stop; s != nil && s.GraceSeconds != nil {
		grace = max(time.Second, time.Duration(*s.GraceSeconds*float64(time.Second)))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, grace, errors.New("no answer in time"))
	defer cancel()
	response, err := w.Do(ctx, web.Request{Method: w.Poll.CancelMethod, URL: at, Bare: true})
	if err != nil {
		return false, line(w.Clean("the remote run could not be told: " + err.Error()))
	}
	web.Discard(response)
	return true, fmt.Sprintf("the remote run (told, HTTP %d)", response.StatusCode)
}

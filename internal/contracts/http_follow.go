package contracts

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// HTTPPoll says how http_async follows the work that its request started.
type HTTPPoll struct {
	// URL is what is asked; each {run_id} in it is replaced. "" with Location: the answer's header says it.
	URL      string
	Location bool
	// CancelURL is called when the run is cancelled or out of time; "" is nothing. {run_id} as in URL.
	CancelURL, CancelMethod string
	// RunID is where the first answer has the run's id; nil where no template needs one.
	RunID JSONPath
	// Status is where an answer has the work's state.
	Status JSONPath
	// Terminal are the states that end it, Success those of them that are a success.
	Terminal, Success []string
	// Interval is the wait between two polls. It grows by Backoff up to MaxInterval, and is spread by the part Jitter.
	Interval, MaxInterval time.Duration
	Backoff, Jitter       float64
	// Pending are the statuses of a poll that mean "not yet".
	Pending Codes
	// Accepted are the statuses of the first answer that begin the polls.
	Accepted Codes
}

// HTTPEvents says how http_sse follows a stream of events.
type HTTPEvents struct {
	// Terminal are the names of events that end the stream, Success those of them that are a success.
	Terminal, Success []string
	// Data is the data of an event that ends the stream as a success; "" is none.
	Data string
	// Status is where the JSON data of an event has a state; States ends the stream, Good of them is a success.
	Status       JSONPath
	States, Good []string
	// EOF says that the end of the stream is a success, in place of a reason to connect again.
	EOF bool
	// Idle ends a run that has heard nothing for so long.
	Idle time.Duration
	// JSON writes every event as a line of JSON, in place of its data.
	JSON bool
}

// poll reads what http_async adds, in the order of E33.
func (r *httpReader) poll() *HTTPPoll {
	var q HTTPPoll
	q.Location = r.yes("http.poll_location")
	template, ok := r.get("http.poll_url_template")
	switch {
	case (!ok || template == "") && !q.Location:
		r.bad("http.poll_url_template", "is missing (or set http.poll_location to take the Location header of the answer)")
	case template != "" && q.Location:
		r.bad("http.poll_url_template", "must not be set beside http.poll_location")
	case template != "":
		q.URL = r.template("http.poll_url_template", template)
	}
	if cancel, _ := r.get("http.cancel_url_template"); cancel != "" {
		q.CancelURL = r.template("http.cancel_url_template", cancel)
	}
	q.CancelMethod = r.method("http.cancel_method", http.MethodPost)
	q.RunID = r.path("http.poll_run_id_path")
	if q.RunID == nil && strings.Contains(q.URL+q.CancelURL, RunIDPlaceholder) {
		r.bad("http.poll_run_id_path", "is missing: a template has %s", RunIDPlaceholder) // E37
	}
	if q.Status = r.path("http.poll_status_path"); q.Status == nil {
		r.missing("http.poll_status_path")
	}
	q.Terminal, ok = r.words("http.poll_terminal_states")
	if !ok {
		r.bad("http.poll_terminal_states", "is missing")
	}
	if q.Success, ok = r.words("http.poll_success_states"); !ok {
		q.Success = []string{"completed"}
	}
	if len(q.Terminal) > 0 {
		r.within("http.poll_success_states", q.Success, "http.poll_terminal_states", q.Terminal) // E41
	}
	q.Pending = r.codes("http.poll_pending_codes", "")
	interval := r.number("http.poll_interval_seconds", 2, minInterval, maxInterval)
	most := r.number("http.poll_max_interval_seconds", max(interval, 60), minInterval, maxInterval)
	if most < interval {
		r.bad("http.poll_max_interval_seconds", "%v is less than http.poll_interval_seconds", most)
	}
	q.Interval, q.MaxInterval = seconds(interval), seconds(most)
	q.Backoff = r.number("http.poll_backoff", 1, 1, 10)
	q.Jitter = r.number("http.poll_jitter", 0.1, 0, 1)
	q.Accepted = r.codes("http.poll_accepted", "200,202")
	return &q
}

// RunIDPlaceholder is where a template has the id of the run at the other side.
const RunIDPlaceholder = "{run_id}"

// template checks a URL with placeholders. One in the host would let an answer choose whom to call.
func (r *httpReader) template(name, text string) string {
	u := r.url(name, strings.ReplaceAll(text, RunIDPlaceholder, "x"))
	other, err := url.Parse(strings.ReplaceAll(text, RunIDPlaceholder, "yy"))
	switch {
	case u == nil:
		return ""
	case err != nil || other.Host != u.Host || other.Scheme != u.Scheme:
		r.bad(name, "has %s before the path", RunIDPlaceholder)
		return ""
	case strings.Contains(strings.ReplaceAll(text, RunIDPlaceholder, ""), "{"):
		r.bad(name, "has a placeholder that is not %s", RunIDPlaceholder)
		return ""
	}
	return text
}

// events reads what http_sse adds.
func (r *httpReader) events() *HTTPEvents {
	var e HTTPEvents
	var named, good, goodState bool
	e.Terminal, named = r.words("http.sse_terminal_events")
	if e.Success, good = r.words("http.sse_success_events"); !good {
		e.Success = e.Terminal
	} else {
		r.within("http.sse_success_events", e.Success, "http.sse_terminal_events", e.Terminal)
	}
	e.Data, _ = r.get("http.sse_terminal_data")
	e.Status = r.path("http.sse_status_path")
	var states bool
	e.States, states = r.words("http.sse_terminal_states")
	e.Good, goodState = r.words("http.sse_success_states")
	switch {
	case e.Status != nil && !states:
		r.bad("http.sse_terminal_states", "is missing beside http.sse_status_path")
	case e.Status == nil && (states || goodState):
		r.missing("http.sse_status_path")
	case states && !goodState:
		e.Good = []string{"completed"}
	}
	if states && e.Status != nil {
		r.within("http.sse_success_states", e.Good, "http.sse_terminal_states", e.States)
	}
	e.EOF = r.yes("http.sse_eof_ends")
	if !named && e.Data == "" && !states && !e.EOF {
		r.bad("http.sse_terminal_events", "is missing: nothing would end the stream (or set http.sse_terminal_data, http.sse_status_path or http.sse_eof_ends)")
	}
	e.Idle = seconds(r.number("http.sse_idle_seconds", 300, minInterval, maxInterval))
	switch format, _ := r.get("http.sse_format"); format {
	case "", "data":
	case "json":
		e.JSON = true
	default:
		r.bad("http.sse_format", "%s is not data or json", quote(format))
	}
	return &e
}

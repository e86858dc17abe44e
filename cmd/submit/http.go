package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

// ownRequests is whom --embedded may call: whoever this process may, as it is the user's own.
var ownRequests = embedded.HTTPConfig{Allow: []string{"0.0.0.0/0", "::/0"}, SecretsEnv: "RUNNEL_SECRET_"}

// httpSettings are the settings of the HTTP kinds that have a flag of their name, and what the flag says of them.
var httpSettings = map[string]string{
	"bearer":                    "log in with a secret of the worker: `secret:NAME`",
	"response-file":             "put the answer's body into the artifact `NAME`",
	"expect":                    "`CODES` that are a success, as 200,404 or 2xx (default 2xx)",
	"tls-min":                   "least version of TLS: `1.2` or 1.3",
	"idempotency-header":        "send `NAME`: one value for each attempt",
	"poll-url-template":         "poll `URL`, in which {run_id} is replaced (kind http_async, as every --poll flag)",
	"poll-location":             "`true` polls the Location header of the first answer",
	"poll-run-id-path":          "`PATH` of the run's id in the first answer, as data.id or /data/id",
	"poll-status-path":          "`PATH` of the state in an answer",
	"poll-terminal-states":      "`STATES` that end it, with commas",
	"poll-success-states":       "`STATES` of these that are a success (default completed)",
	"poll-interval-seconds":     "wait between two polls: `SECONDS` (default 2)",
	"poll-max-interval-seconds": "cap of the wait: `SECONDS` (default 60)",
	"poll-backoff":              "`FACTOR` from one wait to the next (default 1)",
	"poll-jitter":               "`PART` of the wait by which it is spread (default 0.1)",
	"poll-pending-codes":        "`CODES` of a poll that mean not yet",
	"poll-accepted":             "`CODES` of the first answer that begin the polls (default 200,202)",
	"cancel-url-template":       "call `URL` when the run is cancelled or out of time",
	"cancel-method":             "`METHOD` of that call (default POST)",
	"sse-terminal-events":       "`NAMES` of events that end the stream",
	"sse-success-events":        "`NAMES` of these that are a success (default all)",
	"sse-terminal-data":         "`TEXT` of an event that ends the stream, as [DONE]",
	"sse-status-path":           "`PATH` of a state in the JSON data of an event",
	"sse-terminal-states":       "`STATES` that end the stream",
	"sse-success-states":        "`STATES` of these that are a success (default completed)",
	"sse-eof-ends":              "`true`: the end of the stream is a success",
	"sse-idle-seconds":          "give up after so long a silence: `SECONDS` (default 300)",
	"sse-format":                "print the `data` of events, or json: all of each",
}

// httpShared are the flags of run that http has too.
var httpShared = []string{
	"id", "name", "pool", "lane", "label", "timeout", "queue-timeout", "grace", "retries", "retry-delay", "retry-on", "output-limit", "output", "detach", "no-wait-worker",
}

// httpFlags are the flags of http.
type httpFlags struct {
	runFlags
	method, data, user   string
	headers, form, query []string
	raw, sse             bool
	redirects, again     int
	settings             map[string]*string
	fs                   *pflag.FlagSet
}

func newHTTP(a *app) *cobra.Command {
	f := &httpFlags{settings: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "http URL",
		Short: "Have a worker send a request and print the answer as it comes",
		Long: `http has a worker send a request, and prints the body of the answer as it comes. With --poll flags the
request starts work at a service, which is polled until it ends (kind http_async); with --sse a stream of
server-sent events is followed (kind http_sse). A killed worker is followed by one that goes on.

Secrets are named, secret:NAME or {{secret:NAME}} within a header or the body, and put in by the worker.
With --embedded they are variables of this process: RUNNEL_SECRET_NAME.

It exits with 0 if the answer was a success, 1 if it was not or there was none, 124 timed out, 125 refused.`,
		Example: `  submit http https://example.com/
  submit http https://example.com/jobs -d '{"n":1}' --bearer secret:token
  submit http https://example.com/runs -X POST --poll-url-template 'https://example.com/runs/{run_id}' \\
    --poll-run-id-path id --poll-status-path status --poll-terminal-states completed,failed
  submit http https://example.com/events --sse --sse-terminal-events done`,
		Args:        cobra.ExactArgs(1),
		Annotations: mayEmbed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.http(cmd.Context(), f, args[0])
		},
	}
	f.bind(cmd.Flags())
	return cmd
}

// bind has curl's names where curl has the flag.
func (f *httpFlags) bind(fs *pflag.FlagSet) {
	f.fs = fs
	fs.StringVarP(&f.method, "request", "X", "", "`METHOD` (default GET, POST with a body or polls)")
	fs.StringArrayVarP(&f.headers, "header", "H", nil, "send a header: `NAME: VALUE` (repeatable)")
	fs.StringVarP(&f.data, "data", "d", "", "send `DATA`, which is JSON unless --raw; @FILE or @- sends a file or standard input of any size")
	fs.BoolVar(&f.raw, "raw", false, "send --data as it is")
	fs.StringArrayVar(&f.form, "form", nil, "send a field of a form: `NAME=VALUE` (repeatable)")
	fs.StringArrayVar(&f.query, "query", nil, "add to the URL: `NAME=VALUE` (repeatable)")
	fs.StringVarP(&f.user, "user", "u", "", "log in: `USER:secret:NAME`")
	fs.IntVar(&f.redirects, "max-redirs", 10, "follow at most `N` redirects")
	fs.IntVar(&f.again, "retry", 0, "send it again up to `N` times where that cannot do harm (default 5 with --poll and --sse)")
	fs.BoolVar(&f.sse, "sse", false, "follow a stream of server-sent events")
	for _, name := range sortedKeys(httpSettings) {
		f.settings[name] = fs.String(name, "", httpSettings[name])
	}
	all := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.runFlags.bind(all)
	for _, name := range httpShared {
		flag := all.Lookup(name)
		if flag.Shorthand == "d" {
			flag.Shorthand = "" // which is --data here, as in curl
		}
		fs.AddFlag(flag)
	}
}

// invocation makes the document of the flags, and says which file is the body: "" is none. What it says is checked by the client.
func (f *httpFlags) invocation(url string) (inv runnel.Invocation, body string, err error) {
	if inv, err = f.runFlags.invocation(nil); err != nil {
		return inv, "", err
	}
	inv.Kind = runnel.KindHTTP
	m := map[string]string{"http.url": url}
	inv.Metadata = m
	var errs []error
	for name, value := range f.settings {
		if !f.fs.Changed(name) {
			continue
		}
		m["http."+strings.ReplaceAll(name, "-", "_")] = *value
		if strings.HasPrefix(name, "poll-") || strings.HasPrefix(name, "cancel-") {
			inv.Kind = runnel.KindHTTPAsync
		}
	}
	if f.sse {
		if inv.Kind != runnel.KindHTTP {
			errs = append(errs, errors.New("--sse follows a stream, --poll flags ask again and again: use one of them"))
		}
		inv.Kind = runnel.KindHTTPSSE
	}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			errs = append(errs, fmt.Errorf("--header %.40q: it is NAME: VALUE", line))
			continue
		}
		m["http.header."+name] = strings.TrimSpace(value)
	}
	query, err := pairs("query", f.query)
	errs = append(errs, err)
	for name, value := range query {
		m["http.query."+name] = value
	}
	body, err = f.body(m)
	errs = append(errs, err)
	if f.user != "" {
		user, password, _ := strings.Cut(f.user, ":")
		m["http.basic_user"], m["http.basic_password"] = user, password
	}
	if f.fs.Changed("max-redirs") {
		m["http.max_redirects"] = fmt.Sprint(f.redirects)
	}
	if f.fs.Changed("retry") {
		m["http.retries"] = fmt.Sprint(f.again)
	}
	switch _, sends := m["http.body"]; {
	case f.method != "":
		m["http.method"] = f.method
	case inv.Kind == runnel.KindHTTPAsync:
	case sends || body != "":
		m["http.method"] = "POST"
	default:
		m["http.method"] = "GET"
	}
	return inv, body, errors.Join(errs...)
}

// body sets what is sent, or names the file that is.
func (f *httpFlags) body(m map[string]string) (file string, err error) {
	given := f.fs.Changed("data")
	if len(f.form) > 0 {
		if given {
			return "", errors.New("--data and --form are both the body: use one of them")
		}
		m["http.body_format"] = "form"
		m["http.body"], err = formBody(f.form)
		return "", err
	}
	if !given {
		if f.raw {
			return "", errors.New("--raw says how --data is sent: there is none")
		}
		return "", nil
	}
	m["http.body_format"] = "json"
	if f.raw {
		m["http.body_format"] = "raw"
	}
	if file, ok := strings.CutPrefix(f.data, "@"); ok {
		if file == "" {
			return "", errors.New("--data @: it is @FILE, or @- for standard input")
		}
		return file, nil
	}
	m["http.body"] = f.data
	return "", nil
}

// formBody writes fields as the JSON object that a form is.
func formBody(fields []string) (string, error) {
	form := map[string][]string{}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok || name == "" {
			return "", fmt.Errorf("--form %.40q: it is NAME=VALUE", field)
		}
		form[name] = append(form[name], value)
	}
	text, err := json.Marshal(form)
	return string(text), err
}

func (a *app) http(ctx context.Context, f *httpFlags, url string) error {
	if err := a.mayLeave("http --detach", f.runFlags); err != nil {
		return err
	}
	inv, file, err := f.invocation(url)
	if err != nil {
		return err
	}
	var body io.ReadCloser
	switch file {
	case "":
	case "-":
		body = io.NopCloser(a.stdin)
	default:
		if body, err = os.Open(file); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	return a.submit(ctx, f.runFlags, inv, body)
}

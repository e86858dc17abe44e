// Package http runs invocations of kind http: one request, whose answer is the output of the run.
package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/web"
)

// Runner sends requests. Its client may be shared with the other HTTP kinds.
type Runner struct{ client *web.Client }

// New returns a Runner that sends through client, and closes it with itself.
func New(client *web.Client) *Runner { return &Runner{client} }

// Capabilities says whom it may call.
func (r *Runner) Capabilities() map[string]string { return r.client.Capabilities(contracts.KindHTTP) }

// Close closes idle connections.
func (r *Runner) Close() error { return r.client.Close() }

// summaryBytes is how much of an answer's body an error shows (E29).
const summaryBytes = 200

// Run sends the request and writes the answer's body to stdout as it comes, or into the artifact that the settings name.
// A status that is expected is a success; the outcome's metadata has it and the headers.
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("http: %w", context.Cause(ctx))
	}
	call, err := r.client.Begin(job)
	if err != nil {
		return contracts.Outcome{}, err
	}
	response, err := call.Send(ctx, web.Request{Method: call.Method, URL: call.URL, Final: call.Expect})
	if err != nil {
		return web.Ended(ctx, err)
	}
	defer response.Body.Close()

	expected := call.Expect.Has(response.StatusCode)
	summary := &head{most: summaryBytes}
	to := out.Stream(contracts.Stdout, contracts.PhaseMain)
	if call.ResponseFile != "" && expected {
		file, err := create(job.Artifacts, call.ResponseFile)
		if err != nil {
			return contracts.Outcome{}, fmt.Errorf("http: response file: %w", err)
		}
		defer file.Close()
		to = file
	}
	scrubbed, flush := call.Output(io.MultiWriter(to, summary))
	n, err := web.Copy(scrubbed, response.Body)
	if err == nil {
		err = flush()
	}
	outcome := contracts.Outcome{Metadata: call.Metadata(response)}
	var broken *web.ReadError
	switch {
	case err == nil && expected:
		outcome.Status, outcome.ExitCode = contracts.StatusSucceeded, new(0)
	case errors.As(err, &broken) && ctx.Err() == nil && !web.Input(err):
		_ = flush()
		outcome = web.Failed(outcome, call.Clean(fmt.Sprintf("http error: the answer broke off after %d bytes: %v", n, broken)))
	case err != nil:
		return web.Ended(ctx, err)
	default:
		outcome = web.Failed(outcome, call.Clean(fmt.Sprintf("HTTP %d: %s", response.StatusCode, summary.text()))) // E29
	}
	return outcome, nil
}

// create makes the artifact that gets the body, and the directories above it.
func create(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

// head keeps the beginning of what is written to it.
type head struct {
	most int
	data []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.data = append(h.data, p[:min(len(p), h.most-len(h.data))]...)
	return len(p), nil
}

func (h *head) text() string { return string(h.data) }

var _ runner.Closer = (*Runner)(nil)

// Package manual is the runner that has others do the work: it asks the responders of a name, programs in any
// language, and takes over what one of them says. A person may answer in their place. docs/protocol.md has the messages.
package manual

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// Exchange carries messages between runs and responders. It is safe for concurrent use.
type Exchange interface {
	// Listen has heard called with all that is said of a run, one at a time, until stop is. heard does not block.
	Listen(tenant, id, run string, heard func(contracts.ManualHeard)) (stop func(), err error)
	// Ask sends a request to one of the responders of a name. What they say of it is heard by who listens for run.
	Ask(name, run string, request []byte) error
	// Tell sends a message to the reply subject of one that was heard.
	Tell(to string, message []byte) error
	// Connected reports whether anything could be heard now.
	Connected() bool
}

const (
	// What is asked again, because nobody was there or nobody had time, is asked after this, and then less and less often.
	firstPause, longestPause = 10 * time.Millisecond, time.Second
	// heardAtOnce bounds what waits to be taken over, beyond the window: heartbeats and the outcome.
	heardAtOnce = 2*contracts.ManualWindow + 16
	// defaultGrace is how long the work may take to stop where the invocation does not say (E19).
	defaultGrace = 5 * time.Second
)

// Runner asks responders. It needs no workspace.
type Runner struct{ exchange Exchange }

// New returns a runner on exchange; without one it can be asked for its kind, and not run.
func New(exchange Exchange) *Runner { return &Runner{exchange} }

// Bare says that no workspace is laid out for it.
func (*Runner) Bare() {}

// Close closes the exchange, if that can be.
func (r *Runner) Close() error {
	if c, ok := r.exchange.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Run asks one of the responders of job.Name and stays until it, or a person, has said how the work ended. A
// responder that dies is an error, so that another worker asks another one; one that breaks the protocol
// is a failure of the work (E25).
func (r *Runner) Run(ctx context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
	if ctx.Err() != nil {
		return contracts.Outcome{}, fmt.Errorf("run manual: %w", context.Cause(ctx))
	}
	if r.exchange == nil {
		return contracts.Outcome{}, errors.New("run manual: no connection to responders")
	}
	s, err := settingsOf(job.Invocation)
	if err != nil {
		return contracts.Outcome{}, err
	}
	c := &conversation{
		job: job, settings: s, out: out, exchange: r.exchange, began: time.Now(),
		heard: make(chan contracts.ManualHeard, heardAtOnce), next: 1, pause: firstPause,
	}
	if c.request, err = c.makeRequest(ctx); err != nil {
		return contracts.Outcome{}, err
	}
	stop, err := r.exchange.Listen(job.Tenant, job.ID, job.Run, func(m contracts.ManualHeard) {
		select {
		case c.heard <- m:
		default: // more than the window lets anybody send; what is missing shows in the numbers
		}
	})
	if err != nil {
		return contracts.Outcome{}, fmt.Errorf("run manual: %w", err)
	}
	defer stop()
	outcome, err := c.talk(ctx)
	if err != nil && !errors.Is(err, runner.ErrRejected) {
		err = fmt.Errorf("run manual: %w", err)
	}
	return outcome, err
}

// settings are what the invocation's metadata says.
type settings struct {
	reject bool          // where nobody listens
	beat   time.Duration // how often a responder says something
}

func settingsOf(inv contracts.Invocation) (settings, error) {
	s := settings{beat: contracts.ManualHeartbeats * time.Second}
	bad := func(name, format string, a ...any) (settings, error) {
		return s, runner.Reject(contracts.ReasonBadInvocation, "metadata[%q]: %s", name, fmt.Sprintf(format, a...))
	}
	for name, value := range inv.Metadata {
		if !strings.HasPrefix(name, "manual.") {
			continue
		}
		switch name {
		case contracts.MetaManualNobody:
			if value != "wait" && value != "reject" {
				return bad(name, "%.48q is not wait or reject", value)
			}
			s.reject = value == "reject"
		case contracts.MetaManualInterval:
			n, err := strconv.ParseFloat(value, 64)
			if err != nil || !(n >= 0.1 && n <= 3600) {
				return bad(name, "%.48q is not a number of seconds from 0.1 to 3600", value)
			}
			s.beat = time.Duration(n * float64(time.Second))
		default:
			return bad(fmt.Sprintf("%.64s", name), "there is no such setting: %s and %s are", contracts.MetaManualNobody, contracts.MetaManualInterval)
		}
	}
	return s, nil
}

// silence is how long a responder may say nothing.
func (s settings) silence() time.Duration { return contracts.ManualSilence * s.beat }

// makeRequest writes JSON: the worker does not know what the responder speaks, and everybody speaks that.
func (c *conversation) makeRequest(ctx context.Context) ([]byte, error) {
	request := contracts.ManualRequest{
		Invocation: c.job.Invocation, Run: c.job.Run, Attempt: c.job.Attempt,
		HeartbeatSeconds: c.settings.beat.Seconds(), Window: contracts.ManualWindow,
	}
	if until, ok := ctx.Deadline(); ok {
		request.SecondsLeft = max(0.001, time.Until(until).Seconds())
	}
	data, err := contracts.EncodeJSON(request)
	if err != nil {
		return nil, runner.Reject(contracts.ReasonBadInvocation, "%v", err)
	}
	if len(data) > contracts.MaxMessageBytes {
		return nil, runner.Reject(contracts.ReasonBadInvocation,
			"the request is %d bytes, more than the %d of a message: send what is large as stdin, which then travels by reference", len(data), contracts.MaxMessageBytes)
	}
	return data, nil
}

// graceOf is how long the worker waits for the outcome of what it stops.
func graceOf(inv contracts.Invocation) time.Duration {
	if inv.Stop == nil {
		return defaultGrace
	}
	grace := time.Duration(inv.Stop.InterruptSeconds * float64(time.Second))
	if inv.Stop.GraceSeconds == nil {
		return grace + defaultGrace
	}
	return grace + time.Duration(*inv.Stop.GraceSeconds*float64(time.Second))
}

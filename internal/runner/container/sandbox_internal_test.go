package container

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/agent"
	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// A sandbox that says nothing of its time has an hour in all, also where it is never idle.
func TestSandboxHasAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Write(frame.Append(nil, frame.Hello, []byte{frame.Version})) }()
		session, err := agent.Open(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		job := runner.Job{Invocation: contracts.Invocation{Container: &contracts.Container{Sandbox: &contracts.Sandbox{}}}}
		b := newBox(job, &spec{}, session)
		b.users = 1 // a command that runs all the time
		began := time.Now()
		o, err := b.live(t.Context())
		if err != nil || o.Status != contracts.StatusTimedOut || o.Reason != contracts.ReasonTimeout || !strings.Contains(o.Error, "exceeded 3600 seconds") {
			t.Errorf("live() = %+v, %v, want timed_out/timeout", o, err)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("it lived for %s", took)
		}
	})
}

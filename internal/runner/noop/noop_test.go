package noop_test

import (
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/noop"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

var _ runner.Bare = noop.Runner{}

func TestRunner(t *testing.T) {
	runnertest.Run(t, func(*testing.T) runner.Runner { return noop.Runner{} }, runnertest.Options{
		Quick: func(testing.TB) runner.Job {
			return runner.Job{Invocation: contracts.Invocation{ID: "job", Kind: contracts.KindNoop}, Attempt: 1}
		},
	})
}

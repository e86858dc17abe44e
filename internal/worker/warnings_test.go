package worker_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// What a runner warns of is in the result, and in the log.
func TestWarnings(t *testing.T) {
	f := newFleet(t)
	var log bytes.Buffer
	f.log = &log
	warning := "the kernel does not bound swap"
	run := runner.Func(func(context.Context, runner.Job, runner.Sink) (contracts.Outcome, error) {
		return contracts.Outcome{Status: contracts.StatusSucceeded, ExitCode: new(0), Warnings: []string{warning}}, nil
	})
	_, stop := f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: run}})
	id := f.submit(contracts.Invocation{Kind: contracts.KindNoop})
	r := f.result(id)
	stop()
	if !slices.Contains(r.Warnings, warning) {
		t.Errorf("the result's warnings are %q", r.Warnings)
	}
	if said := log.String(); strings.Count(said, warning) != 1 || !strings.Contains(said, id) {
		t.Errorf("the log says\n%s", said)
	}
}

package runner_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// full is a runner with every optional interface.
type full struct {
	runner.Func
	name   string
	closed *[]string
	err    error
}

func (f full) Capabilities() map[string]string { return map[string]string{f.name + ".kill": "yes"} }

func (f full) Close() error {
	*f.closed = append(*f.closed, f.name)
	return f.err
}

func TestRegistryDispatches(t *testing.T) { // E9
	var got []contracts.Kind
	record := runner.Func(func(_ context.Context, job runner.Job, _ runner.Sink) (contracts.Outcome, error) {
		got = append(got, job.Kind)
		return contracts.Outcome{Status: contracts.StatusSucceeded}, nil
	})
	registry := runner.Registry{"a": record, "b": record}
	for _, kind := range []contracts.Kind{"b", "a"} {
		out, err := registry.Run(t.Context(), runner.Job{Invocation: contracts.Invocation{Kind: kind}}, nil)
		if err != nil || out.Status != contracts.StatusSucceeded {
			t.Errorf("Run(%s) = %v, %v, want succeeded", kind, out, err)
		}
	}
	if want := []contracts.Kind{"b", "a"}; !slices.Equal(got, want) {
		t.Errorf("kinds run = %v, want %v", got, want)
	}
}

func TestRegistryRejectsUnknownKind(t *testing.T) { // E10
	_, err := runner.Registry{}.Run(t.Context(), runner.Job{Invocation: contracts.Invocation{Kind: "container"}}, nil)
	var rejection *runner.Rejection
	if !errors.Is(err, runner.ErrRejected) || !errors.As(err, &rejection) {
		t.Fatalf("Run() = %v, want a *Rejection that is ErrRejected", err)
	}
	if rejection.Reason != contracts.ReasonNoRunner {
		t.Errorf("reason = %q, want %q", rejection.Reason, contracts.ReasonNoRunner)
	}
	if want := "no runner registered for runtime_kind='container'"; rejection.Text != want {
		t.Errorf("text = %q, want %q", rejection.Text, want)
	}
}

func TestRegistryGathersAndCloses(t *testing.T) {
	var closed []string
	broken := errors.New("broken")
	registry := runner.Registry{
		"a": full{name: "a", closed: &closed, err: broken},
		"b": full{name: "b", closed: &closed},
		"c": runner.Func(nil),
	}
	if got, want := registry.Capabilities(), map[string]string{"a.kill": "yes", "b.kill": "yes"}; !maps.Equal(got, want) {
		t.Errorf("Capabilities() = %v, want %v", got, want)
	}
	if err := registry.Close(); !errors.Is(err, broken) {
		t.Errorf("Close() = %v, want %v", err, broken)
	}
	if want := []string{"a", "b"}; !slices.Equal(closed, want) {
		t.Errorf("closed = %v, want %v: one failure must not keep the rest open", closed, want)
	}
}

package runner_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

func TestStopOrder(t *testing.T) { // E19, T14
	for name, test := range map[string]struct {
		stop *contracts.Stop
		want []runner.StopStep
	}{
		"nothing said": {nil, []runner.StopStep{{Signal: "TERM", Wait: runner.DefaultGrace}}},
		"an interrupt": {&contracts.Stop{InterruptSeconds: 0.5}, []runner.StopStep{{Signal: "INT", Wait: time.Second / 2}, {Signal: "TERM", Wait: runner.DefaultGrace}}},
		"no grace":     {&contracts.Stop{GraceSeconds: new(0.0)}, nil},
		"no number":    {&contracts.Stop{GraceSeconds: new(math.NaN())}, nil},
		"for ever":     {&contracts.Stop{GraceSeconds: new(math.Inf(1))}, []runner.StopStep{{Signal: "TERM", Wait: 365 * 24 * time.Hour}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := runner.StopOrder(test.stop); !slices.Equal(got, test.want) {
				t.Errorf("StopOrder() = %v, want %v", got, test.want)
			}
		})
	}
}

func TestStoppingOnceForTheFirstCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	began, stopped := make(chan struct{}), 0
	var s *runner.Stopping
	s = runner.NewStopping(func() { stopped++; close(began); <-s.Done() })
	s.Watch(ctx)
	unheard := errors.New("nobody hears it")
	s.Unheard(unheard)
	<-began
	cancel(runner.ErrTimeout)
	s.Fail(errors.New("another"))
	if s.Await(0) || !s.Deaf() {
		t.Error("Await() = true or Deaf() = false in a run that is being stopped for its sink")
	}
	s.Exited()
	if !s.Await(time.Hour) || stopped != 1 || s.Why(ctx) != unheard {
		t.Errorf("after Exited: stopped %d times for %v, want once for %v", stopped, s.Why(ctx), unheard)
	}
}

func TestStoppingLeavesWhatHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := runner.NewStopping(func() { t.Error("a run that had ended was stopped") })
	s.Watch(ctx)
	s.Exited()
	if err := s.Why(ctx); err != nil {
		t.Errorf("Why() = %v, want nil", err)
	}
	cancel(runner.ErrTimeout)
	s.Unheard(errors.New("nobody hears it"))
	// The rest of its output was not wanted any more, and the end of ctx says why.
	if err := s.Why(ctx); !errors.Is(err, runner.ErrTimeout) {
		t.Errorf("Why() = %v, want %v", err, runner.ErrTimeout)
	}
}

package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/runnel-project/runnel"
)

func TestCodeOfResult(t *testing.T) {
	code := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		result  runnel.Result
		code    int
		verdict string // "" says nothing
	}{
		"succeeded":        {runnel.Result{Status: runnel.StatusSucceeded, ExitCode: code(0)}, 0, ""},
		"exit":             {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonExit, ExitCode: code(3)}, 3, ""},
		"signal":           {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonSignal, ExitCode: code(-9)}, 137, "id: failed (signal): ended by signal 9"},
		"out of memory":    {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonOOM, ExitCode: code(-9)}, 137, "id: failed (oom)"},
		"code beyond":      {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonExit, ExitCode: code(259)}, 3, ""},
		"code wraps to 0":  {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonExit, ExitCode: code(256)}, 1, ""},
		"failed, no code":  {runnel.Result{Status: runnel.StatusFailed}, 1, "id: failed"},
		"not found":        {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonNotFound, ExitCode: code(127)}, 127, "id: failed (not_found)"},
		"not executable":   {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonNotExecutable}, 126, "id: failed (not_executable)"},
		"infra":            {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonInfra, Error: "disk\nfull\x1b[2J"}, 125, "id: failed (infra): disk full?[2J"},
		"infra, with code": {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonArtifacts, ExitCode: code(0)}, 125, "id: failed (artifacts)"},
		"poison":           {runnel.Result{Status: runnel.StatusFailed, Reason: runnel.ReasonPoison}, 125, "id: failed (poison)"},
		"rejected":         {runnel.Result{Status: runnel.StatusRejected, Reason: runnel.ReasonNoRunner, Error: "no runner"}, 125, "id: rejected (no_runner): no runner"},
		"timed out":        {runnel.Result{Status: runnel.StatusTimedOut, Reason: runnel.ReasonTimeout, ExitCode: code(-15), Killed: "1 process"}, 124, "id: timed out (timeout); killed: 1 process"},
		"queue timeout":    {runnel.Result{Status: runnel.StatusTimedOut, Reason: runnel.ReasonQueueTimeout}, 124, "id: timed out (queue_timeout)"},
		"cancelled":        {runnel.Result{Status: runnel.StatusCancelled, Reason: runnel.ReasonCancelled}, 130, "id: cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			c.result.ID = "id"
			if got := codeOf(c.result); got != c.code {
				t.Errorf("codeOf() = %d, want %d", got, c.code)
			}
			if got := verdict(c.result); got != c.verdict {
				t.Errorf("verdict() = %q, want %q", got, c.verdict)
			}
		})
	}
}

func TestCodeOfError(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code int
	}{
		"none":        {nil, 0},
		"any":         {errors.New("x"), 125},
		"exit":        {&exitError{code: 7}, 7},
		"wrapped":     {fmt.Errorf("x: %w", &exitError{code: 7}), 7},
		"interrupted": {fmt.Errorf("wait: %w", errLeft), 130},
		"first of":    {firstCode([]int{0, 3, 4}), 3},
		"all good":    {firstCode([]int{0, 0}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := codeOfError(c.err); got != c.code {
				t.Errorf("codeOfError() = %d, want %d", got, c.code)
			}
		})
	}
}

//go:build unix

package subprocess_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

// A file that is still open for writing somewhere, for the moment between another run's fork and its exec, is
// tried again; one that stays so is the job's fault.
func TestBusyFile(t *testing.T) {
	r := open(t, subprocess.Config{})
	job := command(t, "./script")
	if err := os.WriteFile(job.Dir+"/script", []byte("#!/bin/sh\necho ran\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(job.Dir+"/script", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	outcome, sink := run(t, r, job)
	if code(outcome) == 0 && sink.Stdout() == "ran\n" {
		t.Skip("this kernel executes what is open for writing")
	}
	if code(outcome) != 126 || !strings.Contains(outcome.Error, "text file busy") {
		t.Errorf("outcome = %+v (%d), want 126 and why", outcome, code(outcome))
	}
	time.AfterFunc(20*time.Millisecond, func() { writer.Close() })
	if outcome, sink := run(t, r, job); code(outcome) != 0 || sink.Stdout() != "ran\n" {
		t.Errorf("outcome = %+v (%d), want it to run once the file is closed", outcome, code(outcome))
	}
}

// What no exec takes is the job's fault as well; the argument is not repeated in the error.
func TestArgumentTooLong(t *testing.T) {
	r := open(t, subprocess.Config{})
	outcome, _ := run(t, r, command(t, "echo", strings.Repeat("x", 4<<20)))
	if code(outcome) != 126 || outcome.Reason != contracts.ReasonNotExecutable || len(outcome.Error) > 200 {
		t.Errorf("outcome = %s %d %.200q, want 126", outcome.Reason, code(outcome), outcome.Error)
	}
}

// Without a workspace nothing can be said of the job: another worker may try.
func TestNoWorkspace(t *testing.T) {
	r := open(t, subprocess.Config{})
	for _, dir := range []string{"", "relative"} {
		job := shell(t, "exit 0")
		job.Dir = dir
		if outcome, err := r.Run(t.Context(), job, &runnertest.Sink{}); err == nil || errors.Is(err, runner.ErrRejected) {
			t.Errorf("Run() in %q = %+v, %v, want an error that is no rejection", dir, outcome, err)
		}
	}
	job := shell(t, "exit 0")
	job.Dir += "/removed"
	if outcome, err := r.Run(t.Context(), job, &runnertest.Sink{}); err == nil || errors.Is(err, runner.ErrRejected) {
		t.Errorf("Run() in a workspace that is gone = %+v, %v, want an error that is no rejection", outcome, err)
	}
}

// After a command that could not be started, nothing is held any more: descriptors and cgroups would run out.
func TestMissesCostNothing(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip(err)
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	eachRung(t, func(t *testing.T, r *subprocess.Runner) {
		orphan := command(t, "./orphan")
		if err := os.WriteFile(orphan.Dir+"/orphan", []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		jobs := []runner.Job{orphan, command(t, "no-such-command"), shell(t, "exit 0"), shell(t, "sleep 600 & exit 1")}
		round := func() {
			for _, job := range jobs {
				job.Stdin = strings.NewReader("input")
				run(t, r, job)
			}
		}
		round()
		before := count()
		for range 10 {
			round()
		}
		if after := count(); after > before {
			t.Errorf("%d open files after ten rounds, %d before", after, before)
		}
	})
}

package container_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// Work that fills the disk is ended, wherever it writes: in bytes, and in files.
func TestDiskIsBounded(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{MaxDisk: 64 * mega, MaxDiskFiles: 500})
	if !strings.Contains(r.Capabilities()["container.limits"], "disk (watched)") {
		t.Skipf("the engine's disk is not to be seen from here: %q", r.Capabilities())
	}
	for name, test := range map[string]struct {
		args   []string
		change func(*runner.Job)
		says   string
	}{
		"workspace": {args: []string{"flood", contracts.ContainerWorkspace}, says: "may keep 67108864"},
		"less": {args: []string{"flood", contracts.ContainerWorkspace}, says: "may keep 8388608",
			change: func(j *runner.Job) { j.Container.DiskBytes = 8 * mega }},
		"files": {args: []string{"files", "1000000"}, says: "more than 500 files"},
		"image": {args: []string{"flood", "/"}, says: "may keep 67108864",
			change: func(j *runner.Job) { j.Container.User, j.Container.WritableRoot = "0", true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := command(t, test.args...)
			if test.change != nil {
				test.change(&job)
			}
			o, _ := run(t, r, job)
			if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonDisk || code(o) != -9 || o.Killed != "1 container (KILL)" || !strings.Contains(o.Error, test.says) {
				t.Errorf("Run() = %+v, want failed/disk with %q", o, test.says)
			}
		})
	}
	t.Run("setup", func(t *testing.T) {
		t.Parallel()
		o, _ := run(t, r, prepared(t, []string{"flood", "/"}, "exit", "0"))
		if o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonSetup || code(o) != -9 || !strings.Contains(o.Error, "may keep 67108864") {
			t.Errorf("Run() = %+v, want failed/setup", o)
		}
	})
	t.Run("sandbox", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		b := boxOf(t, t.Context(), open(t, container.Config{Sandboxes: d, MaxDisk: 64 * mega}), d, func(j *runner.Job) {
			j.Tenant, j.Container.Setup = "alice", &contracts.Setup{Command: []string{enginetest.Job, "stamp", "/made"}}
		})
		if o, said := b.exec(call("look", "/made")); o.Status != contracts.StatusSucceeded || !strings.HasPrefix(said, "/made -rw-r--r-- 0 0 ") {
			t.Errorf("after a setup Exec() = %+v with %q", o, said)
		}
		if o, _ := b.exec(call("flood", contracts.ContainerWorkspace)); o.Reason != contracts.ReasonClosed || !strings.Contains(o.Error, "failed/disk: the work keeps ") {
			t.Errorf("Exec() = %+v, want failed/closed and why", o)
		}
		if o := b.end(); o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonDisk || o.Metadata["container.setup.exit_code"] != "0" {
			t.Errorf("Run() = %+v, want failed/disk", o)
		}
	})
	t.Run("too much is asked for", func(t *testing.T) {
		job := command(t, "exit", "0")
		job.Container.DiskBytes = 65 * mega
		var rejection *runner.Rejection
		if _, err := r.Run(t.Context(), job, &runnertest.Sink{}); !errors.As(err, &rejection) || rejection.Reason != contracts.ReasonNotAllowed {
			t.Errorf("Run() = %v, want rejected/not_allowed", err)
		}
	})
}

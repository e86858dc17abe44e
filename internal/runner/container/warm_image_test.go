package container_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// Work with a setup has warm containers of what that setup left: kept, found again, and one tenant's.
func TestWarmWithSetup(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := warmed(t, 1, container.Config{WorkRoot: root})
	both := func(made string) runner.Job {
		job := prepared(t, []string{"stamp", made}, "look", made)
		job.Container.Warm = true
		return job
	}
	o, sink := run(t, r, both("/made"))
	sees := said(sink, contracts.Stdout, contracts.PhaseMain)
	if !strings.HasPrefix(sees, "/made -rw-r--r-- 0 0 ") || o.Metadata["container.setup.cached"] != "false" || o.Metadata["container.warm"] != "miss: none with what it asks for was idle" {
		t.Fatalf("Run() = %+v with %q, want a setup and a miss that says why", o, sees)
	}
	until(t, "a container of what the setup left is there", func() bool {
		o, sink = run(t, r, both("/made"))
		return o.Metadata["container.warm"] == "hit"
	})
	if o.Status != contracts.StatusSucceeded || sink.Stdout() != sees || sink.Stderr() != "" || o.Metadata["container.setup.cached"] != "true" || o.Metadata["container.setup.exit_code"] != "0" {
		t.Errorf("Run() = %+v with %q, want %q of before", o, sink.Stdout(), sees)
	}
	// Nobody else's, and for nothing else.
	others := both("/made")
	others.Tenant = "bob"
	if o, sink := run(t, r, others); o.Metadata["container.setup.cached"] != "false" || o.Metadata["container.warm"] == "hit" || strings.Contains(sink.Stdout(), sees) {
		t.Errorf("Run() of another tenant = %+v with %q", o, sink.Stdout())
	}
	if o, _ := run(t, r, both("/other")); o.Metadata["container.setup.cached"] != "false" || o.Metadata["container.warm"] == "hit" {
		t.Errorf("Run() with another setup = %+v", o)
	}
	without := warm(t, "look", "/made")
	without.Tenant = "alice"
	idle(t, r, 1)
	if _, sink := hit(t, r, without); !strings.Contains(sink.Stdout(), "no such file") {
		t.Errorf("without the setup it finds %q", sink.Stdout())
	}
	none := beside(t, container.Config{WorkRoot: root})
	if o, sink := run(t, none, both("/made")); o.Metadata["container.setup.cached"] != "true" || !strings.HasPrefix(o.Metadata["container.warm"], "miss: this worker keeps none of ") || sink.Stdout() != sees {
		t.Errorf("Run() of a worker that keeps none = %+v with %q", o, sink.Stdout())
	}
}

// An image that cannot be had when the worker starts is told of, keeps it from nothing else, and is used once it is there.
func TestWarmImageComesLater(t *testing.T) {
	t.Parallel()
	ours := enginetest.Image(t)
	name := fmt.Sprintf("127.0.0.1:1/runnel.test/late:%d-%d", os.Getpid(), time.Now().UnixNano())
	warned := make(chan error, 100)
	r := open(t, container.Config{Warm: []container.Warm{{Image: name, N: 1}, {Image: ours, N: 1}}, Warn: func(err error) {
		select {
		case warned <- err:
		default:
		}
	}})
	select {
	case err := <-warned:
		if !strings.HasPrefix(err.Error(), "warm "+name+": pull: ") {
			t.Errorf("the operator is told %q", err)
		}
	case <-time.After(runnertest.Limit):
		t.Fatal("the operator is not told")
	}
	if said := r.Capabilities()["container.warm"]; !strings.Contains(said, name+": 0 idle of 1 (pull: ") {
		t.Errorf("Capabilities() = %q", said)
	}
	until(t, "the other image has its own", func() bool {
		o, _ := run(t, r, warm(t, "exit", "0"))
		return o.Metadata["container.warm"] == "hit"
	})
	job := func() runner.Job {
		job := warm(t, "exit", "0")
		job.Container.Image, job.Container.Pull = name, contracts.PullNever
		return job
	}
	if o, _ := run(t, r, job()); o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonImage {
		t.Errorf("Run() = %+v, want failed/image", o)
	}
	// Fetched by somebody.
	if err := engineClient(t).ImageTag(background(t), ours, name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := engineClient(t).ImageRemove(background(t), name, image.RemoveOptions{}); err != nil {
			t.Error(err)
		}
	})
	until(t, "it is used", func() bool {
		o, _ := run(t, r, job())
		return o.Metadata["container.warm"] == "hit" && !strings.Contains(r.Capabilities()["container.warm"], "pull")
	})
}

package container_test

import (
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/container"
)

// What work may try, and must not achieve. Each attempt is made by itself inside, as an ordinary user and as root.
func TestEscapes(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	for _, user := range []string{"", "0"} {
		job := command(t, "refused")
		job.Container.User = user
		o, sink := run(t, r, job)
		got := sink.Stdout()
		if user == "0" {
			// Who is root inside already becomes nothing by asking for it.
			got = strings.ReplaceAll(got, "NOT REFUSED become root\n", "")
		}
		if strings.Contains(got, "NOT REFUSED") || strings.Count(sink.Stdout(), "efused ") < 20 {
			t.Errorf("as user %q:\n%s%s%+v", user, sink.Stdout(), sink.Stderr(), o)
		}
	}
}

func TestForkBomb(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	job := command(t, "fork")
	job.Container.PIDs = 64
	if o, sink := run(t, r, job); o.Status != contracts.StatusSucceeded || !strings.Contains(sink.Stdout(), "resource temporarily unavailable") {
		// A Go program that cannot make a thread ends at once, and that is an end as well.
		if !strings.Contains(sink.Stderr(), "newosproc") && !strings.Contains(sink.Stderr(), "pthread_create") {
			t.Errorf("Run() = %+v\n%s%s", o, sink.Stdout(), sink.Stderr())
		}
	}
}

// One job does not see the files of another, before or beside it.
func TestJobsDoNotMeet(t *testing.T) {
	t.Parallel()
	r := open(t, container.Config{})
	first := command(t, "leave", "file", "workspace")
	if o, _ := run(t, r, first); o.Status != contracts.StatusSucceeded {
		t.Fatalf("Run() = %+v", o)
	}
	_, sink := run(t, r, command(t, "look", "/runnel/workspace/made", "/runnel/artifacts/file", "/tmp/x", "/var/run/docker.sock", first.Dir))
	if n := strings.Count(sink.Stdout(), "no such file or directory"); n != 5 {
		t.Errorf("the next job sees\n%s", sink.Stdout())
	}
}

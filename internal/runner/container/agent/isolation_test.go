package agent_test

import (
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// Whatever a command leaves is gone after a wipe, and the next one finds what the first one found.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	_, first, _ := run(t, s, command("traces"))
	if strings.Contains(first, "trace ") {
		t.Fatalf("the first finds\n%s", first)
	}
	for _, kind := range []string{
		"daemon", "holder", "files", "locked", "deep", "links", "ipc", "mqueue", "process", "closed", "signals", "frames",
	} {
		e, out, _ := run(t, s, command("mess", "token", kind))
		if e.Code != 0 {
			t.Fatalf("mess %s: %+v\n%s", kind, e, out)
		}
		if err := s.Wipe(t.Context(), owner); err != nil {
			t.Fatalf("Wipe() after %s = %v", kind, err)
		}
		if _, next, _ := run(t, s, command("traces")); next != first {
			t.Errorf("after %s the next finds\n%s\nwhere the first found\n%s", kind, next, first)
		}
	}
}

// A command can do nothing to the agent, and the agent knows when memory ran out.
func TestAttacks(t *testing.T) {
	t.Parallel()
	s, _ := open(t, func(h *container.HostConfig) { h.Memory, h.MemorySwap = 32<<20, 32<<20 })
	if e, out, err := run(t, s, command("attack")); e.Code != 0 || strings.Count(out, "refused ") < 15 {
		t.Errorf("attack: %+v\n%s%s", e, out, err)
	}
	if _, out, _ := run(t, s, command("refused")); strings.Contains(out, "NOT REFUSED") {
		t.Errorf("refused:\n%s", out)
	}
	if err := s.Wipe(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if e, out, err := run(t, s, command("fork")); !strings.Contains(out+err, "resource temporarily unavailable") && !strings.Contains(err, "newosproc") {
			t.Errorf("fork: %+v\n%s%s", e, out, err)
		}
		if e, out, _ := run(t, s, command("eat", "64")); e.How != frame.Signalled || e.Code != 9 || !e.OOM {
			t.Errorf("eat: %+v\n%s", e, out)
		}
		if e, out, _ := run(t, s, command("feed", "64")); e.End != (frame.End{OOM: true}) {
			t.Errorf("feed: %+v\n%s", e, out)
		}
		if e, _, _ := run(t, s, command("exit", "0")); e.End != (frame.End{}) {
			t.Errorf("Run() = %+v after that", e)
		}
	}
	if _, out, err := run(t, s, command("say", "a", "b")); out != "a\n" || err != "b\n" {
		t.Errorf("it says %q and %q after that", out, err)
	}
}

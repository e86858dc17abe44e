//go:build unix

package main_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue"
)

// states reads what doctor --json printed, by what was looked at.
func states(t *testing.T, out string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(out) {
		var f struct{ What, State string }
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all[f.What] = f.State
	}
	return all
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	o := newOutside(t, queue.Topology{})
	waiting := strings.TrimSpace(o.want(0, "run", "-d", "--", "echo", "unharmed"))
	before := o.traces()
	out := o.want(0, "doctor")
	for _, want := range []string{"ok    server", "ok    stream RUNNEL_INVOKE", "ok    stream RUNNEL_REPLY", "ok    stream RUNNEL_DEAD", "ok    stream KV_RUNNEL_WORKERS",
		"ok    clock", "ok    storage", "warn  workers", "`worker start` starts one"} {
		if !strings.Contains(out, want) {
			t.Errorf("doctor does not say %q:\n%s", want, out)
		}
	}
	if n := o.traces(); n != before {
		t.Errorf("the streams hold %d messages after doctor, and %d before", n, before)
	}
	o.worker()
	if out := o.want(0, "logs", "-f", waiting); out != "unharmed\n" {
		t.Errorf("what waited while doctor wrote printed %q", out)
	}
	for what, state := range states(t, o.want(0, "doctor", "--json")) {
		if state != "ok" {
			t.Errorf("%s is %s where nothing is wrong", what, state)
		}
	}

	change := func(name string, change func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := o.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		change(&config)
		if _, err := o.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	change("RUNNEL_DEAD", func(c *jetstream.StreamConfig) { c.MaxBytes = 10 }) // no message fits
	change("RUNNEL_REPLY", func(c *jetstream.StreamConfig) { c.AllowRollup = true })
	change("RUNNEL_INVOKE", func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 })
	got := o.submit("doctor", "--json")
	all := states(t, got.out)
	if got.code != 1 || all["stream RUNNEL_DEAD"] != "fail" || all["stream RUNNEL_REPLY"] != "fail" || all["stream RUNNEL_INVOKE"] != "warn" || all["server"] != "ok" {
		t.Errorf("doctor of streams that are full, unsafe and different: %s", got)
	}
	if err := o.js.DeleteStream(t.Context(), "RUNNEL_DEAD"); err != nil {
		t.Fatal(err)
	}
	if got := o.submit("doctor"); got.code != 1 || !strings.Contains(got.out, "`submit init`") {
		t.Errorf("doctor without a stream: %s", got)
	}
}

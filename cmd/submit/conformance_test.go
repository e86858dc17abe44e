//go:build unix

package main_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// The rules are the kit's to test; here: what is printed, and the exit code.
func TestConformance(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	s := a.submit("conformance", "producer", "--patience", "0.2s", "--rules", "subject,body", "--", "true")
	if s.code != 1 || strings.Count(s.out, "FAIL ") != 2 || !strings.Contains(s.err, "2 of 2 rules are broken") {
		t.Errorf("a program that does nothing: %s", s)
	}
	s = a.submit("conformance", "producer", "--json", "--patience", "0.2s", "--rules", "subject", "--", "true")
	if s.code != 1 || !strings.HasPrefix(s.out, `{"rule":"subject",`) || !strings.Contains(s.out, `"kept":false`) {
		t.Errorf("--json: %s", s)
	}
	for want, args := range map[string][]string{
		"no rule":   {"conformance", "producer", "--rules", "none", "--", "true"},
		"has ended": {"conformance", "responder", "--", "true"},
		"start the": {"conformance", "responder", "--", a.file("none")},
		"at least":  {"conformance", "producer"},
	} {
		if s := a.submit(args...); s.code != 125 || !strings.Contains(s.err, want) {
			t.Errorf("%q: %s; want %q", args, s, want)
		}
	}
	empty(t, a.file("tmp"))
}

// On a server that is named, an interrupt leaves nothing behind either.
func TestConformanceOnANamedServer(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	node := queuetest.Server(t)
	js, err := jetstream.New(node.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	streams := func() int {
		n := 0
		list := js.StreamNames(t.Context())
		for range list.Name() {
			n++
		}
		if err := list.Err(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	see := `echo "$RUNNEL_SERVER $RUNNEL_PREFIX" >` + a.file("seen")
	s := a.submit("conformance", "producer", "--server", node.URL(), "--patience", "0.2s", "--rules", "subject", "--", "sh", "-c", see)
	if s.code != 1 || !strings.Contains(s.out, "published to conformance-") {
		t.Errorf("a program that does nothing: %s", s)
	}
	seen, err := os.ReadFile(a.file("seen"))
	if err != nil || !strings.HasPrefix(string(seen), node.URL()+" conformance-") {
		t.Errorf("it saw %q, %v", seen, err)
	}
	if n := streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
	a.set("RUNNEL_SERVER", node.URL())
	if s := a.submit("conformance", "producer", "--embedded", "--patience", "0.2s", "--rules", "subject", "--", "true"); s.code != 1 || !strings.Contains(s.out, "to runnel.invoke.>") {
		t.Errorf("--embedded: %s", s)
	}
	begun := a.file("begun")
	p := a.start("submit", "conformance", "producer", "--", "sh", "-c", "touch "+begun+"; exec sleep 60")
	eventually(t, "the program runs", func() bool { return exists(begun) })
	if n := streams(); n != 4 {
		t.Errorf("%d streams to check on, want 4", n)
	}
	p.signal(syscall.SIGINT)
	if code := p.code(); code != 130 {
		t.Errorf("an interrupt ends it with %d, stderr %s", code, p.log.String())
	}
	if n := streams(); n != 0 {
		t.Errorf("%d streams are left after an interrupt", n)
	}
}

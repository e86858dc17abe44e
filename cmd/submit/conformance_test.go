//go:build unix

package main_test

import (
	"strings"
	"testing"
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

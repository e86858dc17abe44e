//go:build unix

package main_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// manual submits one of kind manual that nobody but a person does, and returns its id.
func (a *account) manual(id string) string {
	a.t.Helper()
	a.feedWant(`{"invocation_id":"`+id+`","runtime_kind":"manual","runtime_name":"approval"}`, "send", "-f", "-")
	return id
}

func (a *account) feedWant(in string, args ...string) {
	a.t.Helper()
	if s := a.feed(strings.NewReader(in), args...); s.code != 0 {
		a.t.Fatalf("submit %q: %s", args, s)
	}
}

// A person's word is the result: once, with its code and output.
func TestReply(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.dev("127.0.0.1:0", "--slots", "4")
	for _, id := range []string{"approve", "refuse", "reject"} {
		a.manual(id)
	}
	if out := a.want(0, "reply"); strings.Count(out, "approval") != 3 {
		t.Errorf("reply without an id lists %q, want the three that wait", out)
	}
	file := a.file("out")
	if err := os.WriteFile(file, []byte("fine with me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := a.want(0, "reply", "approve", "--stdout", file, "--metadata", "who=ann"); out != "approve succeeded\n" {
		t.Errorf("reply said %q", out)
	}
	if v := a.shown("approve")["result"].(map[string]any)["metadata"].(map[string]any); v["who"] != "ann" || v["manual.answer"] == "" {
		t.Errorf("metadata = %v, want what came with the reply, and its name", v)
	}
	if out := a.want(0, "logs", "approve"); out != "fine with me\n" {
		t.Errorf("logs said %q", out)
	}
	if s := a.submit("reply", "approve"); s.code != 125 || !strings.Contains(s.err, "approve has ended by another's word: succeeded") {
		t.Errorf("a second reply: %s", s)
	}
	a.want(0, "reply", "refuse", "--exit-code", "3", "--error", "no")
	a.want(3, "wait", "refuse")
	a.want(0, "reply", "reject", "--reject", "not this one")
	if s := a.submit("wait", "reject"); s.code != 125 || !strings.Contains(s.err, "not this one") {
		t.Errorf("wait for a rejected one: %s", s)
	}
	if out := strings.TrimSpace(a.want(0, "reply")); out != "" {
		t.Errorf("reply without an id lists %q, want nothing", out)
	}

	job := strings.TrimSpace(a.want(0, "run", "-d", "--", "true"))
	for want, args := range map[string][]string{
		"only those of kind manual": {"reply", job},
		"no such invocation":        {"reply", "nonesuch"},
		"no such file":              {"reply", "approve", "--stdout", a.file("none")},
		"goes without":              {"reply", "approve", "--reject", "x", "--exit-code", "1"},
		"that is not 0":             {"reply", "approve", "--error", "x", "--exit-code", "0"},
		"KEY=VALUE":                 {"reply", "approve", "--metadata", "x"},
	} {
		if s := a.submit(args...); s.code != 125 || !strings.Contains(s.err, want) {
			t.Errorf("%q: %s; want %q", args, s, want)
		}
	}
}

// Its worker is killed while the person thinks; the reply reaches the worker that holds it then.
func TestReplyAfterAWorkerIsKilled(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.dev("127.0.0.1:0", "--kinds", "noop")
	workers := map[string]*process{}
	for _, name := range []string{"one", "two"} {
		p := a.start("worker", "start", "--kinds", "manual", "--name", name, "--drain-timeout", "1s")
		if text := p.line(); text != "ready "+name {
			t.Fatalf("worker start said %q", text)
		}
		workers[name] = p
	}
	id := a.manual("patient")
	holder := ""
	eventually(t, "a worker has it", func() bool {
		holder, _ = a.shown(id)["worker"].(string)
		return workers[holder] != nil
	})
	workers[holder].end(syscall.SIGKILL)
	// Nobody holds it until the lease is over: the reply waits for who does.
	a.want(0, "reply", id, "--timeout", "60s")
	result := a.shown(id)["result"].(map[string]any)
	if result["worker"] == holder || result["status"] != "succeeded" {
		t.Errorf("result = %v, want the other worker's", result)
	}
}

//go:build unix

package main_test

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCancelQueuedNeverStarts(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0", "--slots", "1")
	first := strings.TrimSpace(a.want(0, "run", "-d", "--", "sh", "-c", "echo begun; "+until(a.file("gate"))))
	logs := a.start("submit", "logs", "-f", first)
	if text := logs.line(); text != "begun" {
		t.Fatalf("the first job said %q", text)
	}
	queued := strings.TrimSpace(a.want(0, "run", "-d", "--", "touch", a.file("started")))
	if out := a.want(0, "cancel", queued); !strings.Contains(out, "cancelled: it was not running") {
		t.Errorf("cancel said %q", out)
	}
	touch(t, a.file("gate"))
	a.want(0, "wait", first)
	a.want(0, "run", "--", "true") // what came after it has run
	a.want(130, "wait", queued)
	if exists(a.file("started")) {
		t.Error("the cancelled job ran")
	}
	if v := a.shown(queued); v["status"] != "cancelled" {
		t.Errorf("show says %v", v["status"])
	}
}

// family is a job that tells the ids of itself, of a child and of a child that left its session, and does not end.
func family(file string) []string {
	return []string{"sh", "-c", `sleep 600 & setsid sh -c 'echo $$ >> "` + file + `"; exec sleep 600' & echo $$ >> "` + file + `"; echo $! >> "` + file + `"; ` +
		`while [ $(wc -l < "` + file + `") -lt 3 ]; do sleep 0.05; done; echo begun; wait`}
}

// gone checks that none of the processes in file lives.
func gone(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pids := strings.Fields(string(data))
	if len(pids) < 3 {
		t.Fatalf("only %d processes told their ids", len(pids))
	}
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "process "+text+" is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	}
}

func TestCancelRunningSaysWhatWasKilled(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	pids := a.file("pids")
	p := a.start("submit", append([]string{"run", "--id", "busy", "--"}, family(pids)...)...)
	if text := p.line(); text != "begun" {
		t.Fatalf("the job said %q", text)
	}
	var report struct {
		ID, Status, Was, Killed string
		Ended                   bool `json:"already_ended"`
	}
	out := a.want(0, "cancel", "--json", "busy")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Status != "cancelled" || report.Was != "running" || report.Killed == "" || report.Ended {
		t.Errorf("cancel said %s", out)
	}
	if code := p.code(); code != 130 {
		t.Errorf("run ended with %d, want 130", code)
	}
	gone(t, pids)
	if v := a.shown("busy"); v["status"] != "cancelled" || v["result"].(map[string]any)["killed"] == "" {
		t.Errorf("show says %v", v)
	}
	if again := a.want(0, "cancel", "busy"); !strings.Contains(again, "had already ended: cancelled") {
		t.Errorf("a second cancel said %q", again)
	}
}

func TestCancelEndedAndUnknown(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	a.want(0, "run", "--id", "done", "--", "true")
	if out := a.want(0, "cancel", "done"); !strings.Contains(out, "had already ended: succeeded") {
		t.Errorf("cancel of what has ended said %q", out)
	}
	got := a.submit("cancel", "nothing-like-it")
	if got.code != 125 || !strings.Contains(got.err, "nothing-like-it: no such invocation") || got.out != "" {
		t.Errorf("cancel of what is unknown: %s", got)
	}
	// One that is unknown does not keep the others alive.
	a.want(0, "run", "-d", "--id", "long", "--", "sleep", "600")
	if got := a.submit("cancel", "nothing-like-it", "long"); got.code != 125 || !strings.Contains(got.out, "long cancelled") {
		t.Errorf("cancel of both: %s", got)
	}
}

func TestInterruptCancels(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	pids := a.file("pids")
	p := a.start("submit", append([]string{"run", "--id", "busy", "--"}, family(pids)...)...)
	if text := p.line(); text != "begun" {
		t.Fatalf("the job said %q", text)
	}
	p.signal(syscall.SIGINT)
	if code := p.code(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if !strings.Contains(p.log.String(), "busy: cancelled") || !strings.Contains(p.log.String(), "killed") {
		t.Errorf("stderr %q, want what was killed", p.log.String())
	}
	gone(t, pids)
	if v := a.shown("busy"); v["status"] != "cancelled" {
		t.Errorf("show says %v", v["status"])
	}
}

func TestSecondInterruptLeaves(t *testing.T) {
	a := newAccount(t)
	dev := a.dev("127.0.0.1:0")
	p := a.start("submit", "run", "--id", "stubborn", "--grace", "600", "--", "sh", "-c", `trap "" TERM; echo begun; while :; do sleep 0.1; done`)
	if text := p.line(); text != "begun" {
		t.Fatalf("the job said %q", text)
	}
	p.signal(syscall.SIGINT)
	eventually(t, "it says that it cancels", func() bool { return strings.Contains(p.log.String(), "cancelling stubborn") })
	for running := true; running; {
		p.signal(syscall.SIGINT)
		select {
		case <-p.ended:
			running = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	if code := p.code(); code != 130 || !strings.Contains(p.log.String(), "submit show stubborn") {
		t.Errorf("exit code %d, stderr %q: want 130 and where to look", code, p.log.String())
	}
	if v := a.shown("stubborn"); v["status"] != "running" {
		t.Errorf("the work is %v, want it to have its grace", v["status"])
	}
	dev.end(syscall.SIGKILL) // it would wait for the grace as well
}

func TestInterruptOnlyLeavesWhoLooksOn(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	a.want(0, "run", "-d", "--id", "long", "--", "sh", "-c", "echo begun; exec sleep 600")
	logs := a.start("submit", "logs", "-f", "long")
	if text := logs.line(); text != "begun" {
		t.Fatalf("the job said %q", text)
	}
	a.want(0, "run", "--id", "short", "--", "true")
	waits := a.start("submit", "wait", "long", "short")
	if text := waits.line(); text != "short succeeded" {
		t.Fatalf("wait said %q", text)
	}
	for _, p := range []*process{logs, waits} {
		p.signal(syscall.SIGINT)
		if code := p.code(); code != 130 {
			t.Errorf("%q ended with %d, want 130", p.cmd.Args, code)
		}
	}
	if v := a.shown("long"); v["status"] != "running" {
		t.Errorf("the work is %v, want it to go on", v["status"])
	}
}

func TestTimeout(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	pids := a.file("pids")
	got := a.submit(append([]string{"run", "--id", "slow", "--timeout", "1s", "--"}, family(pids)...)...)
	if got.code != 124 || !strings.Contains(got.err, "timed out") {
		t.Errorf("got %s, want exit code 124", got)
	}
	gone(t, pids)
	if v := a.shown("slow"); v["status"] != "timed_out" || v["reason"] != "timeout" {
		t.Errorf("show says %v, %v", v["status"], v["reason"])
	}
	got = a.submit("run", "--timeout", "0.5", "--", "sh", "-c", `trap 'echo trapped; exit 0' TERM; while :; do sleep 0.05; done`)
	if got.code != 124 || got.out != "trapped\n" {
		t.Errorf("with a trap: %s, want it to have run", got)
	}
}

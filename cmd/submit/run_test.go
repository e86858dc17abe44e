//go:build unix

package main_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestEmbeddedRun(t *testing.T) {
	a := newAccount(t)
	got := a.submit("run", "--embedded", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	if want := (said{"out\n", "err\n", 3}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	empty(t, a.file("tmp"))
	if exists(a.file("state")) {
		t.Error("an embedded run left a state directory")
	}
}

func TestEmbeddedLeavesNothingWhenInterrupted(t *testing.T) {
	a := newAccount(t)
	p := a.start("submit", "run", "--embedded", "--", "sh", "-c", "echo begun; exec sleep 600")
	if text := p.line(); text != "begun" {
		t.Fatalf("the job said %q", text)
	}
	p.signal(syscall.SIGINT)
	if code := p.code(); code != 130 {
		t.Errorf("exit code %d, want 130; stderr %s", code, p.log.String())
	}
	empty(t, a.file("tmp"))
}

func TestEmbeddedKeepsArtifacts(t *testing.T) {
	a := newAccount(t)
	dir := a.file("files")
	a.want(0, "run", "--embedded", "-o", dir, "--", "sh", "-c", `echo content > "$RUNNEL_ARTIFACTS/f"`)
	if data, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(data) != "content\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

func TestEmbeddedKeepsLogAndGlobs(t *testing.T) {
	a := newAccount(t)
	dir := a.file("files")
	got := a.submit("run", "--embedded", "--keep-log", "--artifacts", "build/*.txt", "--artifacts", "top", "--output-limit", "4KiB", "-o", dir, "--",
		"sh", "-c", "seq 1 20000; echo oops >&2; mkdir build; echo 1 > build/a.txt; echo 2 > build/b.log; echo 3 > top")
	if got.code != 0 || !strings.Contains(got.err, "bytes of stdout are left out here") || len(got.out) > 8<<10 {
		t.Errorf("got %d bytes, exit code %d, stderr %q; want most of it left out", len(got.out), got.code, got.err)
	}
	var seq strings.Builder
	for i := range 20000 {
		fmt.Fprintln(&seq, i+1)
	}
	for name, want := range map[string]string{".runnel/stdout.log": seq.String(), ".runnel/stderr.log": "oops\n", "build/a.txt": "1\n", "top": "3\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("%s holds %d bytes, %v; want %d", name, len(data), err, len(want))
		}
	}
	if exists(filepath.Join(dir, "build", "b.log")) {
		t.Error("build/b.log is there, which no glob matches")
	}
}

// Every line is out before the work goes on: it waits for a file that is made only when the line was seen.
func TestOutputAppearsAsItIsWritten(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	script := ""
	for _, n := range []string{"1", "2", "3"} {
		script += "echo " + n + "; " + until(a.file("seen"+n)) + "; "
	}
	p := a.start("submit", "run", "--", "sh", "-c", script)
	for _, n := range []string{"1", "2", "3"} {
		if text := p.line(); text != n {
			t.Fatalf("line %q, want %q", text, n)
		}
		touch(t, a.file("seen"+n))
	}
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if p.log.String() != "" {
		t.Errorf("stderr %q, want nothing", p.log.String())
	}
}

func TestStandardInput(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	if got := a.feed(strings.NewReader("hi\n"), "run", "--", "cat"); got != (said{"hi\n", "", 0}) {
		t.Errorf("echo hi | submit run -- cat: %s", got)
	}
	blob := make([]byte, 3<<20)
	if _, err := rand.Read(blob); err != nil {
		t.Fatal(err)
	}
	name := a.file("blob")
	if err := os.WriteFile(name, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for how, got := range map[string]said{
		"pipe":         a.feed(bytes.NewReader(blob), "run", "--", "cat"),
		"file":         a.feed(file, "run", "--", "cat"),
		"--stdin FILE": a.submit("run", "--stdin", name, "--", "cat"),
		"--stdin -":    a.feed(bytes.NewReader(blob), "run", "--stdin", "-", "--", "cat"),
	} {
		if got.code != 0 || got.err != "" || got.out != string(blob) {
			t.Errorf("3 MiB by %s: exit code %d, %d bytes, stderr %q", how, got.code, len(got.out), got.err)
		}
	}
	for how, got := range map[string]said{
		"/dev/null":    a.submit("run", "--", "cat"),
		"--stdin none": a.feed(strings.NewReader("hi\n"), "run", "--stdin", "none", "--", "cat"),
	} {
		if got != (said{"", "", 0}) {
			t.Errorf("%s: %s, want nothing", how, got)
		}
	}
}

// agree checks that logs -f, wait and show say the same of an invocation that ends with 4 after `first` and `second`.
func agree(t *testing.T, a *account, id string) {
	t.Helper()
	if out := a.want(0, "logs", id, "-f"); out != "first\nsecond\n" {
		t.Errorf("logs -f printed %q", out)
	}
	if out := a.want(0, "logs", id); out != "first\nsecond\n" {
		t.Errorf("logs printed %q", out)
	}
	a.want(4, "wait", id)
	v := a.shown(id)
	if v["status"] != "failed" || v["exit_code"] != 4.0 || v["reason"] != "exit" || v["invocation_id"] != id {
		t.Errorf("show --json says %v, %v, %v of %v", v["status"], v["exit_code"], v["reason"], v["invocation_id"])
	}
}

func TestDetachedIsFollowedFromElsewhere(t *testing.T) {
	a := newAccount(t)
	dev := a.dev("127.0.0.1:0")
	address := a.address()
	got := a.submit("run", "-d", "--", "sh", "-c", "echo first; "+until(a.file("gate"))+"; echo second; exit 4")
	id := strings.TrimSuffix(got.out, "\n")
	if !regexp.MustCompile(`^[a-z2-7]{16}$`).MatchString(id) || got.err != "" || got.code != 0 {
		t.Fatalf("run -d: %s, want an id alone", got)
	}
	logs := a.start("submit", "logs", id, "-f")
	waits := a.start("submit", "wait", id[:4])
	if text := logs.line(); text != "first" {
		t.Fatalf("logs -f began with %q", text)
	}
	eventually(t, "show says running", func() bool { return a.shown(id)["status"] == "running" })
	if out := a.want(0, "logs", id); out != "first\n" {
		t.Errorf("logs of what runs printed %q, want what is there", out)
	}
	touch(t, a.file("gate"))
	if text := logs.line(); text != "second" {
		t.Errorf("logs -f went on with %q", text)
	}
	if code := logs.code(); code != 0 {
		t.Errorf("logs -f ended with %d", code)
	}
	if code := waits.code(); code != 4 {
		t.Errorf("wait ended with %d, want 4", code)
	}
	agree(t, a, id)

	dev.end(syscall.SIGKILL)
	a.dev(address)
	agree(t, a, id)
	if v := a.shown(id[:6]); v["invocation_id"] != id {
		t.Errorf("the beginning of an id shows %v", v["invocation_id"])
	}
	// Who did not submit it has no journal to look into.
	if err := os.Remove(a.file("state/runnel/submitted")); err != nil {
		t.Fatal(err)
	}
	if v := a.shown(id[:5]); v["invocation_id"] != id {
		t.Errorf("the beginning of an id shows %v to somebody else", v["invocation_id"])
	}
}

func TestSecondAttemptIsTold(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	got := a.submit("run", "--retries", "1", "--retry-delay", "0.1", "--", "sh", "-c", `echo try $RUNNEL_ATTEMPT; exit 5`)
	if got.code != 5 || got.out != "try 1\ntry 2\n" || !strings.Contains(got.err, "attempt 1 ended") || !strings.Contains(got.err, "does not count") {
		t.Errorf("got %s", got)
	}
	id := strings.TrimSpace(a.want(0, "ls", "-q"))
	if out := a.want(0, "logs", id); out != "try 2\n" {
		t.Errorf("logs printed %q, want the run that counted", out)
	}
	if out := a.want(0, "logs", id, "--run", "all"); out != "try 1\ntry 2\n" {
		t.Errorf("logs --run all printed %q", out)
	}
}

func TestExitCodes(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	for name, c := range map[string]struct {
		args []string
		code int
		last string // of stderr; "" is nothing on it
	}{
		"succeeded":      {[]string{"--", "true"}, 0, ""},
		"own code":       {[]string{"--", "sh", "-c", "exit 42"}, 42, ""},
		"own 124":        {[]string{"--", "sh", "-c", "exit 124"}, 124, ""},
		"signal":         {[]string{"--", "sh", "-c", "kill -KILL $$"}, 137, "signal 9"},
		"not found":      {[]string{"--", "no-such-command"}, 127, "no-such-command"},
		"not executable": {[]string{"--", "/etc/passwd"}, 126, "/etc/passwd"},
		"timed out":      {[]string{"--timeout", "0.2", "--", "sleep", "600"}, 124, "timed out"},
		"not allowed":    {[]string{"-w", "/etc", "--", "true"}, 125, "not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.submit(append([]string{"run"}, c.args...)...)
			lines := strings.Split(strings.TrimSuffix(got.err, "\n"), "\n")
			if got.code != c.code || !strings.Contains(lines[len(lines)-1], c.last) || c.last == "" && got.err != "" {
				t.Errorf("got %s, want exit code %d and %q", got, c.code, c.last)
			}
			if quiet := a.submit(append([]string{"run", "-q"}, c.args...)...); quiet.err != "" || quiet.code != c.code {
				t.Errorf("with -q got %s, want nothing on stderr", quiet)
			}
		})
	}
}

func TestRunJSONIsOneObject(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	got := a.submit("run", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	var v struct {
		Status, Reason, Stdout, Stderr string
		Code                           int `json:"exit_code"`
	}
	if err := json.Unmarshal([]byte(got.out), &v); err != nil || strings.Count(got.out, "\n") != 1 {
		t.Fatalf("%v: %s", err, got)
	}
	if v.Status != "failed" || v.Reason != "exit" || v.Stdout != "out\n" || v.Stderr != "err\n" || v.Code != 3 || got.code != 3 || got.err != "" {
		t.Errorf("got %s", got)
	}
}

func TestReaderThatGoesAwayCancels(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	p := a.start("submit", "run", "--id", "endless", "--", "yes")
	if text := p.line(); text != "y" {
		t.Fatalf("line %q", text)
	}
	p.closeOutput()
	if code := p.code(); code != 141 {
		t.Errorf("exit code %d, want 141; stderr %s", code, p.log.String())
	}
	if v := a.shown("endless"); v["status"] != "cancelled" {
		t.Errorf("the work is %v, want cancelled", v["status"])
	}
}

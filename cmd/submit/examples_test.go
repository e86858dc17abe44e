//go:build unix

package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/embedded"
)

// foreign is a program of docs/examples, and what it needs.
type foreign struct {
	needs string
	argv  []string
}

func foreignPrograms() map[string]foreign {
	file := func(name string) string {
		path, err := filepath.Abs("../../docs/examples/" + name)
		if err != nil {
			panic(err)
		}
		return path
	}
	return map[string]foreign{
		"python": {"python3", []string{"python3", file("runnel.py"), "submit"}},
		"shell":  {"bash", []string{"bash", file("runnel.sh")}},
		"node":   {"node", []string{"node", file("runnel.mjs")}},
	}
}

func (p foreign) must(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(p.needs); err != nil {
		t.Skipf("no %s on this machine", p.needs)
	}
}

// tokened is the server's address with the token in it, for programs that do not know where submit finds it.
func (a *account) tokened() string {
	a.t.Helper()
	a.t.Setenv("XDG_STATE_HOME", filepath.Join(a.home, "state"))
	token, err := embedded.Token(a.address())
	if err != nil || token == "" {
		a.t.Fatalf("token %q, %v", token, err)
	}
	return "nats://" + token + "@" + a.address()
}

// foreign starts a program that is not ours.
func (a *account) foreign(argv ...string) (*exec.Cmd, *bufio.Reader, *syncBuffer) {
	a.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	log := &syncBuffer{}
	cmd.Env, cmd.Stderr = append(os.Environ(), "RUNNEL_SERVER="+a.tokened()), log
	out, err := cmd.StdoutPipe()
	if err != nil {
		a.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	over := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	a.t.Cleanup(func() {
		over.Stop()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, bufio.NewReader(out), log
}

// The examples in other languages submit, follow live, read the result and exit with its code, against worker dev.
func TestExamplesInOtherLanguages(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0", "--slots", "4")
	for name, p := range foreignPrograms() {
		t.Run(name, func(t *testing.T) {
			p.must(t)
			a := *a
			a.t = t
			gate := filepath.Join(t.TempDir(), "gate")
			cmd, out, log := a.foreign(append(p.argv, "sh", "-c", `echo "it's \"begun\""; `+until(gate)+`; head -c 200000 /dev/zero | tr '\0' x; echo oops >&2; exit 3`)...)
			if line, err := out.ReadString('\n'); line != "it's \"begun\"\n" {
				t.Fatalf("the first line is %q, %v; stderr %s", line, err, log)
			}
			touch(t, gate) // so it was shown while the job ran
			rest, err := io.ReadAll(out)
			if err != nil || !bytes.Equal(rest, bytes.Repeat([]byte("x"), 200_000)) {
				t.Errorf("the rest has %d bytes, %v, want 200000", len(rest), err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
				t.Errorf("it ended with %v, want exit code 3; stderr %s", err, log)
			}
			if !strings.HasPrefix(log.String(), "oops\n") {
				t.Errorf("stderr = %q, want the job's", log)
			}
		})
	}
}

// The Python example answers invocations of kind manual.
func TestExampleResponder(t *testing.T) {
	p := foreignPrograms()["python"]
	p.must(t)
	a := newAccount(t)
	a.dev("127.0.0.1:0", "--slots", "2")
	cmd, out, log := a.foreign(p.argv[0], p.argv[1], "respond", "snake")
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("it said %q, %v; stderr %s", line, err, log)
	}
	send := func(doc string) said {
		return a.feed(strings.NewReader(`{"runtime_kind":"manual","runtime_name":"snake",`+doc+`}`), "send", "--wait", "-f", "-")
	}
	if s := send(`"command":["echo"],"stdin":{"data":"aGkK"}`); s.code != 0 || s.out != "hi\n" {
		t.Errorf("echo: %s", s)
	}
	if s := send(`"command":["fail","7"]`); s.code != 7 {
		t.Errorf("fail: %s", s)
	}
	if s := send(`"command":["flood","40"]`); s.code != 0 || len(s.out) != 40*65536 {
		t.Errorf("flood: %d bytes, exit code %d, stderr %.500s", len(s.out), s.code, s.err)
	}
	if s := send(`"command":["hold"],"timeout_seconds":1`); s.code != 124 || s.out != "holding\n" {
		t.Errorf("hold: %s", s)
	}
	if s := send(`"command":["sing"]`); s.code != 125 || !strings.Contains(s.err, "no such command: sing") {
		t.Errorf("sing: %s", s)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

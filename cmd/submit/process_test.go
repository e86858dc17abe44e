//go:build unix

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binaries is where TestMain built submit and worker.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "runnel-cli-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		out, err := exec.Command("go", "build", "-o", dir, "../submit", "../worker").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		binaries = dir
		return m.Run()
	}())
}

// patience is ten times what the slowest step takes on a busy machine. It only bounds how long a test can hang.
const patience = 60 * time.Second

// account is a user with a home of its own: nothing of the real one's settings or state gets in or is touched.
type account struct {
	t    *testing.T
	home string
	dir  string // where commands start; "" is here
	env  []string
	user *syscall.Credential // whose submit commands are; nil is this process's
}

func newAccount(t *testing.T) *account {
	home := t.TempDir()
	tmp := filepath.Join(home, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	return &account{t: t, home: home, env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + tmp, "XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"DOCKER_HOST=unix://" + filepath.Join(home, "no-engine"), // so that no worker here serves containers (E10)
	}}
}

// set sets a variable for the commands that follow.
func (a *account) set(name, value string) { a.env = append(a.env, name+"="+value) }

// file is a path in the home.
func (a *account) file(name string) string { return filepath.Join(a.home, name) }

// said is what a command left.
type said struct {
	out, err string
	code     int
}

func (s said) String() string {
	return fmt.Sprintf("exit code %d, stdout %.2000q, stderr %.2000q", s.code, s.out, s.err)
}

// submit runs a command to its end.
func (a *account) submit(args ...string) said { return a.feed(nil, args...) }

// feed does so with standard input; nil is /dev/null.
func (a *account) feed(in io.Reader, args ...string) said {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "submit"), args...)
	var out, problems bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = a.env, a.dir, in, &out, &problems
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.user}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		a.t.Fatalf("submit %.200q: %v, %v; stderr %s", args, err, ctx.Err(), &problems)
	}
	return said{out.String(), problems.String(), cmd.ProcessState.ExitCode()}
}

// want runs a command whose exit code is known, and returns its standard output.
func (a *account) want(code int, args ...string) string {
	a.t.Helper()
	s := a.submit(args...)
	if s.code != code {
		a.t.Fatalf("submit %.200q: %s; want exit code %d", args, s, code)
	}
	return s.out
}

// shown is submit show --json.
func (a *account) shown(id string) map[string]any {
	a.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.want(0, "show", "--json", id)), &v); err != nil {
		a.t.Fatal(err)
	}
	return v
}

// process is one that goes on while the test does.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Reader // of standard output
	out   *os.File      // what lines reads from
	log   *syncBuffer   // standard error
	ended chan struct{}
}

// start starts a program; its standard output is to be read by line.
func (a *account) start(program string, args ...string) *process {
	a.t.Helper()
	p := &process{t: a.t, cmd: exec.Command(filepath.Join(binaries, program), args...), log: &syncBuffer{}, ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir, p.cmd.Stderr = a.env, a.dir, p.log
	r, w, err := os.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	p.cmd.Stdout, p.lines, p.out = w, bufio.NewReader(r), r
	if err := p.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	a.t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		r.Close()
		if a.t.Failed() {
			a.t.Logf("%s %q said on stderr:\n%.8000s", program, args, p.log.String())
		}
	})
	return p
}

// line reads the next line of standard output.
func (p *process) line() string {
	p.t.Helper()
	got := make(chan string, 1)
	go func() {
		text, err := p.lines.ReadString('\n')
		if err != nil {
			text = "end: " + err.Error()
		}
		got <- strings.TrimSuffix(text, "\n")
	}()
	select {
	case text := <-got:
		return text
	case <-time.After(patience):
		p.t.Fatalf("no line within %s; stderr %s", patience, p.log.String())
		return ""
	}
}

// closeOutput has nobody read standard output any more.
func (p *process) closeOutput() { p.out.Close() }

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// code waits for the end.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("%q has not ended within %s; stderr %s", p.cmd.Args, patience, p.log.String())
		return 0
	}
}

// end ends the process, by force if it must.
func (p *process) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Errorf("%q does not end by %s", p.cmd.Args, s)
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// dev starts a worker dev and points the account's commands to it. An address of an earlier one brings that one back.
func (a *account) dev(address string, args ...string) *process {
	a.t.Helper()
	p := a.start("worker", append([]string{"dev", "--listen", address, "--drain-timeout", "1s"}, args...)...)
	text := p.line()
	url, ok := strings.CutPrefix(text, "ready ")
	if !ok {
		a.t.Fatalf("worker dev said %q; stderr %s", text, p.log.String())
	}
	a.set("RUNNEL_SERVER", url)
	return p
}

// address is where the account's commands go.
func (a *account) address() string {
	for i := len(a.env) - 1; i >= 0; i-- {
		if url, ok := strings.CutPrefix(a.env[i], "RUNNEL_SERVER=nats://"); ok {
			return url
		}
	}
	a.t.Fatal("no server was started")
	return ""
}

// eventually waits until ok says yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// touch makes an empty file: the gate that a job waits at.
func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// until is a piece of shell that waits for a file.
func until(path string) string { return fmt.Sprintf("while [ ! -e '%s' ]; do sleep 0.05; done", path) }

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left in %s", e.Name(), dir)
	}
}

package main

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
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childCommand makes this program one of the parts that are processes of their own.
const childCommand = "child"

// What children find in their environment: an address may hold a password.
const (
	envAddress = "RIVALS_ADDRESS"
	envMarks   = "RIVALS_MARKS" // where naps leave their marks
	envDir     = "RIVALS_DIR"   // the system's own
)

// parts are what a child can be: SYSTEM-ROLE.
var parts = map[string]func(ctx context.Context, p part) error{
	"runnel-serve":   runnelServe,
	"runnel-work":    runnelWork,
	"runnel-respond": runnelRespond,
	"runnel-submit":  submitPart(newRunnelSubmitter),
	"asynq-work":     asynqWork,
	"asynq-submit":   submitPart(newAsynqSubmitter),
	"river-work":     riverWork,
	"river-submit":   submitPart(newRiverSubmitter),
}

// part is what a child knows.
type part struct {
	address, dir, marks string
	slots               int
	variant             string
}

// childMain is `rivals child PART SLOTS VARIANT`.
func childMain(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("child: this program starts it by itself")
	}
	slots, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f := parts[args[0]]
	if f == nil {
		return fmt.Errorf("child: no part %q", args[0])
	}
	// All Go workers and submitters collect garbage as seldom as Runnel's programs do; its NATS server does as nats-server.
	if os.Getenv("GOGC") == "" && args[0] != "runnel-serve" {
		debug.SetGCPercent(400)
	}
	return f(ctx, part{os.Getenv(envAddress), os.Getenv(envDir), os.Getenv(envMarks), slots, args[2]})
}

// sayReady tells the parent.
func sayReady() { fmt.Println("ready") }

// untilTold waits for the end of standard input.
func untilTold() { _, _ = io.Copy(io.Discard, os.Stdin) }

// submitPart is a process that measures as it is asked to: a line with the work and how many, an answer of one line.
func submitPart(open func(ctx context.Context, p part) (submitter, func(), error)) func(ctx context.Context, p part) error {
	return func(ctx context.Context, p part) error {
		s, done, err := open(ctx, p)
		if err != nil {
			return err
		}
		defer done()
		sayReady()
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			var work string
			var n int
			if _, err := fmt.Sscan(lines.Text(), &work, &n); err != nil {
				return err
			}
			if err := json.NewEncoder(os.Stdout).Encode(measure(ctx, s, work, n)); err != nil {
				return err
			}
		}
		return lines.Err()
	}
}

// child is a process that this program started.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said *tail          // its standard error
	stop syscall.Signal // what ends it; 0 is the end of its standard input
}

// spawn starts a command in a process group of its own that dies with this program.
func spawn(name string, cmd *exec.Cmd, stop syscall.Signal) (*child, error) {
	c := &child{name: name, cmd: cmd, said: &tail{}, stop: stop}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	cmd.Stderr = c.said
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(out, 1<<20)
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// again is this program as one of its parts.
func (s *system) again(address, part string, slots int) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.Command(self, childCommand, part, strconv.Itoa(slots), s.variant)
	cmd.Env = s.environment(address)
	return cmd
}

func (s *system) environment(address string) []string {
	return append(os.Environ(), envAddress+"="+address, envDir+"="+s.dir, envMarks+"="+s.marks)
}

// ready waits for the line that says so.
func (c *child) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not within a minute"))
	defer cancel()
	line, err := c.line(ctx)
	if err == nil && line != "ready" {
		err = fmt.Errorf("it said %q", line)
	}
	if err != nil {
		return fmt.Errorf("%s did not get ready: %w%s", c.name, err, c.said)
	}
	return nil
}

// line reads the next line; when ctx ends first, the child is killed.
func (c *child) line(ctx context.Context) (string, error) {
	type read struct {
		text string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		text, err := c.out.ReadString('\n')
		got <- read{strings.TrimSuffix(text, "\n"), err}
	}()
	select {
	case r := <-got:
		if errors.Is(r.err, io.EOF) {
			return "", errors.New("it ended")
		}
		return r.text, r.err
	case <-ctx.Done():
		c.kill()
		<-got
		return "", context.Cause(ctx)
	}
}

// ask has a submitter measure a round.
func (c *child) ask(ctx context.Context, work string, n int) (m measurement, err error) {
	if _, err := fmt.Fprintf(c.in, "%s %d\n", work, n); err != nil {
		return m, fmt.Errorf("%s: %w%s", c.name, err, c.said)
	}
	line, err := c.line(ctx)
	if err != nil {
		return m, fmt.Errorf("%s: %w%s", c.name, err, c.said)
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return m, fmt.Errorf("%s said %.100q: %w", c.name, line, err)
	}
	return m, nil
}

// kill ends the child's process group at once.
func (c *child) kill() { _ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }

// end asks the child to end, kills what is left of its group after 10 s, and waits for it.
func (c *child) end() {
	if c == nil {
		return
	}
	c.in.Close()
	if c.stop != 0 {
		_ = c.cmd.Process.Signal(c.stop)
	}
	patience := time.AfterFunc(10*time.Second, c.kill)
	_, _ = io.Copy(io.Discard, c.out)
	patience.Stop()
	_ = c.cmd.Wait()
}

// tail keeps the last of what a child says on standard error.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - 4096; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text := bytes.TrimSpace(t.kept); len(text) > 0 {
		return "; it said:\n" + string(text)
	}
	return ""
}

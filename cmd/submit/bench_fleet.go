package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

// fleet is the processes that a bench measures, and its own connections to them.
type fleet struct {
	app      *app
	server   string // with the token, for children; theirs alone
	dir      string // "" where the server is somebody else's
	children []*child
	conns    []*nats.Conn
	client   *runnel.Client
	slots    int
}

// benchFleet starts a server and a worker, or connects to the server that was named, which has workers.
func (a *app) benchFleet(ctx context.Context, f benchFlags) (_ *fleet, err error) {
	fl := &fleet{app: a, slots: f.concurrency}
	defer func() {
		if err != nil {
			fl.close()
		}
	}()
	if a.conn.Server == "" && a.conn.Context == "" {
		if fl.dir, err = os.MkdirTemp("", "runnel-bench-"); err != nil {
			return nil, err
		}
		if fl.server, err = fl.start(ctx, "serve", "--dir", fl.dir); err != nil {
			return nil, err
		}
		if _, err = fl.start(ctx, "work", "--dir", fl.dir, "--slots", strconv.Itoa(f.concurrency)); err != nil {
			return nil, err
		}
	}
	var conns [2]*nats.Conn
	for i := range conns {
		if conns[i], err = fl.connect(ctx); err != nil {
			return nil, err
		}
	}
	fl.client, err = runnel.New(conns[0], runnel.WithTenant(a.tenant), runnel.WithPrefix(a.prefix), runnel.WithFollowConn(conns[1]))
	return fl, err
}

// connect opens a connection that close closes.
func (fl *fleet) connect(ctx context.Context) (*nats.Conn, error) {
	conn := fl.app.conn
	if fl.server != "" {
		conn = settings.Connection{Server: fl.server}
	}
	target, err := conn.Resolve()
	if err != nil {
		return nil, err
	}
	nc, err := fl.app.dial(ctx, target)
	if err == nil {
		fl.conns = append(fl.conns, nc)
	}
	return nc, err
}

// close ends the children, each by its own pid, and removes what they wrote.
func (fl *fleet) close() {
	for _, nc := range fl.conns {
		nc.Close()
	}
	for i := len(fl.children) - 1; i >= 0; i-- {
		fl.children[i].end()
	}
	if fl.dir != "" {
		if err := os.RemoveAll(fl.dir); err != nil {
			fl.app.note("bench: %v", err)
		}
	}
}

// child is this program again, in one of the parts of benchChildren. It ends with
// its standard input, and so also when this process is killed.
type child struct {
	part string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// start starts a child and returns what it says it is ready with.
func (fl *fleet) start(ctx context.Context, part string, args ...string) (string, error) {
	c, ready, err := fl.spawn(ctx, part, args...)
	if c != nil {
		fl.children = append(fl.children, c)
	}
	return ready, err
}

func (fl *fleet) spawn(ctx context.Context, part string, args ...string) (*child, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("bench: find this program: %w", err)
	}
	c := &child{part: part, cmd: exec.Command(self, append([]string{"bench", part, "--prefix", fl.app.prefix, "--config", os.DevNull}, args...)...)}
	c.cmd.Stderr = fl.app.stderr
	// Not on the command line, where everybody could read the token.
	c.cmd.Env = os.Environ()
	if fl.server != "" {
		c.cmd.Env = append(c.cmd.Env, settings.Variable("server")+"="+fl.server)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("bench: start %s: %w", part, err)
	}
	ready, err := c.line(ctx)
	if err != nil {
		c.end()
		return nil, "", fmt.Errorf("bench: %s did not get ready: %w", part, err)
	}
	ready, ok := strings.CutPrefix(ready, "ready ")
	if !ok {
		c.end()
		return nil, "", fmt.Errorf("bench: %s said %q", part, ready)
	}
	return c, ready, nil
}

// line reads the next line that the child prints.
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
		c.cmd.Process.Kill() // ends the read
		<-got
		return "", context.Cause(ctx)
	}
}

// ask sends a line and reads the answer.
func (c *child) ask(ctx context.Context, text string) (string, error) {
	if _, err := io.WriteString(c.in, text+"\n"); err != nil {
		return "", err
	}
	return c.line(ctx)
}

func (c *child) end() {
	c.in.Close()
	patience := time.AfterFunc(10*time.Second, func() { c.cmd.Process.Kill() })
	defer patience.Stop()
	_, _ = io.Copy(io.Discard, c.out)
	_ = c.cmd.Wait()
}

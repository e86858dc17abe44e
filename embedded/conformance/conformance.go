// Package conformance checks programs in other languages against the protocol of docs/protocol.md: it
// starts a NATS server inside this process, takes the worker's part itself, and says of each rule whether
// the program keeps it.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/embedded"
)

// Config says what to check.
type Config struct {
	// Command is the program and its arguments. It finds the server in the variable RUNNEL_SERVER.
	Command []string
	// Name is whom a responder answers for; "" is "conformance".
	Name string
	// Patience is how long the program may take for each step; 0 is 20 s.
	Patience time.Duration
	// Rules are those to check; none is all.
	Rules []string
	// Stderr takes what the program says there; nil drops it.
	Stderr io.Writer
}

// Check is one rule, and whether it is kept.
type Check struct {
	// Rule is its short name, Text what it asks for.
	Rule, Text string
	// Err says how it is broken; nil is kept.
	Err error
}

// rule is one of a kit.
type rule[K any] struct {
	name, text string
	check      func(context.Context, K) error
}

// kit is what both parts share.
type kit struct {
	cfg  Config
	node *embedded.Node
	nc   *nats.Conn
	url  string
}

// open starts a server with the streams and without a worker.
func open(ctx context.Context, cfg Config) (*kit, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("no program to check")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 20 * time.Second
	}
	if cfg.Name == "" {
		cfg.Name = "conformance"
	}
	if cfg.Stderr == nil {
		cfg.Stderr = io.Discard
	}
	node, err := embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", NoWorker: true})
	if err != nil {
		return nil, err
	}
	k := &kit{cfg: cfg, node: node}
	if k.nc, err = node.Connect(); err != nil {
		return nil, errors.Join(err, k.close(ctx))
	}
	u, err := url.Parse(node.URL())
	if err != nil {
		return nil, errors.Join(err, k.close(ctx))
	}
	u.User = url.User(node.Token())
	k.url = u.String()
	return k, nil
}

func (k *kit) close(ctx context.Context) error {
	if k.nc != nil {
		k.nc.Close()
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return k.node.Close(end)
}

// all checks the rules that were asked for, each told as it is known.
func all[K any](ctx context.Context, cfg Config, rules []rule[K], k K, tell func(Check)) error {
	for _, name := range cfg.Rules {
		if !slices.ContainsFunc(rules, func(r rule[K]) bool { return r.name == name }) {
			return fmt.Errorf("no rule %q", name)
		}
	}
	for _, r := range rules {
		if len(cfg.Rules) > 0 && !slices.Contains(cfg.Rules, r.name) {
			continue
		}
		err := r.check(ctx, k)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tell(Check{Rule: r.name, Text: r.text, Err: err})
	}
	return nil
}

// program is one run of what is checked.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	out     []byte
	changed chan struct{} // closed when out grows
}

func (k *kit) start(args ...string) (*program, error) {
	argv := append(slices.Clone(k.cfg.Command), args...)
	p := &program{cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "RUNNEL_SERVER="+k.url)
	p.cmd.Stdout, p.cmd.Stderr = p, k.cfg.Stderr
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the program: %w", err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// Write takes standard output.
func (p *program) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = append(p.out, data...)
	close(p.changed)
	p.changed = make(chan struct{})
	return len(data), nil
}

// said waits until standard output is what ok wants.
func (p *program) said(ctx context.Context, within time.Duration, ok func(out string) bool) error {
	late := time.NewTimer(within)
	defer late.Stop()
	for {
		p.mu.Lock()
		out, changed := string(p.out), p.changed
		p.mu.Unlock()
		if ok(out) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.done:
			p.mu.Lock()
			defer p.mu.Unlock()
			if ok(string(p.out)) {
				return nil
			}
			return fmt.Errorf("the program has ended, and standard output is %s", shown(string(p.out)))
		case <-late.C:
			return fmt.Errorf("after %s standard output is %s", within, shown(out))
		}
	}
}

// code waits for the end.
func (p *program) code(ctx context.Context, within time.Duration) (int, error) {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-late.C:
		return 0, fmt.Errorf("the program has not ended %s after the result was stored", within)
	}
}

// end ends the program if it has not ended.
func (p *program) end() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func shown(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%q... (%d bytes)", s[:200], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func ends(want string) func(string) bool {
	return func(out string) bool { return strings.HasSuffix(out, want) }
}

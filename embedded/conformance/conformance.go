// Package conformance checks programs in other languages against the protocol of docs/protocol.md: it
// takes the worker's part itself, on a NATS server inside this process or on one that it is given, and says of
// each rule whether the program keeps it.
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
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// ourPatience bounds what the kit itself does with the server.
const ourPatience = 20 * time.Second

// Config says what to check.
type Config struct {
	// Command is the program and its arguments. It finds the server in the variable RUNNEL_SERVER, and in
	// RUNNEL_PREFIX what stands in place of runnel in subjects and streams.
	Command []string
	// Conn goes to the server to check on, where streams with a prefix of their own are made and removed
	// again; nil starts a server in this process, with the prefix runnel.
	Conn *nats.Conn
	// Environment is variables, NAME=VALUE, by which the program gets to the server of Conn.
	Environment []string
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
	node *embedded.Node // nil: somebody else's server
	nc   *nats.Conn
	topo queue.Topology
}

// open makes the streams, on a server that it starts unless there is one.
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
	k := &kit{cfg: cfg, nc: cfg.Conn, topo: queue.Topology{Prefix: queue.DefaultPrefix}}
	if cfg.Conn != nil {
		return k, k.borrow(ctx)
	}
	var err error
	if k.node, err = embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", NoWorker: true}); err != nil {
		return nil, err
	}
	if k.nc, err = k.node.Connect(); err != nil {
		return nil, errors.Join(err, k.close(ctx))
	}
	u, err := url.Parse(k.node.URL())
	if err != nil {
		return nil, errors.Join(err, k.close(ctx))
	}
	u.User = url.User(k.node.Token())
	k.cfg.Environment = []string{"RUNNEL_SERVER=" + u.String()}
	return k, nil
}

// borrow makes streams of a name that nobody has on a server that is not ours.
func (k *kit) borrow(ctx context.Context) error {
	// The streams of a fleet may have reserved all that there is. What a check stores is some hundred messages.
	k.topo = queue.Topology{
		Prefix: "conformance-" + contracts.NewID(), ReplyAge: time.Hour,
		InvokeMaxBytes: -1, ReplyMaxBytes: -1, DeadMaxBytes: -1, WorkersMaxBytes: -1,
	}
	js, err := jetstream.New(k.nc)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, ourPatience)
	defer cancel()
	_, err = queue.Ensure(bounded, js, k.topo)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("make streams to check on: %w", err)
	if errors.Is(err, queue.ErrDenied) {
		return err // who may not make them may not remove them, and would wait long for that answer
	}
	return errors.Join(err, k.close(ctx))
}

// close stops the server, or removes what was made on somebody else's, also when ctx has ended.
func (k *kit) close(ctx context.Context) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), ourPatience)
	defer cancel()
	if k.cfg.Conn != nil {
		return k.remove(end)
	}
	if k.nc != nil {
		k.nc.Close()
	}
	return k.node.Close(end)
}

func (k *kit) remove(ctx context.Context) error {
	js, err := jetstream.New(k.nc)
	if err != nil {
		return err
	}
	names := []string{k.topo.WorkersStream()}
	for _, s := range k.topo.Streams() {
		names = append(names, s.Name)
	}
	var errs []error
	for _, name := range names {
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			errs = append(errs, fmt.Errorf("remove stream %s: %w: remove it by hand (nats stream rm)", name, err))
		}
	}
	return errors.Join(errs...)
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
	p.cmd.Env = append(append(os.Environ(), k.cfg.Environment...), "RUNNEL_PREFIX="+k.topo.Prefix)
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

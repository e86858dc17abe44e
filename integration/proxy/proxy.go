// Package proxy stands between a client and a server on loopback: it slows,
// cuts and mends the way between them.
package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy forwards every connection to its listener to one address.
type Proxy struct {
	target string
	listen net.Listener
	conns  sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	rate   int // bytes a second towards the client; 0 is all there is
	held   chan struct{}
	trap   *trap
	closed bool
}

// trap is a text of the client's that nothing passes from, once it comes for the nth time.
type trap struct {
	text   []byte
	nth    int
	after  bool // the text passes, and what is sent with it
	sprung chan struct{}
}

// New listens on a free port of 127.0.0.1 and forwards to target.
func New(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listen: l, open: map[net.Conn]bool{}}
	p.conns.Go(p.accept)
	return p, nil
}

// Addr is where clients connect instead.
func (p *Proxy) Addr() string { return p.listen.Addr().String() }

// Throttle bounds what the client is sent to n bytes a second; 0 lifts the bound.
func (p *Proxy) Throttle(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = n
}

// Drop resets every connection; new ones are let through.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// Cut makes a partition: nothing passes and nothing is refused, as if a cable were out. Mend ends it.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Trap cuts as Cut does when the client sends text for the nth time (0 is 1), just before it: what came earlier has
// passed. The channel is closed then.
func (p *Proxy) Trap(text string, nth int) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = &trap{text: []byte(text), nth: max(nth, 1), sprung: make(chan struct{})}
	return p.trap.sprung
}

// TrapAfter cuts when the client has sent text: it reaches the server, and no answer comes back.
func (p *Proxy) TrapAfter(text string) <-chan struct{} {
	sprung := p.Trap(text, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap.after = true
	return sprung
}

// spring returns how much of what the client sent may pass first: all of it, or what comes before the trap.
func (p *Proxy) spring(sent []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trap == nil {
		return len(sent)
	}
	at := 0
	for {
		i := bytes.Index(sent[at:], p.trap.text)
		if i < 0 {
			return len(sent)
		}
		if p.trap.nth--; p.trap.nth == 0 {
			break
		}
		at += i + len(p.trap.text)
	}
	if at += bytes.Index(sent[at:], p.trap.text); p.trap.after {
		at = len(sent)
	}
	close(p.trap.sprung)
	p.trap = nil
	if p.held == nil {
		p.held = make(chan struct{})
	}
	return at
}

// Mend lets everything pass again, also what waited.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Close ends the proxy and all its connections, and waits for them.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listen.Close()
	p.Mend()
	p.Drop()
	p.conns.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		p.conns.Go(func() { p.forward(client) })
	}
}

func (p *Proxy) forward(client net.Conn) {
	defer client.Close()
	if !p.keep(client) {
		return
	}
	defer p.forget(client)
	p.pass()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.keep(server) {
		return
	}
	defer p.forget(server)
	var ways sync.WaitGroup
	ways.Go(func() { p.copy(server, client, false) })
	ways.Go(func() { p.copy(client, server, true) })
	ways.Wait()
}

// keep notes an open connection, or says that there are to be none any more.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = true
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// pass waits while there is a partition.
func (p *Proxy) pass() {
	for {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held == nil {
			return
		}
		<-held
	}
}

// copy hands on what it reads until either side ends, then ends both.
func (p *Proxy) copy(to, from net.Conn, slow bool) {
	buf := make([]byte, 32<<10)
	for {
		p.mu.Lock()
		rate := p.rate
		p.mu.Unlock()
		part := buf
		if slow && rate > 0 {
			part = buf[:max(1, min(len(buf), rate/20))]
		}
		n, err := from.Read(part)
		if n > 0 {
			p.pass()
			first := n
			if !slow {
				first = p.spring(part[:n])
			}
			_, werr := to.Write(part[:first])
			if werr == nil && first < n {
				p.pass()
				_, werr = to.Write(part[first:n])
			}
			err = errors.Join(err, werr)
			if slow && rate > 0 {
				// This is the link's own pace, not a wait for something.
				time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				p.pass()
			}
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

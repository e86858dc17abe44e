package proxy_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/integration/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo listens and sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func start(t *testing.T) *proxy.Proxy {
	t.Helper()
	p, err := proxy.New(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// say sends text and reads it back within d.
func say(c net.Conn, text string, d time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	back := make([]byte, len(text))
	_, err := io.ReadFull(c, back)
	return err
}

func TestProxyForwards(t *testing.T) {
	p := start(t)
	c := dial(t, p.Addr())
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want the same back", len(got), err)
	}
}

func TestCutHoldsAndMendLetsPass(t *testing.T) {
	p := start(t)
	c := dial(t, p.Addr())
	if err := say(c, "before", time.Minute); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := say(c, "during", 100*time.Millisecond); err == nil {
		t.Fatal("an answer came through a cut way")
	}
	p.Mend()
	// What was sent during the cut arrives late, as over a real cable.
	back := make([]byte, len("during"))
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, back); err != nil || string(back) != "during" {
		t.Fatalf("after Mend read %q, %v, want %q", back, err, "during")
	}
}

func TestDropEndsConnectionsAndTakesNewOnes(t *testing.T) {
	p := start(t)
	c := dial(t, p.Addr())
	if err := say(c, "before", time.Minute); err != nil {
		t.Fatal(err)
	}
	p.Drop()
	if err := say(c, "after", time.Minute); err == nil {
		t.Fatal("a dropped connection still answers")
	}
	if err := say(dial(t, p.Addr()), "again", time.Minute); err != nil {
		t.Fatalf("a new connection: %v", err)
	}
}

func TestThrottleSlowsTheWayBack(t *testing.T) {
	p := start(t)
	p.Throttle(1 << 20)
	c := dial(t, p.Addr())
	data := make([]byte, 256<<10)
	began := time.Now()
	go func() { _, _ = c.Write(data) }()
	if _, err := io.ReadFull(c, make([]byte, len(data))); err != nil {
		t.Fatal(err)
	}
	// At 1 MiB a second this is a quarter of one; a bound from below does not fail on a slow machine.
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("256 KiB came back in %v, want about 250 ms", took)
	}
}

func TestTrapCutsBeforeTheNthText(t *testing.T) {
	heard := make(chan string, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for buf := make([]byte, 100); ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	p, err := proxy.New(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, p.Addr())
	sprung := p.Trap("now", 2)
	if _, err := c.Write([]byte("now or later, now or never")); err != nil {
		t.Fatal(err)
	}
	<-sprung
	if got := <-heard; got != "now or later, " {
		t.Errorf("before the trap came %q", got)
	}
	p.Mend()
	if got := <-heard; got != "now or never" {
		t.Errorf("after it came %q", got)
	}
}

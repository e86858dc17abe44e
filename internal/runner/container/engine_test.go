package container_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// An engine that goes takes the kind away with it and ends what runs as nobody's fault; one that comes back serves
// again, and what was left on it is removed.
func TestEngineGoesAndComes(t *testing.T) {
	t.Parallel()
	enginetest.Image(t)
	door := newDoor(t)
	root := t.TempDir()
	r, err := container.New(container.Config{Host: "unix://" + door.path, WorkRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		nothingLeft(t, root)
	})
	if !r.Available() {
		t.Fatalf("not available through a proxy: %v", r.Capabilities())
	}
	job := command(t, "hang")
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), job, &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
			close(begun)
			return nil
		}})
		ended <- err
	}()
	await(t, begun)
	door.shut()
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), "container engine") {
			t.Errorf("Run() = %v, want an error that another worker may mend", err)
		}
	case <-time.After(runnertest.Limit):
		t.Fatal("Run() does not end without its engine")
	}
	until(t, "the kind is withdrawn", func() bool { return !r.Available() })
	if _, err := r.Run(t.Context(), command(t, "exit", "0"), &runnertest.Sink{}); err == nil || errors.Is(err, runner.ErrRejected) {
		t.Errorf("Run() without an engine = %v, want an error", err)
	}
	if said := r.Capabilities()["container.engine"]; !strings.HasPrefix(said, "none") {
		t.Errorf("without an engine it says %q", said)
	}
	door.open(t)
	until(t, "the kind is served again", r.Available)
	until(t, "what was left is removed", func() bool { return len(containers(t, root)) == 0 })
	if o, _ := run(t, r, command(t, "exit", "0")); o.Status != contracts.StatusSucceeded {
		t.Errorf("Run() = %+v once the engine is back", o)
	}
}

func TestNoEngine(t *testing.T) {
	root := t.TempDir()
	r, err := container.New(container.Config{Host: "unix://" + filepath.Join(root, "nobody.sock"), WorkRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	if r.Available() {
		t.Error("Available() without an engine")
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
	if r, err := container.New(container.Config{Host: "nonsense"}); err == nil {
		r.Close()
		t.Error("New() takes an address that is none")
	}
}

// door is a way to the engine that can be shut.
type door struct {
	path, engine string

	mu     sync.Mutex
	listen net.Listener
	conns  map[net.Conn]bool
	all    sync.WaitGroup
}

func newDoor(t *testing.T) *door {
	t.Helper()
	host := engineClient(t).DaemonHost()
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		t.Skipf("the engine is at %s, not a socket", host)
	}
	dir, err := os.MkdirTemp("", "door") // short: the name of a socket is 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &door{path: filepath.Join(dir, "s"), engine: socket, conns: map[net.Conn]bool{}}
	d.open(t)
	t.Cleanup(d.shut)
	return d
}

func (d *door) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.listen = l
	d.mu.Unlock()
	d.all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", d.engine)
			if err != nil {
				in.Close()
				continue
			}
			d.mu.Lock()
			d.conns[in], d.conns[out] = true, true
			d.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				d.all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					if half, ok := way[0].(*net.UnixConn); ok {
						_ = half.CloseWrite()
					}
				})
			}
		}
	})
}

// shut ends every connection and takes no more.
func (d *door) shut() {
	d.mu.Lock()
	d.listen.Close()
	for c := range d.conns {
		c.Close()
	}
	clear(d.conns)
	d.mu.Unlock()
	d.all.Wait()
}

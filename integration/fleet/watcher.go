package fleet

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/internal/contracts"
)

const watcherEnv = "RUNNEL_INTEGRATION_WATCHER"

// Watcher is a process that follows an invocation, and can be killed over it.
type Watcher struct {
	f   *Fleet
	cmd *exec.Cmd
	out *bufio.Reader
}

// StartWatcher starts a process that follows an invocation of the default tenant, connected to address.
func (f *Fleet) StartWatcher(address, id string) *Watcher {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	w := &Watcher{f: f, cmd: exec.Command(exe)}
	w.cmd.Env = append(os.Environ(), watcherEnv+"="+address+" "+id, "GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(f.Dir, "race"))
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(w.Kill)
	w.out = bufio.NewReader(out)
	return w
}

// Event waits for the next event that the watcher is given, and returns its type.
func (w *Watcher) Event() contracts.EventType {
	w.f.t.Helper()
	line, err := w.out.ReadString('\n')
	if err != nil {
		w.f.t.Fatalf("watcher: %v", err)
	}
	return contracts.EventType(strings.TrimSpace(line))
}

// Kill kills the watcher as kill -9 does.
func (w *Watcher) Kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// watcher is the life of the child.
func watcher(text string) error {
	address, id, _ := strings.Cut(text, " ")
	nc, err := nats.Connect(address, append(runnel.ConnectOptions("watcher"), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		return err
	}
	defer nc.Close()
	c, err := runnel.New(nc)
	if err != nil {
		return err
	}
	for e, err := range c.Watch(context.Background(), id) {
		if err != nil {
			return err
		}
		fmt.Println(e.Type)
	}
	return nil
}

package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
)

// EchoName is whom the manual invocations of a test are for: its responders write the id to standard output.
const EchoName = "echo"

const responderEnv = "RUNNEL_INTEGRATION_RESPONDER"

// Responder is a process that answers.
type Responder struct {
	f   *Fleet
	cmd *exec.Cmd
	in  io.Closer
	// ID is what results call it.
	ID string
}

// StartResponder starts a process that answers for EchoName, and returns once it does.
func (f *Fleet) StartResponder() *Responder {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	r := &Responder{f: f, cmd: exec.Command(exe)}
	r.cmd.Env = append(os.Environ(), responderEnv+"="+f.url, "GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(f.Dir, "race"))
	r.cmd.Stderr = os.Stderr
	in, err := r.cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	r.in = in
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(r.Kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if r.ID = strings.TrimSpace(strings.TrimPrefix(line, "ready ")); err != nil || r.ID == "" {
		f.t.Fatalf("responder said %q: %v", line, err)
	}
	return r
}

// Kill kills the responder as kill -9 does.
func (r *Responder) Kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// responder is the life of the child; it ends with its standard input, and so with the test.
func responder(url string) error {
	nc, err := nats.Connect(url, runnel.ConnectOptions("responder")...)
	if err != nil {
		return err
	}
	defer nc.Close()
	who := fmt.Sprint("pid", os.Getpid())
	r, err := runnel.Handle(nc, EchoName, func(_ context.Context, t *runnel.Task) error {
		t.SetMetadata("who", who)
		time.Sleep(3 * time.Millisecond) // work: a kill meets some of it
		_, err := fmt.Fprintln(t.Stdout, t.ID)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("ready", who)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return r.Close()
}

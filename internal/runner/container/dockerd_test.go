//go:build linux

package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containertypes "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// dockerd is an engine of a test's own, that may be stopped and started.
type dockerd struct {
	dir, host string
	args      []string
	cmd       *exec.Cmd
}

// newDockerd starts an engine with the image of the tests, or skips the test where there can be none.
func newDockerd(t *testing.T) *dockerd {
	t.Helper()
	api := enginetest.Client(t)
	image := enginetest.Image(t)
	binary, err := exec.LookPath("dockerd")
	if err != nil || os.Geteuid() != 0 {
		t.Skipf("no engine of the test's own: it needs root (is %d) and dockerd (%v)", os.Geteuid(), err)
	}
	dir, err := os.MkdirTemp("", "dockerd") // short: the name of a socket is 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{dir: dir, host: "unix://" + filepath.Join(dir, "s")}
	write(t, filepath.Join(dir, "c.json"), "{}", 0o600)
	d.args = []string{
		binary, "--config-file", filepath.Join(dir, "c.json"), "--host", d.host, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--storage-driver", "vfs",
		"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
	}
	t.Cleanup(func() {
		d.stop(t, syscall.SIGTERM)
		// An engine that was killed leaves mounts, its data's last.
		mounts, _ := os.ReadFile("/proc/self/mounts")
		for _, line := range strings.Split(string(mounts), "\n") {
			if at := strings.Fields(line + " . ."); strings.HasPrefix(at[1], dir+"/") {
				_ = syscall.Unmount(at[1], syscall.MNT_DETACH)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if !d.start(t) {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Skipf("a second engine does not start here: %s", log[max(0, len(log)-2000):])
	}
	own, err := client.NewClientWithOpts(client.WithHost(d.host), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	packed, err := api.ImageSave(background(t), []string{image})
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	answer, err := own.ImageLoad(background(t), packed)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if said, err := io.ReadAll(answer.Body); err != nil || !json.Valid([]byte(strings.SplitN(string(said), "\n", 2)[0])) {
		t.Fatalf("load the image: %s, %v", said, err)
	}
	return d
}

// start starts the engine and reports whether it answers.
func (d *dockerd) start(t *testing.T) bool {
	t.Helper()
	// Its containerd goes with it, and stays in the table of processes until somebody asks how it ended: it must not be taken for alive.
	_ = os.Remove(filepath.Join(d.dir, "exec", "containerd", "containerd.pid"))
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.dir) // where its containerd says what it was at, when it does not end
	// In a network of its own: an engine without a bridge removes docker0, also another engine's.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Cloneflags: syscall.CLONE_NEWNET}
	if err := d.cmd.Start(); err != nil {
		t.Skipf("no engine of the test's own: %v", err)
	}
	api, err := client.NewClientWithOpts(client.WithHost(d.host), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := api.Ping(ctx)
		cancel()
		if err == nil {
			return true
		}
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(d.cmd.Process.Pid) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return false
		}
	}
	return false
}

// stop ends the engine and waits for that.
func (d *dockerd) stop(t *testing.T, how syscall.Signal) {
	if d.cmd == nil || d.cmd.Process == nil {
		return
	}
	if err := d.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = d.cmd.Wait()
	d.cmd = nil
}

var errNone = errors.New("no error")

// things returns the containers and volumes that are on the engine.
func (d *dockerd) things(t *testing.T) (found []string) {
	t.Helper()
	api, err := client.NewClientWithOpts(client.WithHost(d.host), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	containers, err := api.ContainerList(background(t), containertypes.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		found = append(found, c.ID)
	}
	volumes, err := api.VolumeList(background(t), volume.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes.Volumes {
		found = append(found, v.Name)
	}
	return found
}

// An engine that is stopped or killed in the middle of a run ends it as nobody's fault and withdraws the kind; once it is back
// the kind is served, and nothing of the run is left.
func TestEngineIsStopped(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	root := t.TempDir()
	r := beside(t, container.Config{Host: d.host, WorkRoot: root})
	if !r.Available() {
		t.Fatalf("not available: %v", r.Capabilities())
	}
	for name, how := range map[string]syscall.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		job := command(t, "hang")
		begun, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			o, err := r.Run(t.Context(), job, &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
				close(begun)
				return nil
			}})
			if err == nil {
				err = fmt.Errorf("%w: it says %+v with code %d", errNone, o, code(o))
			}
			ended <- err
		}()
		await(t, begun)
		d.stop(t, how)
		select {
		case err := <-ended:
			if errors.Is(err, errNone) || errors.Is(err, runner.ErrRejected) || !strings.Contains(err.Error(), "container engine") {
				t.Errorf("%s: Run() = %v, want an error that another worker may mend", name, err)
			}
		case <-time.After(runnertest.Limit):
			t.Fatalf("%s: Run() does not end without its engine", name)
		}
		until(t, "the kind is withdrawn", func() bool { return !r.Available() })
		if _, err := r.Run(t.Context(), command(t, "exit", "0"), &runnertest.Sink{}); err == nil || errors.Is(err, runner.ErrRejected) {
			t.Errorf("%s: Run() without an engine = %v, want an error", name, err)
		}
		if !d.start(t) {
			log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
			t.Fatalf("%s: the engine does not come back: %s", name, log[max(0, len(log)-2000):])
		}
		until(t, "the kind is served again", r.Available)
		if o, err := r.Run(t.Context(), command(t, "exit", "3"), &runnertest.Sink{}); err != nil || code(o) != 3 {
			t.Errorf("%s: Run() = %+v, %v once the engine is back", name, o, err)
		}
		until(t, "nothing of the run is left", func() bool {
			return len(processes(t, job)) == 0 && len(d.things(t)) == 0
		})
	}
}

package container_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// childImage has TestMain run a container that hangs, in place of the tests.
const (
	childImage, childRoot, childID = "CONTAINER_TEST_IMAGE", "CONTAINER_TEST_ROOT", "CONTAINER_TEST_ID"
	childSetup, childWarm          = "CONTAINER_TEST_SETUP", "CONTAINER_TEST_WARM"
)

// child is a worker that gets killed.
func child() int {
	cfg := container.Config{WorkRoot: os.Getenv(childRoot)}
	if os.Getenv(childWarm) != "" {
		cfg.Warm = []container.Warm{{Image: os.Getenv(childImage), N: 2}}
	}
	r, err := container.New(cfg)
	if err != nil {
		panic(err)
	}
	for len(cfg.Warm) > 0 && !strings.Contains(r.Capabilities()["container.warm"], "2 idle") {
		time.Sleep(20 * time.Millisecond)
	}
	job := runner.Job{
		Invocation: contracts.Invocation{
			ID: os.Getenv(childID), Kind: contracts.KindContainer, Command: []string{enginetest.Job, "hang", "deaf"},
			Container: &contracts.Container{Image: os.Getenv(childImage)},
		},
		Run: contracts.NewRun(),
	}
	if os.Getenv(childSetup) != "" {
		job.Container.Setup = &contracts.Setup{Command: job.Command}
	}
	job.Container.Warm = len(cfg.Warm) > 0
	ctx, stop := contextOfChild()
	defer stop()
	_, err = r.Run(ctx, job, &runnertest.Sink{OnWrite: func(_ contracts.Stream, _ contracts.Phase, data []byte) error {
		_, err := os.Stdout.Write(data)
		return err
	}})
	panic(err)
}

// What a killed worker left is removed by the next one, soon, and nothing of one that lives.
func TestKilledWorkersContainersGo(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]string{"in a command": "", "in a setup": "yes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killedWorkersContainersGo(t, setup)
		})
	}
}

func killedWorkersContainersGo(t *testing.T, setup string) {
	root := t.TempDir()
	r := open(t, container.Config{WorkRoot: root})
	image := enginetest.Image(t)

	ctx, cancel := contextWithCause(t)
	living := command(t, "hang")
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, living, &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error {
			close(begun)
			return nil
		}})
		ended <- err
	}()
	await(t, begun)

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	lost := command(t)
	cmd.Env = append(os.Environ(), childImage+"="+image, childRoot+"="+root, childID+"="+lost.ID, childSetup+"="+setup)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the other worker's job says %q, %v", line, err)
	}
	if n := len(containers(t, root)); n != 2 {
		t.Fatalf("%d containers run, want 2", n)
	}

	// A third worker that starts leaves both alone: their owners live.
	third, err := container.New(container.Config{WorkRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // long enough for a sweep that would do harm
	if n := len(containers(t, root)); n != 2 {
		t.Errorf("%d containers are left of living workers' 2", n)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if setup == "" && len(processes(t, lost)) == 0 {
		t.Log("the engine's processes are not to be seen from here: that none is left is not shown")
	}
	began := time.Now()
	third, err = container.New(container.Config{WorkRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := began.Add(time.Minute); len(containers(t, root)) != 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("containers are %v after a minute, want the living worker's alone", containers(t, root))
		}
	}
	over(t, lost)
	if left := things(t, root); len(left) != 2 { // a container and its volume
		t.Errorf("left are %v, want what is the living worker's", left)
	}
	t.Logf("figure: a killed worker's container and volume are gone %s after the next worker's start", time.Since(began).Round(time.Millisecond))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		locks, _ := filepath.Glob(filepath.Join(root, ".containers-*.lock"))
		if len(locks) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("locks are %v, want those of the two that live", locks)
		}
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	if !alive(t, living) {
		t.Error("the living worker's container is gone")
	}
	cancel(runner.ErrCancelled)
	<-ended
}

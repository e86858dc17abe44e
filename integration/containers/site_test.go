package containers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/testcontainers/testcontainers-go"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/runnel-project/runnel/integration/fleet"
	workerimage "github.com/runnel-project/runnel/integration/image"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/container/scratch"
)

// slots is how many jobs each worker runs at once.
const slots = 4

// site is a NATS server and workers, each in a container, in a network of their own, and the fleet's harness outside.
type site struct {
	*fleet.Fleet
	t       *testing.T
	api     *client.Client
	network *testcontainers.DockerNetwork
	workers int
}

// start starts a server in a container. It skips the test where no engine answers that shares this machine's directories.
func start(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, api: enginetest.Client(t)}
	load(t, s.api)
	ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
	defer cancel()
	var err error
	if s.network, err = tcnetwork.New(ctx, tcnetwork.WithLabels(labels(t))); err != nil {
		t.Fatal(err)
	}
	testcontainers.CleanupNetwork(t, s.network)
	server := s.run("nats", testcontainers.ContainerRequest{
		Image: loaded.names["nats"], ExposedPorts: []string{"4222/tcp"}, WaitingFor: wait.ForLog("Server is ready"),
	})
	url, err := server.PortEndpoint(ctx, "4222/tcp", "nats")
	if err != nil {
		t.Fatal(err)
	}
	s.Fleet = fleet.Start(t, fleet.Config{URL: url})
	return s
}

// box is a worker in a container.
type box struct {
	testcontainers.Container
	name string
}

func labels(t *testing.T) map[string]string { return map[string]string{"runnel.test": t.Name()} }

// run starts a container in the site's network, removed with the test.
func (s *site) run(name string, req testcontainers.ContainerRequest) testcontainers.Container {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), fleet.Patience)
	defer cancel()
	req.Labels, req.Networks, req.NetworkAliases = labels(s.t), []string{s.network.Name}, map[string][]string{s.network.Name: {name}}
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{ContainerRequest: req, Started: true})
	testcontainers.CleanupContainer(s.t, c, testcontainers.StopTimeout(0))
	if err != nil {
		if strings.Contains(err.Error(), "bind source path does not exist") {
			s.t.Skipf("the engine is on a machine with other directories: %v", err)
		}
		s.t.Fatalf("start %s: %v\n%s", name, err, s.log(c))
	}
	return c
}

// worker starts a worker in a container. It shares the harness's directories: the job program, the ledger, the workspaces.
func (s *site) worker() box {
	s.t.Helper()
	job := filepath.Dir(fleet.Job(s.t))
	return s.start(testcontainers.ContainerRequest{
		User: fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		HostConfigModifier: func(h *container.HostConfig) {
			h.Mounts = append(h.Mounts,
				mount.Mount{Type: mount.TypeBind, Source: s.Dir, Target: s.Dir},
				mount.Mount{Type: mount.TypeBind, Source: job, Target: job, ReadOnly: true})
		},
	}, "--work-dir", s.WorkRoot(), "--slots", fmt.Sprint(slots))
}

// start starts the worker's image and returns once it is ready.
func (s *site) start(req testcontainers.ContainerRequest, flags ...string) box {
	s.t.Helper()
	s.workers++
	name := fmt.Sprint("box", s.workers)
	req.Image, req.WaitingFor = loaded.names["worker"], wait.ForLog("ready "+name)
	req.Cmd = append([]string{"start", "--server", "nats://nats:4222", "--name", name}, flags...)
	return box{s.run(name, req), name}
}

// stop ends a worker in order.
func (s *site) stop(c box) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), fleet.Patience)
	defer cancel()
	patience := fleet.Patience
	if err := c.Stop(ctx, &patience); err != nil {
		s.t.Fatal(err)
	}
	state, err := c.State(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if state.ExitCode != 0 {
		s.t.Errorf("a worker that was stopped ended with %d:\n%s", state.ExitCode, s.log(c))
	}
}

func (s *site) log(c testcontainers.Container) string {
	if c == nil {
		return ""
	}
	out, err := c.Logs(context.WithoutCancel(s.t.Context()))
	if err != nil {
		return err.Error()
	}
	defer out.Close()
	text, err := io.ReadAll(out)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// loaded names the images that this process has loaded.
var loaded struct {
	sync.Mutex
	names map[string]string
}

// load loads the worker's image, as make image makes it, and one of the real nats-server.
func load(t *testing.T, api *client.Client) {
	t.Helper()
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.names != nil {
		return
	}
	programs := map[string][]byte{}
	for name, path := range map[string]string{"worker": fleet.Program(t, "worker"), "nats": fleet.NATS(t)} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		programs[name] = text
	}
	conf, err := os.ReadFile(queuetest.Config(t, "single.conf"))
	if err != nil {
		t.Fatal(err)
	}
	tag := func(name string) string { return fmt.Sprintf("runnel.test/%s:%d", name, os.Getpid()) }
	images := map[string]scratch.Image{
		"worker": workerimage.Worker(tag("worker"), programs["worker"]),
		"nats": {
			Name:   tag("nats"),
			Config: v1.ImageConfig{Entrypoint: []string{"/nats-server", "-c", "/nats.conf", "-a", "0.0.0.0"}, WorkingDir: "/"},
			Files:  []scratch.File{{Name: "nats-server", Mode: 0o755, Data: programs["nats"]}, {Name: "nats.conf", Mode: 0o644, Data: conf}},
		},
	}
	loaded.names = map[string]string{}
	for name, i := range images {
		ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
		defer cancel()
		if err := i.Load(ctx, api); err != nil {
			t.Fatal(err)
		}
		loaded.names[name] = i.Name
	}
}

// unload removes the images.
func unload() error {
	if len(loaded.names) == 0 {
		return nil
	}
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range loaded.names {
		_, ierr := api.ImageRemove(ctx, name, image.RemoveOptions{Force: true})
		err = errors.Join(err, ierr)
	}
	return err
}

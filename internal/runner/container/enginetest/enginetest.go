// Package enginetest gives tests a container engine and an image to run on it, without a registry.
package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runnel-project/runnel/internal/runner/container/scratch"
)

// Job is the program of the image, and its entrypoint is none: a command is ["/job", "exit", "3"].
const Job = "/job"

// Client returns a client of the engine, or skips the test where none answers.
func Client(t testing.TB) *client.Client {
	t.Helper()
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Skipf("no container engine: %v", err)
	}
	t.Cleanup(func() { api.Close() })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	if _, err := api.Ping(ctx); err != nil {
		t.Skipf("no container engine: %v", err)
	}
	return api
}

// Image returns the name of an image with the program of package job in it, made for this process alone, or skips
// the test where no engine answers. Remove takes it away again.
func Image(t testing.TB) string {
	t.Helper()
	api := Client(t)
	name, err := load(api)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

var loaded struct {
	sync.Mutex
	name string
	err  error
}

func load(api *client.Client) (string, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.name != "" || loaded.err != nil {
		return loaded.name, loaded.err
	}
	program, err := build()
	if err != nil {
		loaded.err = err
		return "", err
	}
	sum := sha256.Sum256(program)
	name := fmt.Sprintf("runnel.test/job:%s-%d", hex.EncodeToString(sum[:6]), os.Getpid())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if loaded.err = of(name, program).Load(ctx, api); loaded.err != nil {
		return "", loaded.err
	}
	loaded.name = name
	return name, nil
}

// Remove removes the image that this process has loaded. A TestMain calls it once its tests have ended.
func Remove() error {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.name == "" {
		return nil
	}
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = api.ImageRemove(ctx, loaded.name, image.RemoveOptions{Force: true})
	loaded.name = ""
	return err
}

// build builds the program, static: there is nothing else in the image.
func build() ([]byte, error) {
	dir, err := os.MkdirTemp("", "runnel-enginetest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "job")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out,
		"github.com/runnel-project/runnel/internal/runner/container/enginetest/job")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program of the image: %w\n%s", err, text)
	}
	return os.ReadFile(out)
}

// of is the image with a program.
func of(name string, program []byte) scratch.Image {
	return scratch.Image{
		Name:   name,
		Config: v1.ImageConfig{Env: []string{"PATH=/", "IMAGE=yes"}, WorkingDir: "/"},
		Files: []scratch.File{
			{Name: "job", Mode: 0o755, Data: program},
			{Name: "suid", Mode: 0o4755, Data: program},
			{Name: "not-executable", Mode: 0o644, Data: []byte("text\n")},
			{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0::/:/job\nworker:x:1234:1235::/:/job\n")},
			{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nworkers:x:1235:\n")},
		},
	}
}

// Layer returns the one layer of the image with another program, and its configuration.
func Layer(program []byte) (layer, config []byte, err error) { return of("", program).Layer() }

// Package enginetest gives tests a container engine and an image to run on it, without a registry.
package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	return load(t, repository+":%s-%d")
}

// Shell returns an image that has a shell as well: its lines are commands of package job.
func Shell(t testing.TB) string {
	t.Helper()
	return load(t, repository+":sh-%s-%d", scratch.File{Name: "sh", Mode: 0o755})
}

const repository = "runnel.test/job"

var loaded struct {
	sync.Mutex
	lock    *os.File
	program []byte
	names   map[string]string // by their formats
	err     error
}

// load loads the image with the program, and with it once more in place of each other file.
func load(t testing.TB, format string, others ...scratch.File) string {
	t.Helper()
	api := Client(t)
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.err == nil && loaded.program == nil {
		loaded.program, loaded.err = build()
	}
	if name := loaded.names[format]; name != "" || loaded.err != nil {
		if loaded.err != nil {
			t.Fatal(loaded.err)
		}
		return name
	}
	sum := sha256.Sum256(loaded.program)
	name := fmt.Sprintf(format, hex.EncodeToString(sum[:6]), os.Getpid())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if loaded.names == nil {
		loaded.names = map[string]string{}
		loaded.lock, loaded.err = claim(ctx, api)
	}
	all := of(name, loaded.program)
	for _, f := range others {
		f.Data = loaded.program
		all.Files = append(all.Files, f)
	}
	if loaded.err == nil {
		loaded.err = all.Load(ctx, api)
	}
	if loaded.err != nil {
		t.Fatal(loaded.err)
	}
	loaded.names[format] = name
	return name
}

// Remove removes the images that this process has loaded. A TestMain calls it once its tests have ended.
func Remove() error {
	loaded.Lock()
	defer loaded.Unlock()
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
	var errs []error
	for _, name := range loaded.names {
		_, err := api.ImageRemove(ctx, name, image.RemoveOptions{Force: true})
		errs = append(errs, err)
	}
	errs = append(errs, os.Remove(loaded.lock.Name()), loaded.lock.Close())
	loaded.names = nil
	return errors.Join(errs...)
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

// Package enginetest gives tests a container engine and an image to run on it, without a registry.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
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
	archive, err := Archive(name, program)
	if err == nil {
		err = put(api, archive)
	}
	if err != nil {
		loaded.err = fmt.Errorf("load image %s: %w", name, err)
		return "", loaded.err
	}
	loaded.name = name
	return name, nil
}

// put hands an archive to the engine.
func put(api *client.Client, archive []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := api.ImageLoad(ctx, bytes.NewReader(archive))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	for read := json.NewDecoder(answer.Body); read.More(); {
		var m struct {
			Error string `json:"error"`
		}
		if err := read.Decode(&m); err != nil {
			return err
		}
		if m.Error != "" {
			return fmt.Errorf("the engine says: %s", m.Error)
		}
	}
	return nil
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

// file is an entry of the image.
type file struct {
	name string
	mode int64
	data []byte
}

// Archive packs an image FROM scratch as a docker-archive.
func Archive(name string, program []byte) ([]byte, error) {
	layer, config, err := Layer(program)
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return pack(file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
}

// Layer returns the one layer of the image, and its configuration.
func Layer(program []byte) (layer, config []byte, err error) {
	layer, err = pack(
		file{"job", 0o755, program},
		file{"suid", 0o4755, program},
		file{"not-executable", 0o644, []byte("text\n")},
		file{"etc/passwd", 0o644, []byte("root:x:0:0::/:/job\nworker:x:1234:1235::/:/job\n")},
		file{"etc/group", 0o644, []byte("root:x:0:\nworkers:x:1235:\n")},
	)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(layer)
	config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/", "IMAGE=yes"}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	return layer, config, err
}

func pack(files ...file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

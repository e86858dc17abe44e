package container_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// registry is a registry of images with one in it, on loopback, which engines trust without TLS.
type registry struct {
	host      string
	blobs     map[string][]byte
	manifest  []byte
	manifests atomic.Int32  // how often the manifest was asked for with GET
	hold      chan struct{} // layers wait for it; nil do not
	password  string
}

const manifestType = "application/vnd.docker.distribution.manifest.v2+json"

func newRegistry(t *testing.T) *registry {
	t.Helper()
	// A layer of its own for each test, so that the engine cannot have it.
	layer, config, err := enginetest.Layer([]byte("program of " + t.Name() + time.Now().String()))
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{blobs: map[string][]byte{}}
	add := func(kind string, data []byte) map[string]any {
		sum := sha256.Sum256(data)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		r.blobs[digest] = data
		return map[string]any{"mediaType": kind, "size": len(data), "digest": digest}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(layer); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r.manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": add("application/vnd.docker.container.image.v1+json", config),
		"layers": []any{add("application/vnd.docker.image.rootfs.diff.tar.gzip", packed.Bytes())},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r.password != "" {
		if _, password, _ := q.BasicAuth(); password != r.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	switch {
	case q.URL.Path == "/v2/":
	case strings.HasPrefix(q.URL.Path, "/v2/tool/manifests/"):
		sum := sha256.Sum256(r.manifest)
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", "sha256:"+hex.EncodeToString(sum[:]))
		if q.Method == http.MethodGet {
			r.manifests.Add(1)
		}
		_, _ = w.Write(r.manifest)
	case strings.HasPrefix(q.URL.Path, "/v2/tool/blobs/"):
		if r.hold != nil {
			select {
			case <-r.hold:
			case <-q.Context().Done():
				return
			}
		}
		data, ok := r.blobs[strings.TrimPrefix(q.URL.Path, "/v2/tool/blobs/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// image is the name of the one image; it is taken off the engine when the test ends.
func (r *registry) image(t *testing.T) string {
	name := r.host + "/tool:1"
	t.Cleanup(func() {
		_, _ = engineClient(t).ImageRemove(background(t), name, image.RemoveOptions{Force: true})
	})
	return name
}

// Many that want an image fetch it once; it is fetched again only for who asks for that.
func TestPullsAreShared(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	r := open(t, container.Config{DockerConfig: t.TempDir()})
	name := reg.image(t)
	reg.hold = make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		job := command(t)
		job.Container.Image, job.Command = name, []string{"/etc/passwd"}
		all.Go(func() {
			sink := &runnertest.Sink{}
			o, err := r.Run(t.Context(), job, sink)
			if err != nil || o.Reason != contracts.ReasonNotExecutable {
				t.Errorf("Run() = %+v, %v, want the image to be there and its file not to be a program", o, err)
			}
			if !strings.HasPrefix(sink.Stderr(), "pulling "+name+"\n") || sink.Pieces()[0].Phase != contracts.PhaseSetup {
				t.Errorf("it says %q", sink.Stderr())
			}
		})
	}
	until(t, "the registry is asked", func() bool { return reg.manifests.Load() > 0 })
	time.Sleep(200 * time.Millisecond) // for the others to come
	close(reg.hold)
	all.Wait()
	if n := reg.manifests.Load(); n != 1 {
		t.Errorf("the image was fetched %d times by 4 at once, want once", n)
	}
	for pull, want := range map[contracts.Pull]string{contracts.PullMissing: "", contracts.PullNever: "", contracts.PullAlways: "pulling " + name} {
		job := command(t)
		job.Container.Image, job.Container.Pull, job.Command = name, pull, []string{"/etc/passwd"}
		o, sink := run(t, r, job)
		said := ""
		for _, piece := range sink.Pieces() {
			if piece.Phase == contracts.PhaseSetup {
				said += string(piece.Data)
			}
		}
		if o.Reason != contracts.ReasonNotExecutable || !strings.HasPrefix(said, want) || want == "" && said != "" {
			t.Errorf("pull %s: Run() = %+v, setup said %q, want %q", pull, o, said, want)
		}
	}
}

func TestPullRefusedAndAllowed(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	reg.password = "secret"
	config := t.TempDir()
	r := open(t, container.Config{DockerConfig: config})
	try := func() contracts.Outcome {
		job := command(t)
		job.Container.Image, job.Command = reg.image(t), []string{"/etc/passwd"}
		o, _ := run(t, r, job)
		return o
	}
	if o := try(); o.Status != contracts.StatusFailed || o.Reason != contracts.ReasonImage || !strings.Contains(o.Error, reg.host) {
		t.Errorf("without credentials: Run() = %+v, want failed/image", o)
	}
	auth := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	write(t, filepath.Join(config, "config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, reg.host, auth), 0o600)
	if o := try(); o.Reason != contracts.ReasonNotExecutable {
		t.Errorf("with credentials: Run() = %+v, want the image to be there", o)
	}
	write(t, filepath.Join(config, "config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":"c2VjcmV0"}}}`, reg.host), 0o600)
	job := command(t)
	job.Container.Image, job.Container.Pull = reg.image(t), contracts.PullAlways
	if o, _ := run(t, r, job); o.Reason != contracts.ReasonImage || strings.Contains(o.Error, "c2VjcmV0") || strings.Contains(o.Error, "secret") {
		t.Errorf("with bad credentials: Run() = %+v, want failed/image without them", o)
	}
}

func TestPullThatDoesNotMove(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	reg.hold = make(chan struct{})
	defer close(reg.hold)
	for want, cfg := range map[string]container.Config{
		"no progress for 300ms":     {PullStall: 300 * time.Millisecond},
		"it took longer than 300ms": {PullTimeout: 300 * time.Millisecond},
	} {
		cfg.DockerConfig = t.TempDir()
		r := open(t, cfg)
		job := command(t)
		job.Container.Image = reg.image(t)
		if o, _ := run(t, r, job); o.Reason != contracts.ReasonImage || !strings.Contains(o.Error, want) {
			t.Errorf("Run() = %+v, want failed/image with %q", o, want)
		}
	}
}

func TestCredentialHelper(t *testing.T) {
	reg := newRegistry(t)
	reg.password = "from the helper"
	bin, config := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bin, "docker-credential-test"), "#!/bin/sh\nread -r host\n[ \"$1 $host\" = \"get "+reg.host+"\" ] || exit 1\n"+
		`echo '{"ServerURL":"x","Username":"user","Secret":"from the helper"}'`+"\n", 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	write(t, filepath.Join(config, "config.json"), `{"credsStore":"test"}`, 0o600)
	job := command(t)
	job.Container.Image, job.Command = reg.image(t), []string{"/etc/passwd"}
	if o, _ := run(t, open(t, container.Config{DockerConfig: config}), job); o.Reason != contracts.ReasonNotExecutable {
		t.Errorf("Run() = %+v, want the image to be there", o)
	}
	write(t, filepath.Join(config, "config.json"), `{"credsStore":"../../bin/sh"}`, 0o600)
	job.Container.Pull, job.Run = contracts.PullAlways, contracts.NewRun()
	if o, _ := run(t, open(t, container.Config{DockerConfig: config}), job); o.Reason != contracts.ReasonImage || !strings.Contains(o.Error, "no name") {
		t.Errorf("Run() = %+v, want a helper that is a path refused", o)
	}
}

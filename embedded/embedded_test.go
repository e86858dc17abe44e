package embedded_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/embedded"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, cfg embedded.Config) *embedded.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	node, err := embedded.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	t.Cleanup(func() { shut(t, node) })
	return node
}

func shut(t *testing.T, node *embedded.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

func connect(t *testing.T, node *embedded.Node) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := node.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestTemporaryDataIsRemoved(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	node := start(t, embedded.Config{NoWorker: true})
	_, js := connect(t, node)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) != 1 {
		t.Fatalf("while it runs the temporary directory holds %v, want one entry", left)
	}
	shut(t, node)
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) != 0 {
		t.Errorf("after Close() the temporary directory holds %v, want nothing", left)
	}
}

func TestListensOnlyWhenAsked(t *testing.T) {
	node := start(t, embedded.Config{NoWorker: true})
	if node.URL() != "" {
		t.Errorf("URL() = %q without Listen, want none", node.URL())
	}
}

func TestListenerWantsItsToken(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	node := start(t, embedded.Config{NoWorker: true, Listen: "127.0.0.1:0"})
	if nc, err := nats.Connect(node.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a token Connect() = %v, %v, want %v", nc, err, nats.ErrAuthorization)
	}
	nc, err := nats.Connect(node.URL(), nats.Token(node.Token()))
	if err != nil {
		t.Fatalf("with the token Connect() = %v", err)
	}
	nc.Close()
	address := strings.TrimPrefix(node.URL(), "nats://")
	if token, err := embedded.Token(address); token != "" || err != nil {
		t.Errorf("Token() = %q, %v for a server that does not share, want none", token, err)
	}
}

func TestSharedTokenAndDataSurviveARestart(t *testing.T) {
	state, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	t.Setenv("XDG_STATE_HOME", state)
	node := start(t, embedded.Config{NoWorker: true, Listen: "127.0.0.1:0", Share: true, StoreDir: data})
	address := strings.TrimPrefix(node.URL(), "nats://")
	token, err := embedded.Token(address)
	if err != nil || token == "" || token != node.Token() {
		t.Fatalf("Token(%q) = %q, %v, want %q", address, token, err, node.Token())
	}
	_, port, _ := strings.Cut(address, ":")
	if other, _ := embedded.Token("localhost:" + port); other != token {
		t.Errorf("Token() by the name localhost = %q, want %q", other, token)
	}
	file, _ := embedded.TokenFile(address)
	for path, want := range map[string]fs.FileMode{file: 0o600, filepath.Dir(file): 0o700, data: 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
	_, js := connect(t, node)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	shut(t, node)

	again := start(t, embedded.Config{NoWorker: true, Listen: address, Share: true, StoreDir: data})
	if again.Token() != token {
		t.Errorf("after a restart Token() = %q, want %q", again.Token(), token)
	}
	_, js = connect(t, again)
	if _, err := js.Stream(t.Context(), "S"); err != nil {
		t.Errorf("after a restart the stream: %v", err)
	}
}

func TestDataDirectoryIsOneServers(t *testing.T) {
	data := t.TempDir()
	start(t, embedded.Config{NoWorker: true, StoreDir: data})
	node, err := embedded.Start(t.Context(), embedded.Config{NoWorker: true, StoreDir: data})
	if !errors.Is(err, embedded.ErrInUse) {
		t.Fatalf("a second Start() on the directory = %v, %v, want %v", node, err, embedded.ErrInUse)
	}
	if !strings.Contains(err.Error(), data) {
		t.Errorf("error %q does not name the directory", err)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	taken := start(t, embedded.Config{NoWorker: true, Listen: "127.0.0.1:0"})
	for name, c := range map[string]struct {
		cfg  embedded.Config
		want string
	}{
		"no port":       {embedded.Config{Listen: "127.0.0.1"}, "HOST:PORT"},
		"port no port":  {embedded.Config{Listen: "127.0.0.1:nats"}, `"nats"`},
		"address taken": {embedded.Config{Listen: strings.TrimPrefix(taken.URL(), "nats://")}, "in use"},
		"data no directory": {embedded.Config{StoreDir: func() string {
			f := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return f
		}()}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.NoWorker = true
			node, err := embedded.Start(t.Context(), c.cfg)
			if err == nil {
				shut(t, node)
				t.Fatalf("Start() succeeded, want an error with %q", c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start() = %q, want %q in it", err, c.want)
			}
		})
	}
}

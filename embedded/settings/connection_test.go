package settings_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/embedded/settings"
)

func node(t *testing.T, cfg embedded.Config) *embedded.Node {
	t.Helper()
	cfg.NoWorker, cfg.Listen = true, "127.0.0.1:0"
	n, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func dial(t *testing.T, c settings.Connection, patience time.Duration) error {
	t.Helper()
	target, err := c.Resolve()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc, err := target.Dial(ctx, nil)
	if err == nil {
		nc.Close()
	}
	return err
}

func TestDialFindsTheTokenOfAServerOfThisAccount(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	n := node(t, embedded.Config{Share: true})
	if err := dial(t, settings.Connection{Server: n.URL()}, 10*time.Second); err != nil {
		t.Errorf("Dial() = %v", err)
	}
	byName := strings.Replace(n.URL(), "127.0.0.1", "localhost", 1)
	if err := dial(t, settings.Connection{Server: byName}, 10*time.Second); err != nil {
		t.Errorf("Dial(%q) = %v", byName, err)
	}
}

func TestDialRefusedEndsAtOnce(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	n := node(t, embedded.Config{Token: "right"})
	for name, server := range map[string]string{
		"none":        n.URL(),
		"wrong token": strings.Replace(n.URL(), "nats://", "nats://wr0ng@", 1),
		"wrong user":  strings.Replace(n.URL(), "nats://", "nats://me:wr0ng@", 1),
	} {
		t.Run(name, func(t *testing.T) {
			// The patience is longer than the test may take: an attempt that is repeated fails by the clock of go test.
			err := dial(t, settings.Connection{Server: server}, time.Hour)
			if !errors.Is(err, settings.ErrCredentials) {
				t.Fatalf("Dial() = %v, want %v", err, settings.ErrCredentials)
			}
			if !strings.Contains(err.Error(), "--creds") || strings.Contains(err.Error(), "wr0ng") {
				t.Errorf("Dial() = %q: want what to do, and no secret", err)
			}
		})
	}
	if err := dial(t, settings.Connection{Server: strings.Replace(n.URL(), "nats://", "nats://right@", 1)}, 10*time.Second); err != nil {
		t.Errorf("with the token in the address Dial() = %v", err)
	}
}

func TestDialGivesUp(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts and says nothing
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for name, address := range map[string]string{"nobody": free.Addr().String(), "mute": l.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			err := dial(t, settings.Connection{Server: "nats://u:secret@" + address}, 300*time.Millisecond)
			if !errors.Is(err, settings.ErrNoServer) {
				t.Fatalf("Dial() = %v, want %v", err, settings.ErrNoServer)
			}
			if !strings.HasPrefix(err.Error(), "no NATS server at nats://"+address) {
				t.Errorf("Dial() = %q, want the address", err)
			}
		})
	}
}

func TestContext(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	n := node(t, embedded.Config{Token: "right"})
	dir := filepath.Join(config, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"good":   `{"url":"` + n.URL() + `","token":"right","color_scheme":"x"}`,
		"bad":    `{"url":"` + n.URL() + `","token":"wrong"}`,
		"domain": `{"url":"` + n.URL() + `","jetstream_domain":"hub"}`,
		"broken": `{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		conn settings.Connection
		err  string // "" is none
	}{
		"good":          {settings.Connection{Context: "good"}, ""},
		"bad":           {settings.Connection{Context: "bad"}, `the token of context "bad"`},
		"domain":        {settings.Connection{Context: "domain"}, "jetstream_domain"},
		"broken":        {settings.Connection{Context: "broken"}, "broken.json"},
		"missing":       {settings.Connection{Context: "prod"}, "there are: bad, broken, domain, good"},
		"path":          {settings.Connection{Context: "../good"}, "not a path"},
		"server first":  {settings.Connection{Context: "bad", Server: strings.Replace(n.URL(), "nats://", "nats://right@", 1)}, ""},
		"no creds file": {settings.Connection{Server: n.URL(), Creds: "/nowhere/u.creds"}, "--creds: open /nowhere/u.creds"},
		"no nkey file":  {settings.Connection{Server: n.URL(), NKey: "/nowhere/u.nk"}, "--nkey: open /nowhere/u.nk"},
		"cert, no key":  {settings.Connection{Server: n.URL(), TLSCert: "/nowhere/c.pem"}, "--tlskey"},
		"no ca file":    {settings.Connection{Server: n.URL(), TLSCA: "/nowhere/ca.pem"}, "--tlsca: open /nowhere/ca.pem"},
		"no address":    {settings.Connection{Server: "nats://"}, "nats://HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			err := dial(t, c.conn, 10*time.Second)
			if c.err == "" && err != nil {
				t.Fatalf("Dial() = %v", err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("Dial() = %v, want %q in it", err, c.err)
			}
		})
	}
}

// Another program gets to the server as the same user.
func TestEnvironment(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	n := node(t, embedded.Config{Share: true})
	dir := filepath.Join(config, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(config, "ca.pem")
	for path, text := range map[string]string{
		filepath.Join(dir, "user.json"): `{"url":"nats://a:1,b:2","user":"me","password":"s/cret"}`,
		filepath.Join(dir, "seed.json"): `{"url":"nats://a:1","user_jwt":"j","user_seed":"s"}`,
		ca:                              "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		conn settings.Connection
		want []string // nil is an error
	}{
		"address":   {settings.Connection{Server: "me:pw@a:1", TLSCA: ca}, []string{"RUNNEL_SERVER=nats://me:pw@a:1", "RUNNEL_CONTEXT=", "RUNNEL_CREDS=", "RUNNEL_TLSCA=" + ca}},
		"creds":     {settings.Connection{Server: "a:1", Creds: ca}, []string{"RUNNEL_SERVER=nats://a:1", "RUNNEL_CREDS=" + ca}},
		"context":   {settings.Connection{Context: "user"}, []string{"RUNNEL_SERVER=nats://me:s%2Fcret@a:1,nats://me:s%2Fcret@b:2", "RUNNEL_CONTEXT="}},
		"own token": {settings.Connection{Server: n.URL()}, []string{"RUNNEL_SERVER=" + strings.Replace(n.URL(), "nats://", "nats://"+n.Token()+"@", 1)}},
		"seed":      {settings.Connection{Context: "seed"}, nil},
	} {
		target, err := test.conn.Resolve()
		if err != nil {
			t.Errorf("%s: Resolve() = %v", name, err)
			continue
		}
		env, err := target.Environment()
		if test.want == nil {
			if err == nil || !strings.Contains(err.Error(), "--creds") {
				t.Errorf("%s: Environment() = %v, want what to do", name, err)
			}
			continue
		}
		last := map[string]string{}
		for _, v := range env {
			name, _, _ := strings.Cut(v, "=")
			last[name] = v
		}
		for _, want := range test.want {
			key, _, _ := strings.Cut(want, "=")
			if err != nil || last[key] != want {
				t.Errorf("%s: Environment() has %q, %v, want %q", name, last[key], err, want)
			}
		}
	}
}

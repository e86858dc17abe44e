package artifacts_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// The environment of a child that collects a directory and is killed.
const (
	envURL    = "ARTIFACTS_TEST_URL"
	envDir    = "ARTIFACTS_TEST_DIR"
	envTenant = "ARTIFACTS_TEST_TENANT"
	envWrites = "ARTIFACTS_TEST_WRITES"
)

// mortal kills this process in the middle of the n-th write to the server.
type mortal struct{ left atomic.Int64 }

func (m *mortal) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &mortalConn{c, m}, err
}

type mortalConn struct {
	net.Conn
	m *mortal
}

func (c *mortalConn) Write(p []byte) (int, error) {
	if c.m.left.Add(-1) == 0 {
		c.Conn.Write(p[:len(p)/2])
		self, _ := os.FindProcess(os.Getpid())
		self.Kill()
		select {}
	}
	return c.Conn.Write(p)
}

// child collects, and prints what a result would say.
func child() error {
	n, err := strconv.Atoi(os.Getenv(envWrites))
	if err != nil {
		return err
	}
	m := new(mortal)
	m.left.Store(int64(n) + 1)
	nc, err := nats.Connect(os.Getenv(envURL), nats.SetCustomDialer(m))
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	s, err := artifacts.Open(context.Background(), js, artifacts.Config{Tenant: os.Getenv(envTenant)})
	if err != nil {
		return err
	}
	_, err = s.Collect(context.Background(), os.Getenv(envDir))
	return err
}

// A worker that is killed at whatever step leaves nothing that a reader takes
// for whole and is not: the next one collects the same, and what is left over ages out.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	node := queuetest.Server(t)
	js := stream(t, node)
	files := map[string]entry{"own": {0o644, random(1<<20 + 1)}, "another": {0o644, random(1<<20 + 2)}, "in one pass": {0o644, random(artifacts.PartBytes + 3)}}
	for i := range contracts.MaxInlineArtifacts {
		files[fmt.Sprint("small ", i)] = entry{0o644, fmt.Sprint(i)}
	}
	dir := write(t, files)
	var tenants []string
	ended := false
	for step, writes := 0, 0; !ended; step++ {
		tenant := fmt.Sprint("t", step)
		tenants = append(tenants, tenant)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), envURL+"="+node.URL(), envDir+"="+dir, envTenant+"="+tenant, envWrites+"="+strconv.Itoa(writes))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		ended = err == nil
		if !ended && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
			t.Fatalf("the child after %d writes: %v: %s", writes, err, out)
		}
		s := openOn(t, js, artifacts.Config{Tenant: tenant})
		bucket := artifacts.Config{Tenant: tenant}.ArtifactBucket()
		if _, err := js.ObjectStore(t.Context(), bucket); err == nil {
			for _, blob := range blobs(t, js, bucket) { // every blob that has a name is whole
				store, err := js.ObjectStore(t.Context(), bucket)
				must(t, err)
				data, err := store.GetBytes(t.Context(), blob)
				if err != nil || !strings.HasSuffix(blob, "."+hexSum(string(data))) {
					t.Errorf("killed after %d writes: blob %s reads %d bytes, %v", writes, blob, len(data), err)
				}
			}
		}
		c := collect(t, s, dir)
		dest := t.TempDir()
		if _, err := s.Unpack(t.Context(), result(t, c), dest); err != nil {
			t.Errorf("killed after %d writes: %v", writes, err)
		}
		if !equal(tree(t, dest), files) {
			t.Errorf("killed after %d writes: the next Collect() has other files", writes)
		}
		must(t, os.RemoveAll(dest))
		// Every one at the beginning, where the connection and the bucket are made; then some.
		if writes++; step >= 10 {
			writes += step / 3
		}
	}
	t.Logf("killed at %d steps", len(tenants)-1)
	if len(tenants) < 20 {
		t.Errorf("the child lived through at %d steps already, want at least 20", len(tenants))
	}
	// With the TTL at a second, nothing stays.
	for _, tenant := range tenants {
		st, err := js.Stream(t.Context(), "OBJ_"+artifacts.Config{Tenant: tenant}.ArtifactBucket())
		must(t, err)
		config := st.CachedInfo().Config
		config.MaxAge, config.Duplicates = time.Second, time.Second
		_, err = js.UpdateStream(t.Context(), config)
		must(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, tenant := range tenants {
		st, err := js.Stream(ctx, "OBJ_"+artifacts.Config{Tenant: tenant}.ArtifactBucket())
		must(t, err)
		for {
			info, err := st.Info(ctx)
			if err != nil {
				t.Fatalf("tenant %s still has messages: %v", tenant, err)
			}
			if info.State.Msgs == 0 {
				break
			}
			<-tick.C
		}
	}
}

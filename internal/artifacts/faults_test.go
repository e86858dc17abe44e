package artifacts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// says checks that an error is a sentinel and names what an operator looks for.
func says(t testing.TB, what string, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s = %v, want it to say %q", what, err, w)
		}
	}
}

func drain(s *artifacts.Store, ctx context.Context, a contracts.Artifact) error {
	r, err := s.Open(ctx, a)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

func TestABucketThatIsMissing(t *testing.T) {
	t.Parallel()
	s, js := open(t, artifacts.Config{})
	a := contracts.Artifact{Path: "a", Size: 1, SHA256: sum, Segments: segments(seg("1."+sum, 0, 1))}
	says(t, "Open()", drain(s, t.Context(), a), artifacts.ErrNoBucket, bucket, "deleted")
	_, err := s.List(t.Context(), contracts.Result{Manifest: "1." + sum})
	says(t, "List()", err, artifacts.ErrNoBucket, bucket)
	_, err = s.Unpack(t.Context(), contracts.Result{Artifacts: []contracts.Artifact{a}}, t.TempDir())
	says(t, "Unpack()", err, artifacts.ErrNoBucket, bucket)
	_, err = s.OpenInput(t.Context(), contracts.Input{Blob: "1." + sum, Size: 1, SHA256: sum})
	says(t, "OpenInput()", err, artifacts.ErrNoBucket, inputBucket)
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("reading made the stream %s", name)
	}

	// Deleted between two runs: the next one makes it again.
	dir := write(t, map[string]entry{"a": {0o644, "content"}})
	for range 3 {
		c := collect(t, s, dir)
		if got := readAll(t, s, c.Artifacts[0]); got != "content" {
			t.Errorf("Open() reads %q, want the content", got)
		}
		must(t, js.DeleteObjectStore(t.Context(), bucket))
	}
}

func TestABlobThatIsMissing(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	c := collect(t, s, write(t, map[string]entry{"a": {0o644, "content"}}))
	blob := c.Artifacts[0].Segments[0].Blob
	store, err := js.ObjectStore(t.Context(), bucket)
	must(t, err, store.Delete(t.Context(), blob))
	says(t, "Open()", drain(s, t.Context(), c.Artifacts[0]), artifacts.ErrNoBlob, blob, "run the work again")
	dir := filepath.Join(t.TempDir(), "out")
	_, err = s.Unpack(t.Context(), result(t, c), dir)
	says(t, "Unpack()", err, artifacts.ErrNoBlob, blob)
	if _, err := os.Stat(dir); err == nil {
		t.Error("Unpack() made its directory, want nothing")
	}
	// What was deleted is stored again.
	if again := collect(t, s, write(t, map[string]entry{"a": {0o644, "content"}})); again.Stored != 7 || readAll(t, s, again.Artifacts[0]) != "content" {
		t.Errorf("Collect() stored %d bytes after the blob was deleted, want 7", again.Stored)
	}
}

// rewrite replaces a blob's chunks in the stream, behind its meta's back.
func rewrite(t testing.TB, js jetstream.JetStream, change func([][]byte) [][]byte) {
	t.Helper()
	s, err := js.Stream(t.Context(), "OBJ_"+bucket)
	must(t, err)
	subject := ""
	var data [][]byte
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		if m, err := s.GetMsg(t.Context(), seq); err == nil && strings.Contains(m.Subject, ".C.") {
			subject, data = m.Subject, append(data, m.Data)
		}
	}
	must(t, s.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
	for _, d := range change(data) {
		_, err := js.Publish(t.Context(), subject, d)
		must(t, err)
	}
}

func TestAFlippedByteIsNeverHandedOverAsRight(t *testing.T) {
	content := random(3 * 128 << 10)
	for name, tt := range map[string]struct {
		change func([][]byte) [][]byte
		want   error
	}{
		"a flipped byte": {func(d [][]byte) [][]byte { d[1][77] ^= 1; return d }, artifacts.ErrCorrupt},
		"a chunk less":   {func(d [][]byte) [][]byte { return d[:2] }, artifacts.ErrCorrupt},
		"none at all":    {func([][]byte) [][]byte { return nil }, artifacts.ErrCorrupt},
		"swapped":        {func(d [][]byte) [][]byte { d[0], d[1] = d[1], d[0]; return d }, artifacts.ErrCorrupt},
		"cut short":      {func(d [][]byte) [][]byte { d[2] = d[2][:99]; return d }, artifacts.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s, js := open(t, artifacts.Config{})
			c := collect(t, s, write(t, map[string]entry{"dir/a": {0o644, content}}))
			rewrite(t, js, tt.change)
			says(t, "Open()", drain(s, t.Context(), c.Artifacts[0]), tt.want, `"dir/a"`, "run the work again")
			dir := t.TempDir()
			written, err := s.Unpack(t.Context(), result(t, c), dir)
			says(t, "Unpack()", err, tt.want, `"dir/a"`)
			if len(written) > 0 || len(tree(t, dir)) > 0 {
				t.Errorf("Unpack() wrote %v, and there is %v; want nothing", written, summary(tree(t, dir)))
			}
		})
	}
	t.Run("an input", func(t *testing.T) {
		s, js := open(t, artifacts.Config{})
		in, err := s.PutInput(t.Context(), strings.NewReader("content"))
		must(t, err)
		st, err := js.Stream(t.Context(), "OBJ_"+inputBucket)
		must(t, err)
		m, err := st.GetMsg(t.Context(), 1)
		must(t, err, st.DeleteMsg(t.Context(), 1))
		_, err = js.Publish(t.Context(), m.Subject, []byte("c0ntent"))
		must(t, err)
		r, err := s.OpenInput(t.Context(), in)
		must(t, err)
		defer r.Close()
		_, err = io.ReadAll(r)
		says(t, "reading", err, artifacts.ErrCorrupt, "submit it again")
	})
}

func TestABucketThatIsFull(t *testing.T) {
	s, js := open(t, artifacts.Config{MaxBytes: 3 << 20})
	kept := collect(t, s, write(t, map[string]entry{"kept": {0o644, random(1 << 20)}}))
	dir := write(t, map[string]entry{"a": {0o644, random(6 << 20)}})
	start := time.Now()
	_, err := s.Collect(t.Context(), dir)
	says(t, "Collect()", err, artifacts.ErrFull, bucket, "raise the bucket's limit")
	_, err = s.PutInput(t.Context(), strings.NewReader(random(6<<20)))
	says(t, "PutInput()", err, artifacts.ErrFull, inputBucket)
	t.Logf("told within %v", time.Since(start))
	if got := readAll(t, s, kept.Artifacts[0]); hexSum(got) != kept.Artifacts[0].SHA256 {
		t.Error("what was stored before is harmed")
	}
	if n := chunks(t, js, bucket); n != 8 {
		t.Errorf("there are %d chunks, want the 8 of what was stored before", n)
	}
	// With room, the same call goes through.
	st, err := js.Stream(t.Context(), "OBJ_"+bucket)
	must(t, err)
	config := st.CachedInfo().Config
	config.MaxBytes = 64 << 20
	_, err = js.UpdateStream(t.Context(), config)
	must(t, err)
	if c := collect(t, s, dir); c.Count != 1 {
		t.Errorf("Collect() with room = %+v", c)
	}
}

func TestPermissionsThatAreMissing(t *testing.T) {
	t.Parallel()
	users := func(deny ...string) func(*server.Options) {
		return func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "all", Password: "x"},
				{Username: "some", Password: "x", Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Allow: []string{">"}, Deny: deny},
				}},
			}
		}
	}
	for name, tt := range map[string]struct {
		deny string
		do   func(*testing.T, *artifacts.Store, string) error
	}{
		"chunks": {"$O." + bucket + ".C.>", func(t *testing.T, s *artifacts.Store, dir string) error {
			_, err := s.Collect(t.Context(), dir)
			return err
		}},
		"metas": {"$O." + bucket + ".M.>", func(t *testing.T, s *artifacts.Store, dir string) error {
			_, err := s.Collect(t.Context(), dir)
			return err
		}},
		"look up": {"$JS.API.STREAM.INFO.>", func(t *testing.T, s *artifacts.Store, dir string) error {
			_, err := s.Collect(t.Context(), dir)
			return err
		}},
		"create": {"$JS.API.STREAM.CREATE.>", func(t *testing.T, s *artifacts.Store, _ string) error {
			_, err := s.PutInput(t.Context(), strings.NewReader("x"))
			return err
		}},
		"leader": {"$JS.API.STREAM.MSG.GET.>", func(t *testing.T, s *artifacts.Store, dir string) error {
			_, err := s.Collect(t.Context(), dir)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := queuetest.Server(t, users(tt.deny))
			all, err := jetstream.New(node.Connect(t, nats.UserInfo("all", "x")))
			must(t, err)
			_, err = all.CreateObjectStore(t.Context(), objectStore())
			must(t, err)
			some, err := jetstream.New(node.Connect(t, nats.UserInfo("some", "x")))
			must(t, err)
			start := time.Now()
			err = tt.do(t, openOn(t, some, artifacts.Config{}), write(t, map[string]entry{"a": {0o644, random(1 << 20)}}))
			says(t, "it", err, artifacts.ErrDenied, strings.TrimSuffix(tt.deny, ">"), "allow this user")
			t.Logf("told within %v: %v", time.Since(start), err)
		})
	}
	t.Run("reading", func(t *testing.T) {
		t.Parallel()
		node := queuetest.Server(t, users("$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.>"))
		all, err := jetstream.New(node.Connect(t, nats.UserInfo("all", "x")))
		must(t, err)
		c := collect(t, openOn(t, all, artifacts.Config{}), write(t, map[string]entry{"a": {0o644, "x"}}))
		some, err := jetstream.New(node.Connect(t, nats.UserInfo("some", "x")))
		must(t, err)
		says(t, "Open()", drain(openOn(t, some, artifacts.Config{}), t.Context(), c.Artifacts[0]), artifacts.ErrDenied, "GET", "allow this user")
	})
	// Without the direct gets there is the leader.
	t.Run("reading by the leader alone", func(t *testing.T) {
		t.Parallel()
		node := queuetest.Server(t, users("$JS.API.DIRECT.GET.>"))
		all, err := jetstream.New(node.Connect(t, nats.UserInfo("all", "x")))
		must(t, err)
		c := collect(t, openOn(t, all, artifacts.Config{}), write(t, map[string]entry{"a": {0o644, "content"}}))
		some, err := jetstream.New(node.Connect(t, nats.UserInfo("some", "x")))
		must(t, err)
		if got := readAll(t, openOn(t, some, artifacts.Config{}), c.Artifacts[0]); got != "content" {
			t.Errorf("Open() reads %q, want the content", got)
		}
	})
}

// A bucket that somebody made without direct gets is read by its leader.
func TestABucketWithoutDirectGets(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "OBJ_" + bucket, Subjects: []string{"$O." + bucket + ".>"}, AllowRollup: true, Discard: jetstream.DiscardNew,
	})
	must(t, err)
	files := map[string]entry{"a": {0o644, random(1 << 20)}, "b": {0o644, "b"}}
	c := collect(t, s, write(t, files))
	out := t.TempDir()
	_, err = s.Unpack(t.Context(), result(t, c), out)
	must(t, err)
	if got := tree(t, out); !equal(got, files) {
		t.Errorf("unpacked %v, want %v", summary(got), summary(files))
	}
}

func TestNoJetStream(t *testing.T) {
	node := queuetest.Server(t, func(o *server.Options) { o.JetStream = false })
	s := openOn(t, stream(t, node), artifacts.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := s.Collect(ctx, write(t, map[string]entry{"a": {0o644, "x"}}))
	says(t, "Collect()", err, artifacts.ErrNoAnswer, "see whether JetStream is enabled")
}

// The server goes away and comes back while a file is on its way, in either direction.
func TestAServerThatRestarts(t *testing.T) {
	t.Parallel()
	servers := queuetest.Process(t)
	js, err := jetstream.New(servers.Connect(t))
	must(t, err)
	s := openOn(t, js, artifacts.Config{})
	collect(t, s, write(t, map[string]entry{"a": {0o644, "makes the bucket"}}))
	content := random(40 << 20)
	dir := write(t, map[string]entry{"large": {0o644, content}})

	kill := make(chan struct{})
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		for range kill {
			servers.Kill(0)
			servers.Restart(0)
		}
	}()
	done := make(chan error, 1)
	var c artifacts.Collected
	go func() {
		var err error
		c, err = s.Collect(t.Context(), dir)
		done <- err
	}()
	for chunks(t, js, bucket) < 40 { // some of it is there
		if err := ended(done); err != nil {
			t.Fatal(err)
		}
	}
	kill <- struct{}{}
	if err := <-done; err != nil {
		t.Fatalf("Collect() over a restart = %v", err)
	}
	r, err := s.Open(t.Context(), c.Artifacts[0])
	must(t, err)
	defer r.Close()
	head := make([]byte, 1<<20)
	_, err = io.ReadFull(r, head)
	must(t, err)
	kill <- struct{}{}
	rest, err := io.ReadAll(r)
	if err != nil || string(head)+string(rest) != content {
		t.Errorf("reading over a restart = %d bytes, %v; want the %d of the file", len(head)+len(rest), err, len(content))
	}
	close(kill)
	<-restarted
}

func ended(done chan error) error {
	select {
	case err := <-done:
		return fmt.Errorf("it ended early: %v", err)
	default:
		return nil
	}
}

// Who gives up leaves nothing.
func TestACancelledCollect(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	collect(t, s, write(t, map[string]entry{"a": {0o644, "makes the bucket"}}))
	dir := write(t, map[string]entry{"large": {0o644, random(40 << 20)}})
	cause := errors.New("the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Collect(ctx, dir)
		done <- err
	}()
	for chunks(t, js, bucket) < 80 {
		if err := ended(done); err != nil {
			t.Fatal(err)
		}
	}
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("Collect() = %v, want %v", err, cause)
	}
	if got := chunks(t, js, bucket); got != 1 || len(blobs(t, js, bucket)) != 1 {
		t.Errorf("%d chunks are left, want the one of the blob that was finished", got)
	}
	c := collect(t, s, dir)
	if want := int64(40 << 20); c.Stored != want {
		t.Errorf("the next Collect() stored %d bytes, want %d", c.Stored, want)
	}
	must(t, drain(s, t.Context(), c.Artifacts[0]))
}

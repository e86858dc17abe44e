package artifacts_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(envURL) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// A Put of nats.go's object store leaves this goroutine behind: tests and benchmarks put by it beside us.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// open returns a store on a server of its own, and JetStream to look behind it.
func open(t testing.TB, cfg artifacts.Config) (*artifacts.Store, jetstream.JetStream) {
	t.Helper()
	js := stream(t, queuetest.Server(t))
	return openOn(t, js, cfg), js
}

func stream(t testing.TB, node *queuetest.Node) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(node.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func openOn(t testing.TB, js jetstream.JetStream, cfg artifacts.Config) *artifacts.Store {
	t.Helper()
	s, err := artifacts.Open(t.Context(), js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// entry is one file of a tree.
type entry struct {
	Mode fs.FileMode
	Data string
}

// write makes the files of a tree in a new directory.
func write(t testing.TB, files map[string]entry) string {
	t.Helper()
	dir := t.TempDir()
	for name, e := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(e.Data), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, e.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree reads every file below a directory. What is neither a file nor a directory fails the test.
func tree(t testing.TB, dir string) map[string]entry {
	t.Helper()
	files := make(map[string]entry)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			t.Errorf("%s is %v, want a regular file", path, info.Mode())
			return nil
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = entry{info.Mode(), string(data)}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func collect(t testing.TB, s *artifacts.Store, dir string) artifacts.Collected {
	t.Helper()
	c, err := s.Collect(t.Context(), dir)
	if err != nil {
		t.Fatalf("Collect() = %v", err)
	}
	return c
}

// result is what a result says of what was collected, after a way over the wire.
func result(t testing.TB, c artifacts.Collected) contracts.Result {
	t.Helper()
	r := contracts.Result{ID: "job1", Artifacts: c.Inline(), Manifest: c.Manifest, ArtifactCount: c.Count, Warnings: c.Warnings}.Fit()
	data, err := contracts.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > contracts.MaxResultBytes {
		t.Fatalf("the result is %d bytes, want at most %d", len(data), contracts.MaxResultBytes)
	}
	r, err = contracts.Decode[contracts.Result](data, contracts.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// random returns bytes that do not repeat.
func random(n int) string {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(data)
	return string(data)
}

func hexSum(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

// blobs returns the names of the blobs in a bucket, sorted.
func blobs(t testing.TB, js jetstream.JetStream, bucket string) []string {
	t.Helper()
	store, err := js.ObjectStore(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := store.List(t.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		t.Fatal(err)
	}
	names := make([]string, 0, len(infos))
	for _, info := range infos {
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

// chunks counts the messages behind a bucket that are not metas.
func chunks(t testing.TB, js jetstream.JetStream, bucket string) int {
	t.Helper()
	s, err := js.Stream(t.Context(), "OBJ_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("$O."+bucket+".C.>"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, count := range info.State.Subjects {
		n += int(count)
	}
	return n
}

const (
	bucket      = "RUNNEL_ARTIFACTS_default"
	inputBucket = "RUNNEL_INPUTS_default"
)

func TestFilesComeBackAsTheyWere(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	files := map[string]entry{
		"empty":                      {0o644, ""},
		"bin/tool":                   {0o755, "#!/bin/sh\n"},
		"secret":                     {0o600, "s"},
		"read-only":                  {0o444, "r"},
		"a name with spaces":         {0o644, "a"},
		"new\nline/in\tboth":         {0o644, "b"},
		"not-utf8-\xff\xfe/\xc3":     {0o644, "c"},
		"not-utf8-\xff\xfe/\xc3\xa4": {0o644, "d"},
		"\uFFFD-itself":              {0o644, "e"},
		"-rf":                        {0o644, "f"},
		"deep/er/and/deeper/still":   {0o640, "g"},
		"[glob]*?{a,b}":              {0o644, "h"},
		`back\slash`:                 {0o644, "i"},
		"two":                        {0o644, "g"}, // the same content twice
		"small":                      {0o644, random(1 << 20)},
		"middle":                     {0o644, random(1<<20 + 1)},
		"one part":                   {0o644, random(artifacts.PartBytes)},
		"parts":                      {0o644, random(2*artifacts.PartBytes + 12345)},
	}
	dir := write(t, files)
	if err := os.Mkdir(filepath.Join(dir, "no-artifact"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := collect(t, s, dir)
	if len(c.Warnings) > 0 {
		t.Errorf("Collect() warns %q, want nothing", c.Warnings)
	}
	if !slices.IsSortedFunc(c.Artifacts, func(a, b contracts.Artifact) int { return strings.Compare(name(a), name(b)) }) {
		t.Error("Collect() is not sorted by name")
	}
	r := result(t, c)
	listed, err := s.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(listed) != len(files) {
		t.Fatalf("List() has %d artifacts, want %d", len(listed), len(files))
	}
	for _, a := range listed {
		want, ok := files[name(a)]
		if !ok {
			t.Errorf("List() has %q, which nobody left", name(a))
			continue
		}
		if a.Size != int64(len(want.Data)) || a.SHA256 != hexSum(want.Data) || a.Mode != uint32(want.Mode) {
			t.Errorf("List() has %q with mode %o, size %d, SHA-256 %s; want %o, %d, %s", name(a), a.Mode, a.Size, a.SHA256, want.Mode, len(want.Data), hexSum(want.Data))
		}
		if got := readAll(t, s, a); got != want.Data {
			t.Errorf("Open(%q) reads other content", name(a))
		}
	}
	out := filepath.Join(t.TempDir(), "made", "on the way")
	written, err := s.Unpack(t.Context(), r, out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listed, written); diff != "" {
		t.Errorf("Unpack() differs from List() (-list +unpack):\n%s", diff)
	}
	if got := tree(t, out); !equal(got, files) {
		t.Errorf("unpacked %v, want %v", summary(got), summary(files))
	}

	// Again, and by another process of the fleet: nothing new.
	before, messages := blobs(t, js, bucket), chunks(t, js, bucket)
	again := collect(t, openOn(t, js, artifacts.Config{}), dir)
	if diff := cmp.Diff(c.Artifacts, again.Artifacts); diff != "" {
		t.Errorf("the second Collect() differs (-first +second):\n%s", diff)
	}
	if again.Stored != 0 || !slices.Equal(before, blobs(t, js, bucket)) || chunks(t, js, bucket) != messages {
		t.Errorf("the second Collect() stored %d bytes, %d chunks, want none", again.Stored, chunks(t, js, bucket)-messages)
	}
}

func name(a contracts.Artifact) string {
	if a.PathBytes != nil {
		return string(a.PathBytes)
	}
	return a.Path
}

func readAll(t testing.TB, s *artifacts.Store, a contracts.Artifact) string {
	t.Helper()
	r, err := s.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func equal(a, b map[string]entry) bool {
	return len(a) == len(b) && cmp.Equal(summary(a), summary(b))
}

// summary makes trees that can be printed.
func summary(files map[string]entry) map[string]string {
	s := make(map[string]string, len(files))
	for name, e := range files {
		s[name] = e.Mode.String() + " " + hexSum(e.Data)[:8]
	}
	return s
}

// Any client of NATS reads what is stored.
func TestABlobIsAnObjectOfAnyObjectStore(t *testing.T) {
	s, js := open(t, artifacts.Config{TTL: time.Hour, MaxBytes: 64 << 20})
	data := random(3<<20 + 7)
	c := collect(t, s, write(t, map[string]entry{"a": {0o644, data}}))
	store, err := js.ObjectStore(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.GetBytes(t.Context(), c.Artifacts[0].Segments[0].Blob)
	if err != nil || !bytes.Equal(got, []byte(data)) {
		t.Errorf("GetBytes() = %d bytes, %v; want the %d of the file", len(got), err, len(data))
	}
	// And one that such a client stored is read here.
	sum := hexSum("by hand")
	if _, err := store.PutBytes(t.Context(), "7."+sum, []byte("by hand")); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s, contracts.Artifact{Path: "x", Size: 7, SHA256: sum, Segments: []contracts.Segment{{Blob: "7." + sum, Length: 7}}}); got != "by hand" {
		t.Errorf("Open() reads %q, want what was stored by hand", got)
	}
	info, err := store.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config := info.(*jetstream.ObjectBucketStatus).StreamInfo().Config
	if config.MaxAge != time.Hour || config.MaxBytes != 64<<20 || config.Replicas != 1 || config.Storage != jetstream.FileStorage {
		t.Errorf("the bucket has MaxAge %v, MaxBytes %d, %d replicas, %v storage; want what the Config says", config.MaxAge, config.MaxBytes, config.Replicas, config.Storage)
	}
}

func TestNothingLeftAsksNobody(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	c := collect(t, s, t.TempDir())
	if c.Count != 0 || c.Manifest != "" || c.Warnings != nil {
		t.Errorf("Collect() of an empty directory = %+v, want nothing", c)
	}
	if _, err := js.ObjectStore(context.Background(), bucket); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("the bucket was made for nothing: %v", err)
	}
}

// named is an empty artifact of that name, be it a good one or not.
func named(name string) contracts.Artifact {
	a := contracts.Artifact{Path: name, Mode: 0o644, SHA256: sum}
	if !utf8.ValidString(name) {
		a.Path, a.PathBytes = "", []byte(name)
		for _, r := range name {
			a.Path += string(r)
		}
	}
	return a
}

// unconnected is a connection to nowhere: whoever asks it anything fails.
func unconnected() *nats.Conn { return new(nats.Conn) }

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// objectStore is an artifact bucket as somebody makes it by hand.
func objectStore() jetstream.ObjectStoreConfig {
	return jetstream.ObjectStoreConfig{Bucket: bucket, Storage: jetstream.FileStorage}
}

func paths(c artifacts.Collected) string {
	var all []string
	for _, a := range c.Artifacts {
		all = append(all, a.Path)
	}
	return strings.Join(all, " ")
}

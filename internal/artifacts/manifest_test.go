package artifacts_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

func TestManyArtifactsAreInAManifest(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	files := make(map[string]entry)
	for i := range 5000 {
		files[fmt.Sprintf("out/%02d/a name of some length, as jobs give them, %04d.json", i%20, i)] = entry{0o644, fmt.Sprint("content ", i)}
	}
	c := collect(t, s, write(t, files))
	r := result(t, c)
	if r.Manifest == "" || len(r.Artifacts) != 0 || r.ArtifactCount != 5000 || len(r.Warnings) != 0 {
		t.Fatalf("the result has manifest %q, %d artifacts inline, %d in all, warnings %q; want a manifest of 5000", r.Manifest, len(r.Artifacts), r.ArtifactCount, r.Warnings)
	}
	if n := len(blobs(t, js, bucket)); n != 2 {
		t.Errorf("5,000 small files are %d blobs, want one pack and the manifest", n)
	}
	listed, err := s.List(t.Context(), r)
	if err != nil || len(listed) != 5000 {
		t.Fatalf("List() = %d, %v; want 5000", len(listed), err)
	}
	out := t.TempDir()
	if _, err := s.Unpack(t.Context(), r, out); err != nil {
		t.Fatal(err)
	}
	if !equal(tree(t, out), files) {
		t.Error("the unpacked files differ from those that were left")
	}
	r.ArtifactCount++
	if _, err := s.List(t.Context(), r); !errors.Is(err, artifacts.ErrManifest) {
		t.Errorf("List() of a result that counts another number = %v, want ErrManifest", err)
	}
}

// 50 artifacts whose names are long do not fit a result either.
func TestLongNamesAreInAManifest(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	files := make(map[string]entry)
	for i := range contracts.MaxInlineArtifacts {
		files[strings.Repeat(fmt.Sprintf("%0200d/", i), 5)+"f"] = entry{0o644, "x"}
	}
	c := collect(t, s, write(t, files))
	if c.Manifest == "" {
		t.Fatal("Collect() made no manifest for 50 KiB of names")
	}
	if listed, err := s.List(t.Context(), result(t, c)); err != nil || len(listed) != len(files) {
		t.Errorf("List() = %d, %v; want %d", len(listed), err, len(files))
	}
}

const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing

func seg(blob string, offset, length int64) contracts.Segment {
	return contracts.Segment{Blob: blob, Offset: offset, Length: length}
}

func segments(s ...contracts.Segment) []contracts.Segment { return s }

// handmade are lists that nobody but an attacker writes, and what is said of them.
var handmade = map[string]struct {
	artifacts []contracts.Artifact
	want      string
}{
	"up":             {[]contracts.Artifact{{Path: "../x", SHA256: sum}}, `"../x"`},
	"up below":       {[]contracts.Artifact{{Path: "a/../../x", SHA256: sum}}, `has an element ".."`},
	"here":           {[]contracts.Artifact{{Path: "a/./x", SHA256: sum}}, `has an element "."`},
	"absolute":       {[]contracts.Artifact{{Path: "/etc/passwd", SHA256: sum}}, `its path is absolute`},
	"empty":          {[]contracts.Artifact{{SHA256: sum}}, "is empty"},
	"empty element":  {[]contracts.Artifact{{Path: "a//b", SHA256: sum}}, "empty element"},
	"directory":      {[]contracts.Artifact{{Path: "a/", SHA256: sum}}, "empty element"},
	"NUL":            {[]contracts.Artifact{{Path: "a\x00b", SHA256: sum}}, "NUL"},
	"long":           {[]contracts.Artifact{{Path: strings.Repeat("a/", 3000) + "a", SHA256: sum}}, "more than 4096"},
	"bytes up":       {[]contracts.Artifact{{Path: "\uFFFD/../x", PathBytes: []byte("\xff/../x"), SHA256: sum}}, `has an element ".."`},
	"bytes of text":  {[]contracts.Artifact{{Path: "a", PathBytes: []byte("../x"), SHA256: sum}}, "do not belong together"},
	"bytes of other": {[]contracts.Artifact{{Path: "a", PathBytes: []byte("\xff"), SHA256: sum}}, "do not belong together"},
	"twice":          {[]contracts.Artifact{{Path: "a", SHA256: sum}, {Path: "a", SHA256: sum}}, `artifact 2, "a": there are two`},
	"below a file":   {[]contracts.Artifact{{Path: "a", SHA256: sum}, {Path: "a/b/c", SHA256: sum}}, `it lies below the artifact "a"`},
	"above a file":   {[]contracts.Artifact{{Path: "a/b/c", SHA256: sum}, {Path: "a", SHA256: sum}}, "another artifact lies below it"},
	"setuid":         {[]contracts.Artifact{{Path: "a", Mode: 0o4755, SHA256: sum}}, "mode 04755"},
	"no digest":      {[]contracts.Artifact{{Path: "a"}}, "sha256"},
	"digest":         {[]contracts.Artifact{{Path: "a", SHA256: strings.ToUpper(sum)}}, "sha256"},
	"negative":       {[]contracts.Artifact{{Path: "a", Size: -1, SHA256: sum}}, "negative"},
	"size":           {[]contracts.Artifact{{Path: "a", Size: 2, SHA256: sum, Segments: segments(seg("1."+sum, 0, 1))}}, "size is 2, and its segments have 1"},
	"size of none":   {[]contracts.Artifact{{Path: "a", Size: 1, SHA256: sum}}, "size is 1"},
	"blob":           {[]contracts.Artifact{{Path: "a", Size: 1, SHA256: sum, Segments: segments(seg("*", 0, 1))}}, "is not <epoch>.<sha256>"},
	"before":         {[]contracts.Artifact{{Path: "a", Size: 1, SHA256: sum, Segments: segments(seg("1."+sum, -1, 1))}}, "not within a blob"},
	"nothing":        {[]contracts.Artifact{{Path: "a", Size: 0, SHA256: sum, Segments: segments(seg("1."+sum, 0, 0))}}, "not within a blob"},
	"back":           {[]contracts.Artifact{{Path: "a", Size: 0, SHA256: sum, Segments: segments(seg("1."+sum, 0, 1), seg("1."+sum, 0, -1))}}, "not within a blob"},
	"over":           {[]contracts.Artifact{{Path: "a", Size: 1, SHA256: sum, Segments: segments(seg("1."+sum, 1<<63-1, 1))}}, "not within a blob"},
}

func TestHandmadeListsAreRefused(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	collect(t, s, write(t, map[string]entry{"a": {0o644, "makes the bucket"}}))
	store, err := js.ObjectStore(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range handmade {
		t.Run(name, func(t *testing.T) {
			data, err := contracts.Encode(contracts.Manifest{Artifacts: tt.artifacts})
			if err != nil {
				t.Fatal(err)
			}
			blob := "1." + hexSum(string(data))
			if _, err := store.PutBytes(t.Context(), blob, data); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for how, r := range map[string]contracts.Result{
				"inline":   {ID: "job1", Artifacts: tt.artifacts, ArtifactCount: len(tt.artifacts)},
				"manifest": {ID: "job1", Manifest: blob, ArtifactCount: len(tt.artifacts)},
			} {
				if _, err := s.List(t.Context(), r); !refused(err, tt.want) {
					t.Errorf("List() %s = %v, want ErrManifest with %q", how, err, tt.want)
				}
				if _, err := s.Unpack(t.Context(), r, filepath.Join(dir, "out")); !refused(err, tt.want) {
					t.Errorf("Unpack() %s = %v, want ErrManifest with %q", how, err, tt.want)
				}
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
				t.Errorf("Unpack() left %v, want nothing", names)
			}
			if len(tt.artifacts) == 1 {
				if _, err := s.Open(t.Context(), tt.artifacts[0]); !refused(err, tt.want) {
					t.Errorf("Open() = %v, want ErrManifest with %q", err, tt.want)
				}
			}
		})
	}
}

func refused(err error, want string) bool {
	return errors.Is(err, artifacts.ErrManifest) && strings.Contains(err.Error(), want)
}

func TestASegmentBeyondItsBlobIsRefused(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	c := collect(t, s, write(t, map[string]entry{"a": {0o644, "1234"}}))
	a := c.Artifacts[0]
	a.Size, a.Segments[0].Length = 5, 5
	want := `artifact "a": segment 1 ends at 5, beyond its blob of 4 bytes`
	if _, err := s.Open(t.Context(), a); !refused(err, want) {
		t.Errorf("Open() = %v, want ErrManifest with %q", err, want)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := s.Unpack(t.Context(), contracts.Result{Artifacts: []contracts.Artifact{a}}, dir); !refused(err, want) {
		t.Errorf("Unpack() = %v, want ErrManifest with %q", err, want)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("Unpack() made its directory, want nothing")
	}
}

func TestAManifestThatIsNoneIsRefused(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	collect(t, s, write(t, map[string]entry{"a": {0o644, "makes the bucket"}}))
	put := func(blob, data string) string {
		store, err := js.ObjectStore(t.Context(), bucket)
		if err == nil {
			_, err = store.PutBytes(t.Context(), blob, []byte(data))
		}
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	named := func(data string) string { return put("1."+hexSum(data), data) }
	for name, tt := range map[string]struct {
		blob string
		want error
		says string
	}{
		"not a blob's name": {"../x", artifacts.ErrManifest, "is not <epoch>.<sha256>"},
		"nothing":           {"1." + sum, artifacts.ErrNoBlob, "1." + sum},
		"other content":     {put("2."+sum, "other"), artifacts.ErrCorrupt, "2." + sum},
		"no msgpack":        {named("\xc1"), artifacts.ErrManifest, "decode manifest"},
		"half":              {named("\x81\xa9artifacts\x91"), artifacts.ErrManifest, "decode manifest"},
		"a promise":         {named("\x81\xa9artifacts\xdd\xff\xff\xff\xff"), artifacts.ErrManifest, "decode manifest"},
		"an unknown field":  {named(`{"artifacts":[],"more":1}`), artifacts.ErrManifest, "more"},
		"a wrong type":      {named(`{"artifacts":[{"path":1}]}`), artifacts.ErrManifest, "path"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.List(t.Context(), contracts.Result{ID: "job1", Manifest: tt.blob})
			if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("List() = %v, want %v with %q", err, tt.want, tt.says)
			}
		})
	}
}

// FuzzParseManifest: what it lets through can be unpacked without leaving the directory, and its bytes add up.
func FuzzParseManifest(f *testing.F) {
	for _, tt := range handmade {
		data, err := contracts.Encode(contracts.Manifest{Artifacts: tt.artifacts})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	good, err := contracts.EncodeJSON(contracts.Manifest{Artifacts: []contracts.Artifact{
		{Path: "a/b", Mode: 0o755, Size: 3, SHA256: sum, Segments: segments(seg("1."+sum, 5, 1), seg("2."+sum, 0, 2))},
		{Path: "\uFFFD", PathBytes: []byte("\xff"), SHA256: sum},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := artifacts.ParseManifest(data)
		if err != nil {
			if list != nil || !errors.Is(err, artifacts.ErrManifest) && !errors.Is(err, contracts.ErrNewerMajor) {
				t.Fatalf("ParseManifest() = %d artifacts, %v", len(list), err)
			}
			return
		}
		seen := make(map[string]bool)
		for _, a := range list {
			if !filepath.IsLocal(name(a)) || filepath.Clean(name(a)) != name(a) || name(a) == "." || seen[name(a)] {
				t.Errorf("ParseManifest() let %q through", name(a))
			}
			seen[name(a)] = true
			var size int64
			for _, seg := range a.Segments {
				if seg.Length <= 0 || seg.Offset < 0 || !contracts.ValidBlob(seg.Blob) {
					t.Errorf("ParseManifest() let %v through", seg)
				}
				size += seg.Length
			}
			if size != a.Size || a.Mode > 0o777 {
				t.Errorf("ParseManifest() let %+v through", a)
			}
		}
	})
}

// FuzzUnpackPath: whatever the names are and whatever lies there already, nothing outside of the directory
// changes, and what comes in are files and directories.
func FuzzUnpackPath(f *testing.F) {
	for _, name := range []string{"a", "../a", "/a", "a/../../b", "link/a", "link", "dir/a", "dir", "inside/a", "a/b/c", ".", "..", "a//b", "\xff", "\xff/..", "a\x00", `..\a`, "C:a", ".runnel-x.part"} {
		f.Add(name, "second")
	}
	// Files without content need no server.
	js, err := jetstream.New(unconnected())
	if err != nil {
		f.Fatal(err)
	}
	s, err := artifacts.Open(context.Background(), js, artifacts.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		top := t.TempDir()
		outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "in", "dir")
		must(t, os.MkdirAll(filepath.Join(dir, "dir"), 0o755), os.Mkdir(outside, 0o755),
			os.WriteFile(filepath.Join(outside, "a"), []byte("kept"), 0o644),
			os.Symlink(outside, filepath.Join(dir, "link")), os.Symlink("dir", filepath.Join(dir, "inside")))
		list := make([]contracts.Artifact, 0, 2)
		for _, name := range []string{first, second} {
			list = append(list, named(name))
		}
		written, err := s.Unpack(t.Context(), contracts.Result{Artifacts: list}, dir)
		for _, a := range written {
			info, err := os.Lstat(filepath.Join(dir, name(a)))
			if err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
				t.Errorf("Unpack() wrote %q, but there is %v, %v", name(a), info, err)
			}
			real, err := filepath.EvalSymlinks(filepath.Join(dir, name(a)))
			if want, _ := filepath.EvalSymlinks(dir); err != nil || real != filepath.Join(want, name(a)) {
				t.Errorf("Unpack() wrote %q to %q, %v", name(a), real, err)
			}
		}
		if err == nil && len(written) != 2 {
			t.Errorf("Unpack() = %d files without an error, want 2", len(written))
		}
		if got := tree(t, outside); len(got) != 1 || got["a"].Data != "kept" {
			t.Errorf("outside is %v, want the one file that was there", summary(got))
		}
		for _, at := range []string{top, filepath.Join(top, "in")} {
			if names, _ := os.ReadDir(at); len(names) != map[bool]int{true: 2, false: 1}[at == top] {
				t.Errorf("%s has %v", at, names)
			}
		}
	})
}

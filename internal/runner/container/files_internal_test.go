package container

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archive makes a tar of hostile entries.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		data := []byte("content of " + h.Name)
		if h.Typeflag != tar.TypeReg {
			data = nil
		}
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func hostile(t testing.TB) []byte {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o6777} }
	return archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "artifacts/", Mode: 0o777}, file("artifacts/ok"), file("artifacts/deep/er/ok"),
		file("artifacts/../outside"), file("../outside"), file("/outside"), file("outside"), file("artifacts/a/../../../outside"),
		tar.Header{Typeflag: tar.TypeSymlink, Name: "artifacts/link", Linkname: "/tmp"}, file("artifacts/link/through"),
		tar.Header{Typeflag: tar.TypeSymlink, Name: "artifacts/up", Linkname: ".."}, file("artifacts/up/outside"),
		tar.Header{Typeflag: tar.TypeLink, Name: "artifacts/hard", Linkname: "artifacts/ok"},
		tar.Header{Typeflag: tar.TypeLink, Name: "artifacts/passwd", Linkname: "/etc/passwd"},
		tar.Header{Typeflag: tar.TypeLink, Name: "artifacts/passwd2", Linkname: "artifacts/../../etc/passwd"},
		tar.Header{Typeflag: tar.TypeChar, Name: "artifacts/null", Devmajor: 1, Devminor: 3}, tar.Header{Typeflag: tar.TypeBlock, Name: "artifacts/disk", Devmajor: 8},
		tar.Header{Typeflag: tar.TypeFifo, Name: "artifacts/fifo"}, file("artifacts/ok"), file("artifacts/ok/under"),
	)
}

// An archive leads nowhere but below its directory, makes only files and directories, and none over another.
func TestUnpackHostile(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "in")
	got, err := unpackInto(t, dir, hostile(t))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	if err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			found = append(found, name)
			if info, err := e.Info(); err != nil || info.Mode()&^fs.ModePerm != 0 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"deep/er/ok", "hard", "link/through", "ok", "up/outside"}; !slices.Equal(found, want) {
		t.Errorf("unpacked %q, want %q", found, want)
	}
	if got.refused != 14 || len(got.warnings) != maxRefused {
		t.Errorf("%d refused, %d named: %q", got.refused, len(got.warnings), got.warnings)
	}
}

func unpackInto(t testing.TB, dir string, data []byte) (*unpacker, error) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u := &unpacker{root: root, top: "artifacts", bytes: 1 << 20, files: 1000}
	return u, u.unpack(tar.NewReader(bytes.NewReader(data)))
}

func FuzzUnpack(f *testing.F) {
	f.Add(hostile(f))
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("artifacts/", 120)))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		_, _ = unpackInto(t, filepath.Join(top, "in"), data)
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 1 {
			t.Fatalf("outside of its directory there are %v, %v", entries, err)
		}
	})
}

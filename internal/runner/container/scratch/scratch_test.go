package scratch_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"
	"testing"

	"github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runnel-project/runnel/internal/runner/container/scratch"
)

// unpack reads a tar to its end, as strictly as any engine does.
func unpack(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	if len(archive)%512 != 0 || !bytes.HasSuffix(archive, make([]byte, 1024)) {
		t.Errorf("a tar of %d bytes has no end", len(archive))
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchiveIsADockerArchiveAndAnOCILayout(t *testing.T) {
	image := scratch.Image{
		Name:   "host:5000/a/b:tag",
		Config: v1.ImageConfig{Entrypoint: []string{"/program"}},
		Files:  []scratch.File{{Name: "program", Mode: 0o755, Data: []byte("text")}, {Name: "tmp/", Mode: 0o1777}},
	}
	archive, err := image.Archive()
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive)
	for name, data := range files {
		sum := sha256.Sum256(data)
		if path.Dir(name) == "blobs/sha256" && path.Base(name) != hex.EncodeToString(sum[:]) {
			t.Errorf("%s is not named by its content", name)
		}
	}
	blob := func(d v1.Descriptor) []byte {
		t.Helper()
		data, ok := files["blobs/sha256/"+d.Digest.Encoded()]
		if !ok || int64(len(data)) != d.Size {
			t.Fatalf("blob %s of %d bytes: there are %d, %v", d.Digest, d.Size, len(data), ok)
		}
		return data
	}
	var index v1.Index
	var manifest v1.Manifest
	var config v1.Image
	var legacy []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	read := func(data []byte, to any) {
		t.Helper()
		if err := json.Unmarshal(data, to); err != nil {
			t.Fatal(err)
		}
	}
	read(files["index.json"], &index)
	read(blob(index.Manifests[0]), &manifest)
	read(blob(manifest.Config), &config)
	read(files["manifest.json"], &legacy)
	layer := unpack(t, blob(manifest.Layers[0]))
	if string(layer["program"]) != "text" || layer["tmp/"] == nil {
		t.Errorf("the layer holds %q", layer)
	}
	if config.Config.Entrypoint[0] != "/program" || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Errorf("the configuration is %+v", config)
	}
	if got := index.Manifests[0].Annotations; got["io.containerd.image.name"] != image.Name || got[v1.AnnotationRefName] != "tag" {
		t.Errorf("the index names it %v", got)
	}
	if l := legacy[0]; l.RepoTags[0] != image.Name || l.Config != "blobs/sha256/"+manifest.Config.Digest.Encoded() ||
		l.Layers[0] != "blobs/sha256/"+manifest.Layers[0].Digest.Encoded() {
		t.Errorf("manifest.json says %+v", l)
	}
}

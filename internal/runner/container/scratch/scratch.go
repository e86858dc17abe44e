// Package scratch packs static programs into images FROM scratch and loads them into an engine: no registry, no
// Dockerfile and no builder.
package scratch

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/docker/docker/client"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// File is an entry of an image.
type File struct {
	// Name is its path in the image, without the leading slash; a directory's ends in one.
	Name string
	// Mode holds the permissions and, as in chmod, the bits 04000, 02000 and 01000.
	Mode int64
	// Owner is the number of its user, and of its group.
	Owner int
	Data  []byte
}

// Image is one layer over nothing, for Linux on this machine's processor.
type Image struct {
	// Name is what the engine calls it, as "runnel/worker:latest".
	Name   string
	Config v1.ImageConfig
	Files  []File
}

// Layer returns the one layer of the image, a tar, and its configuration.
func (i Image) Layer() (layer, config []byte, err error) {
	if layer, err = pack(i.Files...); err != nil {
		return nil, nil, err
	}
	config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": i.Config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	return layer, config, err
}

// Archive returns the image as docker save writes it, which is an OCI layout as well: every engine loads it.
func (i Image) Archive() ([]byte, error) {
	layer, config, err := i.Layer()
	if err != nil {
		return nil, err
	}
	about := func(kind string, data []byte) map[string]any {
		return map[string]any{"mediaType": kind, "digest": digest(data), "size": len(data)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": v1.MediaTypeImageManifest,
		"config": about(v1.MediaTypeImageConfig, config), "layers": []any{about(v1.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, err
	}
	entry := about(v1.MediaTypeImageManifest, manifest)
	_, tag, _ := strings.Cut(i.Name[strings.LastIndexByte(i.Name, '/')+1:], ":")
	entry["annotations"] = map[string]string{"io.containerd.image.name": i.Name, v1.AnnotationRefName: tag}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": v1.MediaTypeImageIndex, "manifests": []any{entry}})
	if err != nil {
		return nil, err
	}
	legacy, err := json.Marshal([]map[string]any{{"Config": blob(config), "RepoTags": []string{i.Name}, "Layers": []string{blob(layer)}}})
	if err != nil {
		return nil, err
	}
	files := []File{
		{Name: v1.ImageLayoutFile, Data: []byte(`{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`)},
		{Name: v1.ImageIndexFile, Data: index}, {Name: "manifest.json", Data: legacy},
		{Name: blob(manifest), Data: manifest}, {Name: blob(config), Data: config}, {Name: blob(layer), Data: layer},
	}
	for n := range files {
		files[n].Mode = 0o644
	}
	return pack(files...)
}

// Load hands the image to an engine.
func (i Image) Load(ctx context.Context, api client.ImageAPIClient) error {
	archive, err := i.Archive()
	if err != nil {
		return fmt.Errorf("pack image %s: %w", i.Name, err)
	}
	answer, err := api.ImageLoad(ctx, bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("load image %s: %w", i.Name, err)
	}
	defer answer.Body.Close()
	for read := json.NewDecoder(answer.Body); read.More(); {
		var m struct {
			Error string `json:"error"`
		}
		if err := read.Decode(&m); err != nil {
			return fmt.Errorf("load image %s: %w", i.Name, err)
		}
		if m.Error != "" {
			return fmt.Errorf("load image %s: the engine says: %s", i.Name, m.Error)
		}
	}
	return nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// blob is where an OCI layout has data.
func blob(data []byte) string {
	return v1.ImageBlobsDir + "/" + strings.Replace(digest(data), ":", "/", 1)
}

func pack(files ...File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Uid: f.Owner, Gid: f.Owner}
		if strings.HasSuffix(f.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

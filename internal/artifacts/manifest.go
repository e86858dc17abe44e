package artifacts

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/runnel-project/runnel/internal/contracts"
)

// List returns every artifact that r names, itself or by its manifest, sorted by
// their names. They keep all rules that can be checked without their blobs; what breaks one is ErrManifest.
func (s *Store) List(ctx context.Context, r contracts.Result) ([]contracts.Artifact, error) {
	artifacts := r.Artifacts
	if r.Manifest != "" {
		data, err := s.readManifest(ctx, r.Manifest)
		if err != nil {
			return nil, fmt.Errorf("list artifacts of %s: manifest %s: %w", r.ID, quote(r.Manifest), err)
		}
		if artifacts, err = ParseManifest(data); err != nil {
			return nil, fmt.Errorf("list artifacts of %s: manifest %s: %w", r.ID, r.Manifest, err)
		}
		if len(artifacts) != r.ArtifactCount {
			return nil, fmt.Errorf("list artifacts of %s: manifest %s: %w: it names %d, the result says %d", r.ID, r.Manifest, ErrManifest, len(artifacts), r.ArtifactCount)
		}
		return artifacts, nil
	}
	if err := validate(artifacts); err != nil {
		return nil, fmt.Errorf("list artifacts of %s: %w", r.ID, err)
	}
	return artifacts, nil
}

func (s *Store) readManifest(ctx context.Context, blob string) ([]byte, error) {
	if !contracts.ValidBlob(blob) {
		return nil, fmt.Errorf("%w: its name is not <epoch>.<sha256>", ErrManifest)
	}
	found, err := s.artifacts.find(ctx, []string{blob})
	if err != nil {
		return nil, err
	}
	m := found[blob]
	if m.Size > contracts.MaxManifestBytes {
		return nil, fmt.Errorf("%w: it is %d bytes, more than %d", ErrManifest, m.Size, contracts.MaxManifestBytes)
	}
	content := s.artifacts.read(ctx, m, 0, m.Size)
	defer content.Close()
	// It grows as it comes: what a meta says of its size is not worth 32 MiB.
	var data bytes.Buffer
	if _, err := data.ReadFrom(content); err != nil {
		return nil, err
	}
	if sha256.Sum256(data.Bytes()) != sumOf(blob) {
		return nil, fmt.Errorf("%w: its content is not what its name says: delete the object and %s", ErrCorrupt, s.artifacts.again)
	}
	return data.Bytes(), nil
}

// ParseManifest reads a manifest strictly, and checks every rule that can be checked without the blobs:
// names stay below the directory they are unpacked into, none is there twice or
// below another, and the parts of each make up its size.
func ParseManifest(data []byte) ([]contracts.Artifact, error) {
	m, err := contracts.Decode[contracts.Manifest](data, contracts.Meta{})
	if err != nil {
		if errors.Is(err, contracts.ErrNewerMajor) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if err := validate(m.Artifacts); err != nil {
		return nil, err
	}
	return m.Artifacts, nil
}

func compareNames(a, b contracts.Artifact) int { return cmp.Compare(nameOf(a), nameOf(b)) }

// validate checks a list of artifacts, and returns what is wrong with the first one that breaks a rule.
func validate(artifacts []contracts.Artifact) error {
	names := make(map[string]bool, len(artifacts)) // true: a file, false: a directory above one
	for i, a := range artifacts {
		if problem := check(a); problem != "" {
			return fmt.Errorf("%w: artifact %d, %s: %s", ErrManifest, i+1, quote(nameOf(a)), problem)
		}
		name := nameOf(a)
		if file, there := names[name]; there && file {
			return fmt.Errorf("%w: artifact %d, %s: there are two of that name", ErrManifest, i+1, quote(name))
		} else if there {
			return fmt.Errorf("%w: artifact %d, %s: another artifact lies below it", ErrManifest, i+1, quote(name))
		}
		names[name] = true
		for dir := parent(name); dir != ""; dir = parent(dir) {
			if file, there := names[dir]; there && file {
				return fmt.Errorf("%w: artifact %d, %s: it lies below the artifact %s", ErrManifest, i+1, quote(name), quote(dir))
			} else if there {
				break // and so are those above
			}
			names[dir] = false
		}
	}
	return nil
}

// parent is the directory that a name is in; "" is the root.
func parent(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

// check says what is wrong with one artifact by itself; "" is nothing.
func check(a contracts.Artifact) string {
	if len(a.PathBytes) > 0 {
		if utf8.Valid(a.PathBytes) || a.Path != shown(string(a.PathBytes)) {
			return "path_bytes and path do not belong together"
		}
	} else if !utf8.ValidString(a.Path) {
		return "path is not UTF-8"
	}
	if problem := checkName(nameOf(a)); problem != "" {
		return "its path " + problem
	}
	if a.Mode&^0o777 != 0 {
		return fmt.Sprintf("mode %#o has more than permissions", a.Mode)
	}
	if !contracts.ValidBlob("0." + a.SHA256) {
		return "sha256 is not a SHA-256 in lower-case hex"
	}
	if a.Size < 0 {
		return fmt.Sprintf("size %d is negative", a.Size)
	}
	var size int64
	for i, s := range a.Segments {
		switch {
		case !contracts.ValidBlob(s.Blob):
			return fmt.Sprintf("segment %d: blob %s is not <epoch>.<sha256>", i+1, quote(s.Blob))
		case s.Offset < 0 || s.Length <= 0 || s.Offset > math.MaxInt64-s.Length:
			return fmt.Sprintf("segment %d: offset %d and length %d are not within a blob", i+1, s.Offset, s.Length)
		case size > math.MaxInt64-s.Length:
			return "its segments are beyond all sizes"
		}
		size += s.Length
	}
	if size != a.Size {
		return fmt.Sprintf("size is %d, and its segments have %d bytes", a.Size, size)
	}
	return ""
}

// within checks that the segments of the artifacts are within their blobs, which it returns the metas of.
func (s *Store) within(ctx context.Context, artifacts []contracts.Artifact) (map[string]*meta, error) {
	var blobs []string
	seen := make(map[string]bool)
	for _, a := range artifacts {
		for _, seg := range a.Segments {
			if !seen[seg.Blob] {
				seen[seg.Blob] = true
				blobs = append(blobs, seg.Blob)
			}
		}
	}
	if len(blobs) == 0 {
		return nil, nil
	}
	found, err := s.artifacts.find(ctx, blobs)
	if err != nil {
		return nil, err
	}
	for _, a := range artifacts {
		for i, seg := range a.Segments {
			if size := found[seg.Blob].Size; seg.Offset+seg.Length > size {
				return nil, fmt.Errorf("%w: artifact %s: segment %d ends at %d, beyond its blob of %d bytes", ErrManifest, quote(nameOf(a)), i+1, seg.Offset+seg.Length, size)
			}
		}
	}
	return found, nil
}

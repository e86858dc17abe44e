package artifacts

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Unpack writes the artifacts of r into the directory dir, which is made if it
// is not there, and returns those that it wrote, sorted by their names: all of
// them, or those that one of the patterns matches. A pattern is a name, a
// directory, or a glob of doublestar (`*` within an element, `**` across them); one that matches nothing is ErrNoMatch.
//
// Only regular files and directories are made, all of them below dir, and a
// file appears under its name once its content is verified: it replaces a
// regular file or link of that name, but nothing is written through a link. A list that breaks
// a rule, more than the store's limits, or a blob that is missing is told
// before anything is written.
func (s *Store) Unpack(ctx context.Context, r contracts.Result, dir string, patterns ...string) ([]contracts.Artifact, error) {
	all, err := s.List(ctx, r)
	if err != nil {
		return nil, err
	}
	picked, err := Pick(all, patterns...)
	if err != nil {
		return nil, fmt.Errorf("unpack artifacts of %s: %w", r.ID, err)
	}
	written, err := s.unpack(ctx, picked, dir)
	slices.SortFunc(written, compareNames)
	if err != nil {
		return written, fmt.Errorf("unpack artifacts of %s into %s: %w", r.ID, dir, err)
	}
	return written, nil
}

// Pick returns the artifacts that one of the patterns matches, as Unpack takes them; without patterns all.
func Pick(artifacts []contracts.Artifact, patterns ...string) ([]contracts.Artifact, error) {
	if len(patterns) == 0 {
		return artifacts, nil
	}
	used := make([]bool, len(patterns))
	var picked []contracts.Artifact
	for _, a := range artifacts {
		hit := false
		for i, p := range patterns {
			if !matches(p, nameOf(a)) {
				continue
			}
			hit, used[i] = true, true
		}
		if hit {
			picked = append(picked, a)
		}
	}
	for i, p := range patterns {
		if !doublestar.ValidatePattern(p) && !used[i] {
			return nil, fmt.Errorf("%w: %s is neither a name nor a pattern: see to its brackets, braces and backslashes", ErrNoMatch, quote(p))
		}
		if !used[i] {
			return nil, fmt.Errorf("%w: %s matches none of the %d: see their names with `submit artifact ls`", ErrNoMatch, quote(p), len(artifacts))
		}
	}
	return picked, nil
}

func matches(pattern, name string) bool {
	pattern = strings.TrimSuffix(pattern, "/")
	if pattern == name || strings.HasPrefix(name, pattern+"/") {
		return true
	}
	if ok, err := doublestar.Match(pattern, name); ok || err != nil {
		return ok
	}
	below, err := doublestar.Match(pattern+"/**", name)
	return below && err == nil
}

func (s *Store) unpack(ctx context.Context, picked []contracts.Artifact, dir string) ([]contracts.Artifact, error) {
	if len(picked) > s.cfg.MaxFiles {
		return nil, fmt.Errorf("%d files: %w of %d: unpack fewer at once, by patterns", len(picked), ErrLimit, s.cfg.MaxFiles)
	}
	room := s.cfg.MaxRunBytes
	for _, a := range picked {
		if room -= a.Size; room < 0 {
			return nil, fmt.Errorf("%s is where it gets %w of %d bytes: unpack fewer at once, by patterns", quote(nameOf(a)), ErrLimit, s.cfg.MaxRunBytes)
		}
	}
	metas, err := s.within(ctx, picked)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	c := newCursor(ctx, s.artifacts, metas, picked)
	defer c.Close()
	u := unpacker{root: root, cursor: c, dirs: map[string]bool{"": true}, buf: make([]byte, chunkBytes)}
	var written []contracts.Artifact
	for _, a := range inBlobOrder(picked) {
		if err := u.write(a); err != nil {
			return written, fmt.Errorf("artifact %s: %w", quote(nameOf(a)), err)
		}
		written = append(written, a)
	}
	return written, nil
}

// inBlobOrder sorts artifacts so that each blob is read once, from its beginning to its end.
func inBlobOrder(artifacts []contracts.Artifact) []contracts.Artifact {
	rank := make(map[string]int)
	for _, a := range artifacts {
		for _, seg := range a.Segments {
			if _, ok := rank[seg.Blob]; !ok {
				rank[seg.Blob] = len(rank)
			}
		}
	}
	sorted := slices.Clone(artifacts)
	slices.SortStableFunc(sorted, func(a, b contracts.Artifact) int {
		if len(a.Segments) == 0 || len(b.Segments) == 0 {
			return cmp.Compare(len(a.Segments), len(b.Segments))
		}
		x, y := a.Segments[0], b.Segments[0]
		return cmp.Or(cmp.Compare(rank[x.Blob], rank[y.Blob]), cmp.Compare(x.Offset, y.Offset))
	})
	return sorted
}

// unpacker writes artifacts below a root.
type unpacker struct {
	root   *os.Root
	cursor *cursor
	dirs   map[string]bool // that are there, and are no links
	buf    []byte
}

// write makes one file: under another name first, so that nobody takes half of it for the whole.
func (u *unpacker) write(a contracts.Artifact) (err error) {
	name, err := localize(nameOf(a))
	if err != nil {
		return err
	}
	if err := u.makeDir(parent(nameOf(a))); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(name), ".runnel-"+rand.Text()[:16]+".part")
	f, err := u.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			u.root.Remove(temp)
		}
	}()
	content := &file{cursor: u.cursor, a: a, verifier: u.cursor.b.verifier(a.SHA256)}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, content, u.buf); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(a.Mode)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err = u.root.Rename(temp, name); err != nil {
		if there, statErr := u.root.Lstat(name); statErr == nil && there.IsDir() {
			err = errors.New("there is a directory of that name: remove it or unpack elsewhere")
		}
	}
	return err
}

// makeDir makes a directory and those above it. What is there must be a directory: through a link, even
// one that stays below the root, a file would land elsewhere than its name says.
func (u *unpacker) makeDir(dir string) error {
	if u.dirs[dir] {
		return nil
	}
	if err := u.makeDir(parent(dir)); err != nil {
		return err
	}
	name, err := localize(dir)
	if err != nil {
		return err
	}
	if err := u.root.Mkdir(name, 0o777); err != nil {
		there, statErr := u.root.Lstat(name)
		switch {
		case statErr != nil:
			return err
		case !there.IsDir():
			return fmt.Errorf("%s is a %s, not a directory: remove it or unpack elsewhere", quote(dir), kind(there.Mode()))
		}
	}
	u.dirs[dir] = true
	return nil
}

// localize turns a name into one of this system. It is checked already: what is left are names that
// mean something else here, `C:x` or `a\b` on Windows.
func localize(name string) (string, error) {
	if filepath.Separator == '/' {
		return name, nil
	}
	if local, err := filepath.Localize(name); err == nil {
		return local, nil
	}
	return "", fmt.Errorf("this system has no such file names: unpack it elsewhere, or read it with `submit artifact cat` (%s)", path.Base(name))
}

package artifacts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// maxWarnings is how many refused files are named; the rest is counted. A result takes 32 warnings of all kinds.
	maxWarnings = 24
	// visitFactor bounds how much is looked at, in multiples of the files that are taken.
	visitFactor = 16
	// manifestRoom is what is left of a manifest's cap for the artifacts' own bytes, with room
	// for what their encoding adds.
	manifestRoom = contracts.MaxManifestBytes * 3 / 4
)

// Collected is what a run left. A result says of it Artifacts, Manifest, Count and Warnings.
type Collected struct {
	// Artifacts are all files, sorted by their names. A result names them itself if Manifest is "".
	Artifacts []contracts.Artifact
	// Manifest is the blob that names them all where they are too many for a result.
	Manifest string
	// Count is the number of artifacts.
	Count int
	// Bytes is the size of all of them together, Stored what of it was not in the store already.
	Bytes, Stored int64
	// Warnings name what was left out and why, each at most contracts.MaxWarningBytes.
	Warnings []string
}

// Inline returns the artifacts that a result names itself.
func (c Collected) Inline() []contracts.Artifact {
	if c.Manifest != "" {
		return nil
	}
	return c.Artifacts
}

// Collect stores every regular file below the directory root, which the work may
// have left in any state, and may even be changing still; "" is none. What is not a regular file is never opened, and neither
// that nor what cannot be read is an error: a warning names it. A file is as
// it was read, from its first byte to its last.
//
// An error says that something could not be stored; trying again stores only what is missing.
func (s *Store) Collect(ctx context.Context, root string, also ...Also) (Collected, error) {
	c := &collector{cfg: s.cfg, room: s.cfg.MaxRunBytes, manifest: manifestRoom, names: map[string]bool{}}
	defer c.close()
	for _, also := range also {
		also(c)
	}
	if root != "" {
		if err := c.look(ctx, root, nil); err != nil {
			return Collected{}, err
		}
	}
	if c.pick != nil {
		if err := c.look(ctx, c.workspace, c.pick); err != nil {
			return Collected{}, err
		}
		for _, glob := range c.pick.unused() {
			c.warn("artifacts: %s matches nothing in the workspace", quote(glob))
		}
	}
	if len(c.found)+len(c.taken) == 0 { // nothing to store: the server is not asked
		return Collected{Warnings: c.said()}, nil
	}
	var stored int64
	if len(c.found) > 0 {
		if err := s.artifacts.prepare(ctx); err != nil {
			return Collected{}, fmt.Errorf("collect artifacts: %w", err)
		}
		// Whoever is cut short here still hears what went wrong first.
		up := newUploader(ctx, s.artifacts)
		err := c.store(ctx, up)
		if upErr := up.end(); upErr != nil {
			err = upErr
		}
		if err != nil {
			return Collected{}, fmt.Errorf("collect artifacts: %w", err)
		}
		stored = up.stored
	}
	slices.SortFunc(c.taken, func(a, b *contracts.Artifact) int { return compareNames(*a, *b) })
	out := Collected{Count: len(c.taken), Stored: stored, Warnings: c.said()}
	for _, a := range c.taken {
		out.Artifacts = append(out.Artifacts, *a)
		out.Bytes += a.Size
	}
	if !contracts.InlineArtifacts(out.Artifacts) {
		if err := s.artifacts.prepare(ctx); err != nil {
			return Collected{}, fmt.Errorf("collect artifacts: %w", err)
		}
		var err error
		if out.Manifest, err = s.putManifest(ctx, out.Artifacts); err != nil {
			return Collected{}, fmt.Errorf("collect artifacts: %w", err)
		}
	}
	return out, nil
}

func (s *Store) putManifest(ctx context.Context, artifacts []contracts.Artifact) (string, error) {
	data, err := contracts.Encode(contracts.Manifest{Artifacts: artifacts})
	if err != nil {
		return "", err
	}
	if len(data) > contracts.MaxManifestBytes {
		return "", fmt.Errorf("the manifest of %d artifacts would be %d bytes: %w of %d", len(artifacts), len(data), ErrLimit, contracts.MaxManifestBytes)
	}
	sum := sha256.Sum256(data)
	name := s.artifacts.blobName(sum)
	_, err = s.artifacts.put(ctx, name, sum, int64(len(data)), true, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	return name, err
}

// errEnough ends a walk that has seen more than it should.
var errEnough = errors.New("enough")

// Also says what Collect takes beside the files below its root.
type Also func(*collector)

// Workspace takes what globs match below dir, under its path in there; of a directory that is matched, all. What
// has the name of a file below the root is left out with a warning. The globs must be valid (contracts.Invocation).
func Workspace(dir string, globs []string) Also {
	return func(c *collector) {
		if dir != "" && len(globs) > 0 {
			c.workspace, c.pick = dir, newPicker(globs)
		}
	}
}

// Stored takes artifacts that are stored already, below contracts.ReservedArtifacts.
func Stored(artifacts []contracts.Artifact) Also {
	return func(c *collector) {
		for _, a := range artifacts {
			c.room -= a.Size
			c.manifest -= 160 + 100*len(a.Segments)
			c.taken = append(c.taken, &a)
		}
	}
}

// collector is one call of Collect.
type collector struct {
	cfg       Config
	workspace string
	pick      *picker // of the workspace; nil is that nothing of it is taken
	roots     []*os.Root
	root      *os.Root // the one that is looked at
	found     []candidate
	names     map[string]bool // true: a file that was found, false: a directory above one
	taken     []*contracts.Artifact
	visited   int
	room      int64 // bytes of content that may still be taken
	manifest  int   // bytes of manifest that may still be filled
	warnings  []string
	unsaid    int
}

// candidate is a regular file that the walk saw.
type candidate struct {
	root *os.Root
	name string
	info fs.FileInfo
}

func (c *collector) close() {
	for _, root := range c.roots {
		root.Close()
	}
}

// look finds the files below a directory: all, or those that pick picks.
func (c *collector) look(ctx context.Context, dir string, pick *picker) error {
	c.root, c.visited = nil, 0
	what := "artifacts"
	if pick != nil {
		what = "files of the workspace"
	}
	if err := c.open(dir, what); err != nil || c.root == nil {
		return err
	}
	if err := c.walk(ctx, ".", pick); err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("collect artifacts: %w", err)
	}
	return nil
}

func (c *collector) warn(format string, args ...any) {
	if len(c.warnings) < maxWarnings {
		c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
		return
	}
	c.unsaid++
}

// said returns the warnings, the last of which counts those that are too many.
func (c *collector) said() []string {
	if c.unsaid == 0 {
		return c.warnings
	}
	return append(c.warnings, fmt.Sprintf("artifacts: %d more were left out", c.unsaid))
}

// skip warns of a file or directory that cannot be had. It returns err if that is no fault of what was left.
func (c *collector) skip(name string, err error) error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("artifact %s: %w", quote(name), err)
	}
	var path *fs.PathError
	if errors.As(err, &path) { // its own path is the worker's, and no use to who reads a result
		err = path.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		c.warn("artifact %s left out: it was gone when it was to be stored", quote(name))
	} else {
		c.warn("artifact %s left out: %v", quote(name), err)
	}
	return nil
}

// open opens the root, unless the work has put something else in its place.
func (c *collector) open(root, what string) error {
	before, err := os.Lstat(root)
	if errors.Is(err, fs.ErrNotExist) {
		c.warn("no %s: the directory was removed", what)
		return nil
	}
	if err != nil {
		return fmt.Errorf("collect artifacts: %w", err)
	}
	if !before.IsDir() {
		c.warn("no %s: the directory was replaced by a %s", what, kind(before.Mode()))
		return nil
	}
	dir, err := os.OpenRoot(root)
	if errors.Is(err, fs.ErrPermission) {
		c.warn("no %s: the directory's permissions were taken away", what)
		return nil
	}
	if err != nil {
		return fmt.Errorf("collect artifacts: %w", err)
	}
	now, err := dir.Stat(".")
	if err != nil || !os.SameFile(before, now) {
		dir.Close()
		c.warn("no %s: the directory was replaced", what)
		return nil
	}
	c.root = dir
	c.roots = append(c.roots, dir)
	return nil
}

// walk finds the regular files below a directory, sorted by their names: those that pick picks; nil is all.
func (c *collector) walk(ctx context.Context, dir string, pick *picker) error {
	names, err := c.list(dir)
	if err != nil {
		return c.skip(dir+"/", err)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if dir != "." {
			name = dir + "/" + name
		}
		if c.visited++; c.visited > visitFactor*c.cfg.MaxFiles {
			c.warn("artifacts left out from %s on: more than %d names in the directory", quote(name), visitFactor*c.cfg.MaxFiles)
			return errEnough
		}
		within := pick
		if pick != nil && pick.picks(name) {
			within = nil // with all below it
		} else if pick != nil && !pick.reaches(name) {
			continue
		}
		if problem := checkName(name); problem != "" {
			c.warn("artifact %s left out: its name %s", quote(name), problem)
			continue
		}
		if name == contracts.ReservedArtifacts {
			if within == nil || pick.named(name) {
				c.warn("artifact %s left out: the name is Runnel's own", quote(name))
			}
			continue
		}
		info, err := c.root.Lstat(name)
		switch {
		case err != nil:
			if err := c.skip(name, err); err != nil {
				return err
			}
		case info.IsDir():
			if err := c.walk(ctx, name, within); err != nil {
				return err
			}
		case within != nil && (info.Mode().IsRegular() || !pick.named(name)):
		case !info.Mode().IsRegular():
			c.warn("artifact %s left out: it is a %s, not a regular file", quote(name), kind(info.Mode()))
		default:
			c.find(name, info)
		}
	}
	return nil
}

// find notes a file for storing, if it is within the limits.
func (c *collector) find(name string, info fs.FileInfo) {
	// What a manifest says of a file: its name (twice, if it is not UTF-8), its digest and where it is.
	cost := 2*len(name) + 260
	switch {
	case len(c.found) >= c.cfg.MaxFiles:
		c.warn("artifact %s left out: a run may leave %d files", quote(name), c.cfg.MaxFiles)
	case info.Size() > c.room:
		c.warn("artifact %s left out: it is %d bytes, and of the %d that a run may leave %d are free", quote(name), info.Size(), c.cfg.MaxRunBytes, c.room)
	case cost > c.manifest:
		c.warn("artifact %s left out: the list of all artifacts would be too long", quote(name))
	case !c.claim(name):
		c.warn("artifact %s of the workspace left out: $RUNNEL_ARTIFACTS has it, or a part of its path", quote(name))
	default:
		c.room -= info.Size()
		c.manifest -= cost
		c.found = append(c.found, candidate{c.root, name, info})
	}
}

// claim notes a name, unless another file has it, lies above it or below it.
func (c *collector) claim(name string) bool {
	if _, there := c.names[name]; there {
		return false
	}
	for dir := parent(name); dir != ""; dir = parent(dir) {
		if c.names[dir] {
			return false
		}
	}
	c.names[name] = true
	for dir := parent(name); dir != ""; dir = parent(dir) {
		if _, there := c.names[dir]; there {
			break // and so are those above
		}
		c.names[dir] = false
	}
	return true
}

// list returns the sorted names in a directory, at most as many as may still be visited and one more.
func (c *collector) list(dir string) ([]string, error) {
	before, err := c.root.Lstat(dir)
	if err != nil {
		return nil, err
	}
	f, err := c.root.OpenFile(dir, openDirFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(before, now) {
		return nil, errors.New("it was replaced while it was looked at")
	}
	var names []string
	for most := visitFactor*c.cfg.MaxFiles - c.visited + 1; len(names) < most; {
		some, err := f.Readdirnames(min(most-len(names), 4096))
		names = append(names, some...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return names, nil
}

// store stores what was found: small files first, so that no half-filled pack waits for memory.
func (c *collector) store(ctx context.Context, up *uploader) error {
	var large []candidate
	p := newPack(up)
	for _, file := range c.found {
		if file.info.Size() > smallBytes {
			large = append(large, file)
			continue
		}
		fits, err := c.take(file, func(a *contracts.Artifact, f *reader, size int64) (bool, error) { return p.add(a, f, size) })
		if err == nil {
			err = up.failure()
		}
		if err != nil {
			if p.part != nil {
				givePart(p.part)
			}
			return err
		}
		if !fits {
			large = append(large, file)
		}
	}
	p.flush()
	for _, file := range large {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// It may have grown since, into what is left free.
		most := file.info.Size() + c.room
		fits, err := c.take(file, func(a *contracts.Artifact, f *reader, size int64) (bool, error) {
			return addLarge(up, a, f, size, most)
		})
		if err != nil {
			return err
		}
		if !fits {
			c.warn("artifact %s left out: it grew while it was read, beyond the %d bytes that a run may leave", quote(file.name), c.cfg.MaxRunBytes)
		}
	}
	return nil
}

// take opens a file that was found and has add read it. It returns false if add did.
func (c *collector) take(file candidate, add func(*contracts.Artifact, *reader, int64) (bool, error)) (fits bool, err error) {
	f, err := file.root.OpenFile(file.name, openFlags, 0)
	if err != nil {
		return true, c.skip(file.name, err)
	}
	defer f.Close()
	// The name may be another file's by now: whatever it is, it is not what was looked at.
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || !os.SameFile(info, file.info) {
		c.warn("artifact %s left out: it was replaced while it was looked at", quote(file.name))
		return true, nil
	}
	a := &contracts.Artifact{Mode: uint32(info.Mode().Perm())}
	setName(a, file.name)
	read := &reader{r: f}
	fits, err = add(a, read, info.Size())
	if read.err != nil { // the file's fault, and not the store's
		return true, c.skip(file.name, read.err)
	}
	if err != nil {
		return false, fmt.Errorf("artifact %s: %w", quote(file.name), err)
	}
	if fits {
		c.room -= a.Size - file.info.Size()
		c.taken = append(c.taken, a)
	}
	return fits, nil
}

// reader keeps the error that reading ended with, apart from what others have to say.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// rewind has what can seek read from its beginning again.
func (r *reader) rewind() error {
	_, r.err = r.r.(io.Seeker).Seek(0, io.SeekStart)
	return r.err
}

func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeNamedPipe:
		return "named pipe"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "character device"
	case fs.ModeDir:
		return "directory"
	case 0:
		return "regular file"
	}
	return "special file"
}

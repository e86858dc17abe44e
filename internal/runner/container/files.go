package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"

	"github.com/runnel-project/runnel/internal/contracts"
)

// ids is who the work runs as, where that is known as numbers.
type ids struct {
	uid, gid int
	open     bool // a name: who it is only the image knows, so everybody may write to its directories
}

func owned(user string) ids {
	u, g, grouped := strings.Cut(user, ":")
	uid, err := strconv.Atoi(u)
	if err != nil {
		return ids{open: true}
	}
	gid := 0 // as the engine does it for a number alone
	if grouped {
		if gid, err = strconv.Atoi(g); err != nil {
			return ids{uid: uid, open: true}
		}
	}
	return ids{uid: uid, gid: gid}
}

// mode gives everybody what the owner has, where the owner is not known.
func (i ids) mode(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	if i.open {
		bits |= bits>>3&0o077 | bits>>6&0o007
	}
	return bits
}

// send makes the directories of the work, with what lies in its workspace here.
func (r *Runner) send(ctx context.Context, id, dir string, s *spec) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	from, to := io.Pipe()
	go func() { to.CloseWithError(pack(to, dir, s.dirs, owned(s.config.User))) }()
	err := r.api.CopyToContainer(ctx, id, contracts.ContainerRoot, from, container.CopyToContainerOptions{})
	from.Close()
	if err != nil {
		return r.asked("copy files in", err)
	}
	return nil
}

// pack writes the workspace in dir, the directories to be made in it and one for artifacts as a tar.
func pack(to io.Writer, dir string, dirs []string, who ids) error {
	w := tar.NewWriter(to)
	entry := func(h *tar.Header) error {
		h.Uid, h.Gid, h.Format = who.uid, who.gid, tar.FormatPAX
		return w.WriteHeader(h)
	}
	folder := func(name string) error {
		return entry(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: who.mode(0o700)})
	}
	workspace, artifacts := path.Base(contracts.ContainerWorkspace), path.Base(contracts.ContainerArtifacts)
	if err := errors.Join(folder(artifacts), folder(workspace)); err != nil {
		return err
	}
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return fmt.Errorf("open workspace: %w", err)
		}
		defer root.Close()
		err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || name == "." {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			return packed(w, entry, root, workspace, name, info, who)
		})
		if err != nil {
			return fmt.Errorf("pack workspace: %w", err)
		}
	}
	for _, d := range dirs {
		if err := folder(path.Join(workspace, filepath.ToSlash(d))); err != nil {
			return err
		}
	}
	return w.Close()
}

// packed writes one entry of the workspace.
func packed(w io.Writer, entry func(*tar.Header) error, root *os.Root, workspace, name string, info fs.FileInfo, who ids) error {
	h := &tar.Header{Name: path.Join(workspace, name), Mode: who.mode(info.Mode()), ModTime: info.ModTime()}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		return entry(h)
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := root.Readlink(name)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, link
		return entry(h)
	case !info.Mode().IsRegular():
		return nil
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := entry(h); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, h.Size)
	return err
}

// fetch takes a directory out of a container into one of ours, and returns what it refused.
func (r *Runner) fetch(ctx context.Context, id, from, to string) (warnings []string, err error) {
	archive, _, err := r.api.CopyFromContainer(ctx, id, from)
	if err != nil {
		return nil, r.asked("copy files out", err)
	}
	defer archive.Close()
	return r.take(archive, path.Base(from), to)
}

// take unpacks an archive of one directory, top, into one of ours, and returns what it refused.
func (r *Runner) take(archive io.Reader, top, to string) (warnings []string, err error) {
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := unpacker{root: root, top: top, bytes: r.cfg.MaxOut, files: r.cfg.MaxOutFiles}
	err = u.unpack(tar.NewReader(archive))
	if u.refused > len(u.warnings) {
		u.warnings = append(u.warnings, fmt.Sprintf("%d more files were not kept", u.refused-len(u.warnings)))
	}
	return u.warnings, err
}

// errTooMuch says that the work left more than the worker takes.
var errTooMuch = errors.New("the work left more files than this worker takes")

// maxRefused bounds the warnings about files that were not kept.
const maxRefused = 8

// unpacker writes the entries of a tar below a directory of ours. What the tar says is not trusted: it was made of
// what the work left, by an engine that may be anybody's.
type unpacker struct {
	root     *os.Root
	top      string // the first part of every name
	bytes    int64  // that may still be written
	files    int    // that may still be made
	refused  int
	warnings []string
}

func (u *unpacker) refuse(name, why string) {
	u.refused++
	if u.refused <= maxRefused {
		u.warnings = append(u.warnings, fmt.Sprintf("%.128q was not kept: %s", name, why))
	}
}

func (u *unpacker) unpack(from *tar.Reader) error {
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		name, ok := u.within(h.Name)
		switch {
		case !ok:
			u.refuse(h.Name, "its name leads elsewhere")
			continue
		case name == ".":
			continue
		}
		if u.files--; u.files < 0 {
			return fmt.Errorf("%w: a file beyond their number", errTooMuch)
		}
		if err := u.entry(from, h, name); err != nil {
			return err
		}
	}
}

// within returns the name of an entry below the top of the archive.
func (u *unpacker) within(name string) (string, bool) {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == u.top {
		return ".", true
	}
	rest, ok := strings.CutPrefix(name, u.top+"/")
	return rest, ok && filepath.IsLocal(rest) && !strings.Contains(rest, "\x00")
}

func (u *unpacker) entry(from io.Reader, h *tar.Header, name string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.soft(h, u.root.MkdirAll(name, 0o700))
	case tar.TypeReg:
		if h.Size > u.bytes {
			return fmt.Errorf("%w: %d bytes of %.128q, with %d left", errTooMuch, h.Size, name, u.bytes)
		}
		u.bytes -= h.Size
		return u.file(from, h, name)
	case tar.TypeLink:
		target, ok := u.within(h.Linkname)
		if !ok || target == "." {
			u.refuse(h.Name, "it is a link to elsewhere")
			return nil
		}
		return u.soft(h, u.root.Link(target, name))
	case tar.TypeSymlink:
		u.refuse(h.Name, "it is a symbolic link")
	default:
		u.refuse(h.Name, "it is no file")
	}
	return nil
}

// file writes a regular file that we can read again, with the permissions that it has beside.
func (u *unpacker) file(from io.Reader, h *tar.Header, name string) error {
	if err := u.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return u.soft(h, err)
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return u.soft(h, err)
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(fs.FileMode(h.Mode)&0o777 | 0o400)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep %.128q: %w", name, err)
	}
	return nil
}

// soft turns a file that cannot be made because of its name into one that is refused. A full disk is an error.
func (u *unpacker) soft(h *tar.Header, err error) error {
	if err == nil {
		return nil
	}
	if full(err) {
		return fmt.Errorf("keep %.128q: %w", h.Name, err)
	}
	u.refuse(h.Name, err.Error())
	return nil
}

//go:build linux

package main

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// holds reports whether something is in a directory of the work's.
func holds(name string) bool {
	f, err := os.Open(frame.Root + "/" + name)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) > 0
}

// unpack puts files into the directories of the work. No link leads it out of them.
func unpack(from io.Reader) error {
	root, err := os.OpenRoot(frame.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(h.Name, "/")
		if top, _, _ := strings.Cut(name, "/"); top != frame.Workspace && top != frame.Artifacts {
			return errors.New("files beside the workspace")
		}
		if err := put(root, r, h, name); err != nil {
			return err
		}
	}
}

func put(root *os.Root, from io.Reader, h *tar.Header, name string) error {
	mode := fs.FileMode(h.Mode) & 0o777
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeSymlink:
		_ = root.Remove(name)
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeReg:
		_ = root.Remove(name)
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, from)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return errors.New(name + ": neither a file nor a directory")
	}
	if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := root.Chmod(name, mode); err != nil || h.ModTime.IsZero() {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}

// pack sends a directory to the worker, which believes nothing of it.
func (a *agent) pack(name string) error {
	root, err := os.OpenRoot(frame.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	out := &pieces{a: a, buf: make([]byte, frame.Header, frame.Header+frame.Piece)}
	w := tar.NewWriter(out)
	if err := packDir(w, root, name); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	out.flush()
	return nil
}

// packDir packs what is in a directory, some at a time: there may be more than fit in memory.
func packDir(w *tar.Writer, root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, base := range names {
			if err := packEntry(w, root, name+"/"+base); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func packEntry(w *tar.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch info.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		return packDir(w, root, name)
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeSocket:
		return nil // as engines do it
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyN(w, f, h.Size)
		return err
	default:
		h.Typeflag = tar.TypeChar
	}
	return w.WriteHeader(h)
}

// pieces sends what is written to it, as Data.
type pieces struct {
	a   *agent
	buf []byte // with room for a header in front
}

func (p *pieces) Write(data []byte) (int, error) {
	n := len(data)
	for len(data) > 0 {
		room := min(len(data), cap(p.buf)-len(p.buf))
		p.buf = append(p.buf, data[:room]...)
		data = data[room:]
		if len(p.buf) == cap(p.buf) {
			p.flush()
		}
	}
	return n, nil
}

func (p *pieces) flush() {
	if n := len(p.buf) - frame.Header; n > 0 {
		frame.PutHeader(p.buf, frame.Data, n)
		p.a.send(p.buf)
		p.buf = p.buf[:frame.Header]
	}
}

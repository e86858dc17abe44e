package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// input opens what --stdin names: "" is this process's own standard input where it
// is a pipe or a file, and nothing where it is a terminal or a device. nil is nothing.
// The caller closes it.
func (a *app) input(name string) (io.ReadCloser, error) {
	switch name {
	case "none":
		return nil, nil
	case "-":
		return io.NopCloser(a.stdin), nil
	case "":
		info, err := a.stdin.Stat()
		if err != nil { // closed: there is nothing to send
			return nil, nil
		}
		if info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 && !info.Mode().IsRegular() {
			return nil, nil
		}
		return io.NopCloser(a.stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--stdin: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, fmt.Errorf("--stdin: %s is a directory", name)
	}
	return f, nil
}

// told passes r on, and has the waiting named when nothing came for a while: a
// pipe that nobody writes to and nobody closes is easily inherited by accident.
// The caller calls done when it reads no more.
func (a *app) told(r io.Reader) (told io.Reader, done func() bool) {
	timer := time.AfterFunc(3*time.Second, func() {
		a.note("reading standard input until it ends (--stdin none sends nothing)")
	})
	return readFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		timer.Stop()
		if err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read standard input: %w", err)
		}
		return n, err
	}), timer.Stop
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

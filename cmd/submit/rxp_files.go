package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/runnel-project/runnel"
)

// rxpFiles keeps the output of one invocation in stdout.txt and stderr.txt of its directory, as it comes (E14). They are
// made with the first output, and hold that of one run: what an earlier one wrote does not count.
type rxpFiles struct {
	dir            string
	run            string
	stdout, stderr *os.File
	err            error // the first; nothing is kept after it
}

// of returns where a stream is kept. Writing never fails: the work is not to end for our disk.
func (f *rxpFiles) of(s runnel.Stream) io.Writer {
	return writeFunc(func(p []byte) {
		if f.open(); f.err == nil {
			_, f.err = f.file(s).Write(p)
		}
	})
}

type writeFunc func([]byte)

func (w writeFunc) Write(p []byte) (int, error) { w(p); return len(p), nil }

func (f *rxpFiles) file(s runnel.Stream) *os.File {
	if s == runnel.Stderr {
		return f.stderr
	}
	return f.stdout
}

func (f *rxpFiles) path(s runnel.Stream) string { return filepath.Join(f.dir, string(s)+".txt") }

func (f *rxpFiles) open() {
	if f.stdout != nil || f.err != nil {
		return
	}
	err := os.MkdirAll(f.dir, 0o777)
	if err == nil {
		f.stdout, err = os.Create(f.path(runnel.Stdout))
	}
	if err == nil {
		f.stderr, err = os.Create(f.path(runnel.Stderr))
	}
	if err != nil {
		f.err = fmt.Errorf("keep the output in %s: %w", f.dir, err)
	}
}

// before begins again where another run does.
func (f *rxpFiles) before(e runnel.Event) {
	switch e.Type {
	case runnel.EventStarted, runnel.EventRestarted, runnel.EventOutput:
		f.only(e.Run)
	}
}

// only empties the files if they hold the output of another run than this one.
func (f *rxpFiles) only(run string) {
	if run == "" || run == f.run {
		return
	}
	f.run = run
	for _, file := range []*os.File{f.stdout, f.stderr} {
		if file != nil && f.err == nil {
			_, err := file.Seek(0, io.SeekStart)
			f.err = errors.Join(err, file.Truncate(0))
		}
	}
}

// keep closes the files and says where they are. A run that wrote nothing has them too; what never ran has none (E10, E13, E20).
func (f *rxpFiles) keep(r runnel.Result) (runnel.RxPCapture, error) {
	if r.Status != runnel.StatusRejected && r.Run != "" {
		f.only(r.Run)
		f.open()
	}
	opened := f.stdout != nil && f.stderr != nil
	if err := f.close(); err != nil || !opened {
		return runnel.RxPCapture{}, err
	}
	return runnel.RxPCapture{Stdout: f.path(runnel.Stdout), Stderr: f.path(runnel.Stderr)}, nil
}

func (f *rxpFiles) close() error {
	err := f.err
	for _, file := range []*os.File{f.stdout, f.stderr} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

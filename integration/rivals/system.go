package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
)

// system is a queue that is measured. Only one is alive at a time: its server, worker and submitter are started for a round and
// ended after it; what its server stored stays.
type system struct {
	name     string
	versions string   // of the library and the server
	settings []string // what is not left as it comes, and what matters of what is
	variant  string   // tells rows of one library apart, in its own processes
	fewer    int      // a round of noop has so many times fewer jobs, for a system that would take long
	lacks    []string // works that it has no way to do

	// prepare says what is missing (*missingError), or makes what servers need before their first start.
	prepare func(ctx context.Context, s *system) error
	// serve starts the server, and returns its address once it answers.
	serve func(ctx context.Context, s *system) (address string, server *child, err error)
	// worker and submitter start those; a worker says that it is ready.
	worker    func(s *system, address string, slots int) ([]*child, error)
	submitter func(s *system, address string) (*child, error)

	// recovery is what gives a killed worker's jobs to another, and when.
	recovery string

	dir, marks string
	password   string
	port       int    // of the last start
	program    string // the server's
	data       string // a directory outside of dir, for a server that is another user's
}

// tidy removes what is outside of the system's directory.
func (s *system) tidy() {
	if s.data != "" {
		os.RemoveAll(s.data)
	}
}

// missingError says what has to be installed.
type missingError struct{ what, install string }

func (e *missingError) Error() string {
	return fmt.Sprintf("skipped, %s is not installed: apt-get install %s", e.what, e.install)
}

func systems() []*system {
	return []*system{
		runnelSystem("runnel", ""), runnelSystem("runnel-function", "function"), runnelSystem("runnel-fsync", "fsync"),
		asynqSystem(),
		riverSystem("river", ""), riverSystem("river-async-commit", "async"),
		celerySystem(),
	}
}

// alive is a system's processes.
type alive struct {
	server, submit *child
	workers        []*child
	address        string
}

// start starts a system with so many slots.
func (s *system) start(ctx context.Context, slots int) (_ *alive, err error) {
	a := &alive{}
	defer func() {
		if err != nil {
			a.end()
			err = fmt.Errorf("%s: %w", s.name, err)
		}
	}()
	if a.address, a.server, err = s.serve(ctx, s); err != nil {
		return nil, err
	}
	return a, errors.Join(s.work(ctx, a, slots), s.submits(ctx, a))
}

// work starts the worker.
func (s *system) work(ctx context.Context, a *alive, slots int) (err error) {
	if a.workers, err = s.worker(s, a.address, slots); err != nil {
		return err
	}
	for _, w := range a.workers {
		if err := w.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *system) submits(ctx context.Context, a *alive) (err error) {
	if a.submit, err = s.submitter(s, a.address); err != nil {
		return err
	}
	return a.submit.ready(ctx)
}

// stopWork ends the worker alone.
func (a *alive) stopWork() {
	for _, w := range a.workers {
		w.end()
	}
	a.workers = nil
}

func (a *alive) end() {
	a.submit.end()
	a.stopWork()
	a.server.end()
}

// goChildren starts this program as parts, each a worker's.
func goChildren(partNames ...string) func(s *system, address string, slots int) ([]*child, error) {
	return func(s *system, address string, slots int) (all []*child, err error) {
		for _, name := range partNames {
			c, err := spawn(s.name+"'s "+name, s.again(address, name, slots), 0)
			if err != nil {
				return all, err
			}
			all = append(all, c)
		}
		return all, nil
	}
}

func goSubmitter(partName string) func(s *system, address string) (*child, error) {
	return func(s *system, address string) (*child, error) {
		return spawn(s.name+"'s submitter", s.again(address, partName, 0), 0)
	}
}

// freePort is one of the loopback's that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func newPassword() string { return rand.Text() }

// said runs a command and returns the first line that it prints.
func said(name string, args ...string) string {
	out, _ := exec.Command(name, args...).Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// moduleVersion is what this program is built with.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "of an unknown version"
}

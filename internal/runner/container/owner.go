package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/runnel-project/runnel/internal/contracts"
)

// The labels of everything that a Runner makes on an engine.
const (
	labelOwner      = "io.runnel.owner"      // the Runner that made it
	labelHost       = "io.runnel.host"       // the machine on which that lives
	labelLock       = "io.runnel.lock"       // the file there that is locked while it lives
	labelInvocation = "io.runnel.invocation" // for people
	labelTenant     = "io.runnel.tenant"
	labelRun        = "io.runnel.run"
)

// owner is the life of one Runner as others can see it: a lock that the system gives up when the process dies,
// however it dies.
type owner struct {
	name, host, path string
	lock             *os.File
}

func newOwner(dir string) (*owner, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := &owner{name: contracts.NewRun(), host: thisHost()}
	o.path = filepath.Join(dir, lockName(o.name))
	o.lock, err = lockFile(o.path, true)
	return o, err
}

// lockName is the name of a runner's lock file.
func lockName(owner string) string { return ".containers-" + owner + ".lock" }

// root is the directory in which owners keep their locks that share what setups left.
func (o *owner) root() string { return filepath.Dir(o.path) }

// close gives up the lock. It may be called of nil.
func (o *owner) close() error {
	if o == nil {
		return nil
	}
	return errors.Join(os.Remove(o.path), o.lock.Close())
}

// labels returns what says whose a thing is.
func (o *owner) labels() map[string]string {
	return map[string]string{labelOwner: o.name, labelHost: o.host, labelLock: o.path}
}

// dead reports whether the owner of what carries these labels is known not to live any more, which is known only
// on its own machine.
func (o *owner) dead(labels map[string]string) bool {
	name, path := labels[labelOwner], labels[labelLock]
	if !contracts.ValidRun(name) || name == o.name || labels[labelHost] != o.host {
		return false
	}
	// Labels are anybody's who may use the engine, and the file is removed in the end: it must be such a lock.
	if !filepath.IsAbs(path) || filepath.Base(path) != lockName(name) {
		return false
	}
	lock, err := lockFile(path, false)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	lock.Close()
	return true
}

// thisHost tells machines apart that have the same name: several may share an engine.
func thisHost() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return name
	}
	return name + "/" + strings.TrimSpace(string(id))
}

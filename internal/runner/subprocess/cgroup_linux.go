package subprocess

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/runner/subprocess/guard"
	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

// cgroups is the rung that holds each run in a cgroup of its own, below one of this worker's.
// A run costs no directory: one that was left empty serves the next run.
type cgroups struct {
	root  *tree.Cgroup
	guard *guard.Guard

	mu   sync.Mutex
	free []*tree.Cgroup
	made int
}

// openCgroups makes the worker's cgroup inside the one that this process is in, and proves that a
// process can be started in it, lives, and dies by one kill.
func openCgroups() (_ *cgroups, err error) {
	own, err := tree.OwnCgroup()
	if err != nil {
		return nil, err
	}
	root, err := makeRoot(own)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove())
		}
	}()
	if err := proveCgroup(filepath.Join(root.Path(), "probe")); err != nil {
		return nil, fmt.Errorf("probe %s: %w", root.Path(), err)
	}
	g, err := guard.ForCgroup(root.Path())
	if err != nil {
		return nil, err
	}
	return &cgroups{root: root, guard: g}, nil
}

// prefix begins the name of every worker's cgroup.
const prefix = "runnel-worker-"

// makeRoot makes a cgroup for this worker below own, and tidies up after workers that died together with their guards.
func makeRoot(own string) (*tree.Cgroup, error) {
	// Between the making of ours and its lock it must not be taken for a dead worker's.
	unlock, lockErr := tree.LockDir(own, time.Second)
	if lockErr == nil {
		defer unlock()
		tidy(own)
	}
	root, err := tree.MakeCgroup(filepath.Join(own, fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), token())))
	if err != nil {
		return nil, fmt.Errorf("%w (this process needs a cgroup that is delegated to it: systemd's Delegate=yes)", err)
	}
	if err := root.Lock(); err != nil {
		return nil, errors.Join(err, root.Remove())
	}
	return root, nil
}

// tidy kills and removes what is below the cgroups of dead workers. What does not work is left to the next one: the
// kernel has let go of the lock of a dead worker, whatever else may be wrong with its cgroup.
func tidy(own string) {
	paths, err := filepath.Glob(filepath.Join(own, prefix+"*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		c, err := tree.OpenCgroup(path)
		if err != nil {
			continue
		}
		if abandoned, err := c.Abandoned(); err != nil || !abandoned || c.Kill(time.Second) != nil {
			_ = c.Close()
			continue
		}
		_ = c.Remove()
	}
}

func proveCgroup(path string) error {
	c, err := tree.MakeCgroup(path)
	if err != nil {
		return err
	}
	err = guard.Probe(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: c.FD()}, func(*os.Process) error {
		if populated, err := c.Populated(); err != nil || !populated {
			return errors.Join(err, errors.New("the kernel does not put a new process into a cgroup"))
		}
		return c.Kill(killWait)
	})
	return errors.Join(err, c.Remove())
}

// token returns a name that nobody else has.
func token() string { return strings.ToLower(rand.Text()[:16]) }

func (c *cgroups) describe() string { return RungCgroup }

func (c *cgroups) hold() (hold, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root.Removed() {
		if err := c.renew(); err != nil {
			return nil, fmt.Errorf("this worker's cgroup was removed: %w", err)
		}
	}
	if err := c.guard.Check(); err != nil {
		return nil, err
	}
	if last := len(c.free) - 1; last >= 0 {
		slot := c.free[last]
		c.free = c.free[:last]
		return &cgroupHold{all: c, slot: slot}, nil
	}
	c.made++
	slot, err := tree.MakeCgroup(filepath.Join(c.root.Path(), fmt.Sprintf("run-%d", c.made)))
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return &cgroupHold{all: c, slot: slot}, nil
}

// renew makes a cgroup for this worker in place of one that somebody has removed, which can only be done to one
// that is empty, and a guard for it. c.mu is held.
func (c *cgroups) renew() error {
	root, err := makeRoot(filepath.Dir(c.root.Path()))
	if err != nil {
		return err
	}
	g, err := guard.ForCgroup(root.Path())
	if err != nil {
		return errors.Join(err, root.Remove())
	}
	for _, slot := range c.free {
		_ = slot.Close()
	}
	_, _, c.free = c.root.Close(), c.guard.Close(), nil
	c.root, c.guard = root, g
	return nil
}

func (c *cgroups) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, slot := range c.free {
		errs = append(errs, slot.Close())
	}
	// A run whose processes did not die in time has left its cgroup.
	if populated, err := c.root.Populated(); populated || err != nil {
		errs = append(errs, err, c.root.Kill(killWait))
	}
	errs = append(errs, c.root.Remove(), c.guard.Close())
	return errors.Join(errs...)
}

// cgroupHold holds one run.
type cgroupHold struct {
	all    *cgroups
	slot   *tree.Cgroup
	leader int
	killed bool
}

func (h *cgroupHold) prepare(sys *syscall.SysProcAttr, _ variables) {
	sys.UseCgroupFD, sys.CgroupFD = true, h.slot.FD()
}

func (h *cgroupHold) started(leader int, _ []*os.File) error {
	h.leader = leader
	return nil
}

func (h *cgroupHold) empty() (bool, error) { return h.slot.Empty() }

func (h *cgroupHold) count() int {
	pids, _ := h.slot.PIDs()
	return len(pids)
}

func (h *cgroupHold) signal(sig syscall.Signal) error {
	err := syscall.Kill(-h.leader, sig)
	pids, listErr := h.slot.PIDs()
	var strays []tree.Proc
	for _, pid := range pids {
		if p, err := tree.ReadProc(pid); err == nil && p.Group != h.leader {
			strays = append(strays, p)
		}
	}
	if len(strays) == 0 {
		return errors.Join(err, listErr)
	}
	// An id that was listed could have changed hands before it was read: whose it was then is
	// here now, under the same id and start, or is not meant.
	pids, listErr = h.slot.PIDs()
	in := make(map[int]bool, len(pids))
	for _, pid := range pids {
		in[pid] = true
	}
	errs := []error{err, listErr}
	for _, p := range strays {
		if in[p.PID] {
			errs = append(errs, p.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

func (h *cgroupHold) kill() (int, error) {
	n := h.count()
	h.killed = true
	return n, h.slot.Kill(killWait)
}

func (h *cgroupHold) settled() error { return nil }

func (h *cgroupHold) removed() bool { return h.slot.Removed() }

// release keeps the cgroup for the next run, unless it was killed: the kernel would kill that run too.
func (h *cgroupHold) release() error {
	if h.killed {
		return h.slot.Remove()
	}
	h.all.mu.Lock()
	defer h.all.mu.Unlock()
	if h.slot.Removed() {
		return h.slot.Close()
	}
	h.all.free = append(h.all.free, h.slot)
	return nil
}

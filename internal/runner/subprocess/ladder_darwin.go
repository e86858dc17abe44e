package subprocess

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// climb returns the only rung that there is here.
func climb(name string) (rung, map[string]error, error) {
	if name != "" && name != RungGroup {
		return nil, nil, fmt.Errorf("kill ladder: rung %q: only %q works on this system", name, RungGroup)
	}
	return groups{}, nil, nil
}

type groups struct{}

func (groups) describe() string    { return RungGroup + " (best effort)" }
func (groups) hold() (hold, error) { return &group{}, nil }
func (groups) close() error        { return nil }

// group holds a run by its process group, whose number is kept by the leader until it is reaped.
type group struct{ leader int }

func (g *group) prepare(*syscall.SysProcAttr, variables) {}

func (g *group) started(leader int, _ []*os.File) error {
	g.leader = leader
	return nil
}

// empty asks whether the group can be signalled: a group of zombies alone cannot, here.
func (g *group) empty() (bool, error) {
	return syscall.Kill(-g.leader, 0) != nil, nil
}

// count knows of the leader only.
func (g *group) count() int { return 1 }

func (g *group) signal(sig syscall.Signal) error { return syscall.Kill(-g.leader, sig) }

func (g *group) kill() (int, error) {
	deadline := time.NewTimer(killWait)
	defer deadline.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		err := syscall.Kill(-g.leader, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EPERM) {
			return 1, nil
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-look.C:
		case <-deadline.C:
			return 1, fmt.Errorf("process group %d does not end within %v of its kill", g.leader, killWait)
		}
	}
}

func (g *group) settled() error { return nil }

func (g *group) release() error { return nil }

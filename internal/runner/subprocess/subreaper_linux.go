package subprocess

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/subprocess/guard"
	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

// subreaper is the rung for machines where no cgroup can be made. The kernel hands
// every process that a run orphans to this one. Which run it came from is told by
// its ancestors, session, group, output, directory, and a mark in its environment.
type subreaper struct {
	token string
	guard *guard.Guard
	runs  atomic.Int64 // numbers them
	live  sync.Map     // the marks of the runs that have not ended: string → *marked
}

// adopting counts the rungs that need this process to be a subreaper: the kernel knows it of the process as a whole.
var adopting struct {
	mu sync.Mutex
	n  int
}

func adopt(by int) error {
	adopting.mu.Lock()
	defer adopting.mu.Unlock()
	if adopting.n += by; adopting.n > 1 || adopting.n == 1 && by < 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(adopting.n), 0, 0, 0); err != nil {
		adopting.n -= by
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

func openSubreaper() (*subreaper, error) {
	if _, err := tree.ReadProc(os.Getpid()); err != nil {
		return nil, fmt.Errorf("descendants cannot be found: %w", err)
	}
	if err := adopt(+1); err != nil {
		return nil, err
	}
	token := token()
	g, err := guard.ForToken(token)
	if err != nil {
		return nil, errors.Join(err, adopt(-1))
	}
	return &subreaper{token: token, guard: g}, nil
}

func (s *subreaper) describe() string { return RungSubreaper + " (best effort)" }

func (s *subreaper) hold() (hold, error) {
	if err := s.guard.Check(); err != nil {
		return nil, err
	}
	h := &marked{all: s, mark: s.token + "-" + strconv.FormatInt(s.runs.Add(1), 10)}
	s.live.Store(h.mark, h)
	return h, nil
}

// living returns the marks of the runs that have not ended.
func (s *subreaper) living() map[string]bool {
	lives := make(map[string]bool)
	s.live.Range(func(mark, _ any) bool {
		lives[mark.(string)] = true
		return true
	})
	return lives
}

func (s *subreaper) close() error {
	return errors.Join(adopt(-1), s.guard.Close())
}

// marked holds one run.
type marked struct {
	all    *subreaper
	mark   string
	leader int
	output []*os.File
}

func (m *marked) prepare(_ *syscall.SysProcAttr, env variables) { env[guard.Var] = m.mark }

func (m *marked) started(leader int, output []*os.File) error {
	m.leader, m.output = leader, output
	leaders.add(leader)
	return m.all.guard.Enter(leader)
}

// empty looks at the children of this process before it looks at all that is below it: the leader has
// ended, so what it left has become a child of ours, or descends from one.
func (m *marked) empty() (bool, error) {
	// The kernel may leave out a child while another ends. Twice the same one is improbable, and the
	// next run to end would find it.
	ended := false
	for range 2 {
		pids, err := children.get(tree.Children)
		if err != nil {
			procs, err := m.find()
			return len(procs) == 0, err
		}
		for _, pid := range pids {
			switch m.stranger(pid) {
			case mayBeOurs:
				procs, err := m.find()
				return len(procs) == 0, err
			case hasEnded:
				ended = true
			}
		}
	}
	if ended && reaping.due() {
		_, err := descendants.get(look)
		return true, err
	}
	return true, nil
}

// What a child of this process is to a run that has ended.
const (
	notOurs = iota
	mayBeOurs
	hasEnded // and may have to be reaped
)

// stranger looks at a child of this process that is perhaps an orphan of this run, or of one that has ended. With
// eight runs at once one is always being started, and its leader is not known yet: looking closely
// at that one child saves the look at all processes.
func (m *marked) stranger(child int) int {
	if leaders.has(child) || child == m.all.guard.PID() {
		return notOurs
	}
	p, err := tree.ReadProc(child)
	if err != nil || p.Session == session() {
		return notOurs
	}
	if p.Zombie() {
		return hasEnded
	}
	if mark, ok := p.Var(guard.Var); ok {
		if _, lives := m.all.live.Load(mark); m.claims(mark, lives) {
			return mayBeOurs
		}
		return notOurs
	}
	// Between its fork, which was ours, and its exec it shows this process's own environment.
	if p.Forked && p.Link("exe") == executed() || startedHere(child) {
		return notOurs
	}
	return mayBeOurs
}

// claims reports whether the mark is of this run, or of one of ours that has ended, which is one that does not live.
func (m *marked) claims(mark string, lives bool) bool {
	return mark == m.mark || !lives && strings.HasPrefix(mark, m.all.token+"-")
}

// find returns the living processes of this run.
func (m *marked) find() ([]tree.Proc, error) {
	// Asked before the look, which may show what a run that ends meanwhile has killed by now.
	lived := m.all.living()
	s, err := descendants.get(look)
	if err != nil {
		return nil, err
	}
	pipes := m.pipes()
	chosen := map[int]bool{m.leader: true}
	for pid, p := range s.procs {
		if m.ours(s, p, pipes, lived) {
			chosen[pid] = true
		}
	}
	var found []tree.Proc
	for pid := range tree.Descendants(s.procs, chosen) {
		if p, ok := s.procs[pid]; ok {
			found = append(found, p)
		}
	}
	return found, nil
}

// ours reports whether p itself shows that it is of this run, or of one of ours that has ended.
func (m *marked) ours(s scan, p tree.Proc, pipes, lived map[string]bool) bool {
	// The leader is not reaped yet, so nobody else has its number.
	if p.Session == m.leader || p.Group == m.leader {
		return true
	}
	if mark, ok := s.marks[p.PID]; ok {
		_, begun := m.all.live.Load(mark) // perhaps since
		return m.claims(mark, begun || lived[mark])
	}
	// No mark: another program was started with a new environment. What was started here lacks it as
	// well, so only an orphan is asked on.
	if p.Parent != os.Getpid() || startedHere(p.PID) {
		return false
	}
	return pipes[p.Link("fd/1")] || pipes[p.Link("fd/2")]
}

// pipes returns the names under which the output pipes of the run show in /proc/PID/fd.
func (m *marked) pipes() map[string]bool {
	names := make(map[string]bool, len(m.output))
	for _, pipe := range m.output {
		if info, err := pipe.Stat(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				names[fmt.Sprintf("pipe:[%d]", stat.Ino)] = true
			}
		}
	}
	return names
}

func (m *marked) count() int {
	procs, _ := m.find()
	return len(procs)
}

func (m *marked) signal(sig syscall.Signal) error {
	errs := []error{syscall.Kill(-m.leader, sig)}
	procs, err := m.find()
	errs = append(errs, err)
	for _, p := range procs {
		if p.Group != m.leader {
			errs = append(errs, p.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

func (m *marked) kill() (int, error) {
	return tree.KillAll(m.find, killWait)
}

// settled makes the guard forget the leader while it still has its number: the next run may get it.
func (m *marked) settled() error { return m.all.guard.Leave(m.leader) }

func (m *marked) release() error {
	m.all.live.Delete(m.mark)
	if m.leader != 0 {
		leaders.remove(m.leader)
	}
	return nil
}

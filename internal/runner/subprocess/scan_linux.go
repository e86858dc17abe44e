package subprocess

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/subprocess/guard"
	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

// shared takes one look for all who ask at the same time. What it returns was begun after the call, so
// it shows all that was there before: 64 runs that end at once cost two scans, not 64.
type shared[T any] struct {
	begun atomic.Int64

	mu     sync.Mutex
	number int64
	last   T
	err    error
}

func (s *shared[T]) get(look func() (T, error)) (T, error) {
	before := s.begun.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number <= before {
		s.number = s.begun.Add(1)
		s.last, s.err = look()
	}
	return s.last, s.err
}

// The looks that every subreaper of this process shares: they are about the process, not about one of them.
var (
	children    shared[[]int]
	descendants shared[scan]
	held        shared[map[int]bool]
)

// scan is what was found below this process. Every orphan of a run is there.
type scan struct {
	procs map[int]tree.Proc
	marks map[int]string
}

// look scans, and reaps the orphans that have ended.
func look() (scan, error) {
	all, err := tree.Procs()
	if err != nil {
		return scan{}, err
	}
	self := os.Getpid()
	s := scan{procs: make(map[int]tree.Proc), marks: make(map[int]string)}
	for pid := range tree.Descendants(all, map[int]bool{self: true}) {
		if p := all[pid]; pid != self && !p.Zombie() {
			s.procs[pid] = p
			if mark, ok := p.Var(guard.Var); ok {
				s.marks[pid] = mark
			}
		} else if p.Zombie() && p.Parent == self {
			reap(p)
		}
	}
	return s, nil
}

// reap reaps a child that has ended, if it is a run's orphan. It must not take one that somebody in this process
// waits for, because it was started here: such a one is in our own session, or os.Process holds a descriptor of it.
func reap(p tree.Proc) {
	if p.Session != session() && !leaders.has(p.PID) && !startedHere(p.PID) {
		_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
	}
}

// reaping says when orphans that have ended by themselves are looked for: not after every run, since to tell
// them from children that somebody waits for takes longer than a short run.
var reaping timer

type timer struct{ last atomic.Int64 }

// due reports whether a tenth of a second has passed since it was last due.
func (t *timer) due() bool {
	now, last := time.Now().UnixNano(), t.last.Load()
	return now-last > int64(100*time.Millisecond) && t.last.CompareAndSwap(last, now)
}

// startedHere reports whether a child of this process was started by it and not orphaned, or may have been.
func startedHere(pid int) bool {
	held, err := held.get(holding)
	return err != nil || held[pid]
}

// executed is the program that this process runs.
var executed = sync.OnceValue(func() string {
	exe, _ := os.Readlink("/proc/self/exe")
	return exe
})

// session is the session of this process, in which no process of a run is.
var session = sync.OnceValue(func() int {
	sid, _ := unix.Getsid(0)
	return sid
})

// holding returns the processes that this process has a descriptor open on: os.StartProcess was it that started
// them. It is an error where that cannot be known: the kernel has such descriptors since 5.4.
func holding() (map[int]bool, error) {
	if !havePidfd() {
		return nil, os.ErrNoHandle
	}
	infos, err := filepath.Glob("/proc/self/fdinfo/[0-9]*")
	if err != nil || len(infos) == 0 {
		return nil, errors.Join(err, os.ErrNotExist)
	}
	held := make(map[int]bool)
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
				if pid, err := strconv.Atoi(strings.TrimSpace(pid)); err == nil {
					held[pid] = true
				}
			}
		}
	}
	return held, nil
}

var havePidfd = sync.OnceValue(func() bool {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return false
	}
	defer self.Release()
	return self.WithHandle(func(uintptr) {}) == nil
})

// leaders are the leaders of the runs of every subreaper of this process, from start until after their reaping.
var leaders pidSet

// pidSet counts: the next leader may get the number of one that was reaped before that one is removed.
type pidSet struct {
	mu   sync.Mutex
	pids map[int]int
}

func (s *pidSet) add(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pids == nil {
		s.pids = make(map[int]int)
	}
	s.pids[pid]++
}

func (s *pidSet) remove(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pids[pid]--; s.pids[pid] <= 0 {
		delete(s.pids, pid)
	}
}

func (s *pidSet) has(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pids[pid] > 0
}

package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// near is the agent's process, seen from this one.
type near struct {
	dir    *os.File // of it in /proc: it is nobody else's when the process has gone and its number is another's
	pipefs uint64   // the file system of every pipe of this kernel
}

// Near has the output of commands read here, straight from their pipes, and not by the agent and the engine. pid is
// that of the agent as the engine knows it, in the container of that id. An error says why that cannot be; then
// nothing has changed.
func (s *Session) Near(pid int, id string) error {
	n, err := look(pid, id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		n.close()
		return s.err
	}
	s.near = n
	// The agent has been wiped, and so has said which pipes come next: whether they can be had is seen now.
	if s.ready != nil {
		var out [2]*os.File
		if out, err = n.take(*s.ready); err == nil {
			out[0].Close()
			out[1].Close()
			return nil
		}
		n.close()
		s.near = nil
	}
	return err
}

// look finds the process of that number, if the kernel says that it is of that container.
func look(pid int, id string) (_ *near, err error) {
	const idLen = 64
	if pid < 1 || len(id) != idLen {
		return nil, errors.New("the engine does not say which process it is")
	}
	dir, err := os.OpenFile(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("its process is not to be seen from here: %w", err)
	}
	n := &near{dir: dir}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	// An engine elsewhere, or one that counts processes otherwise, means another process by that number.
	fd, err := n.open("cgroup", unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	groups := make([]byte, 16<<10)
	read, err := unix.Read(fd, groups)
	if err != nil || !strings.Contains(string(groups[:max(read, 0)]), id) {
		return nil, fmt.Errorf("process %d is none of the container's, as seen from here", pid)
	}
	n.pipefs, err = pipefs()
	return n, err
}

// pipefs returns the device that all pipes of this kernel are on.
func pipefs() (uint64, error) {
	var own [2]int
	if err := unix.Pipe2(own[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(own[0])
	defer unix.Close(own[1])
	var st unix.Stat_t
	err := unix.Fstat(own[0], &st)
	return uint64(st.Dev), err
}

func (n *near) close() { n.dir.Close() }

// open opens a file of the process.
func (n *near) open(name string, flags int) (fd int, err error) {
	raw, err := n.dir.SyscallConn()
	if err != nil {
		return -1, err
	}
	if failed := raw.Control(func(at uintptr) { fd, err = unix.Openat(int(at), name, flags|unix.O_CLOEXEC, 0) }); failed != nil {
		return -1, failed
	}
	return fd, err
}

// take opens the pipes that the agent says it has, for reading.
func (n *near) take(p frame.Pipes) (out [2]*os.File, err error) {
	for i, p := range []frame.Pipe{p.Stdout, p.Stderr} {
		if out[i], err = n.pipe(p); err != nil {
			if i > 0 {
				out[0].Close()
			}
			return out, err
		}
	}
	return out, nil
}

// pipe opens one. What the agent says is believed by nobody: it is first held without being opened, and opened if it is
// a pipe, which no file with a name is, and the one that was named. An open that waits for nobody cannot be held up.
func (n *near) pipe(p frame.Pipe) (*os.File, error) {
	held, err := n.open(fmt.Sprintf("fd/%d", p.FD), unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("its pipes are not to be had from here: %w", err)
	}
	defer unix.Close(held)
	var st unix.Stat_t
	if err := unix.Fstat(held, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || uint64(st.Dev) != n.pipefs || st.Ino != p.Ino {
		return nil, errors.New("what it calls its pipe is another file")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("its pipes are not to be opened from here: %w", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

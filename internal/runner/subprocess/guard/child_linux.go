package guard

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

// Argv0 is the name under which a program is a guard.
const Argv0 = "runnel-guard"

// Var is the variable that marks the processes of a run where no cgroup holds them:
// its value is the worker's token, a hyphen and the number of the run.
const Var = "RUNNEL_TREE"

// What a guard is started for, its first argument; the second is the cgroup or the token.
const (
	modeCgroup = "cgroup"
	modeToken  = "token"
	modeProbe  = "probe"
)

// bye is the worker's last word if it has left nothing.
const bye = "bye"

func init() {
	if len(os.Args) == 0 || os.Args[0] != Argv0 {
		return
	}
	os.Exit(child(os.Args[1:], os.Stdin, os.Stdout))
}

// child is the whole life of a guard process.
func child(args []string, worker io.Reader, ready io.WriteCloser) int {
	// SIGPIPE: the worker may die before it has heard that this guard is ready.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	if len(args) == 0 || args[0] != modeProbe && len(args) != 2 {
		return 2
	}
	closeInherited()
	// Not to keep anything mounted that the worker stood on.
	_ = os.Chdir("/")
	_, _ = ready.Write([]byte("r"))
	ready.Close()
	if args[0] == modeProbe {
		_, _ = io.Copy(io.Discard, worker)
		return 0
	}

	sessions, clean := listen(worker)
	if clean {
		return 0
	}
	var err error
	switch args[0] {
	case modeCgroup:
		err = sweepCgroup(args[1])
	case modeToken:
		err = sweepToken(args[1], sessions)
	default:
		return 2
	}
	if err != nil {
		return 1
	}
	return 0
}

// closeInherited closes what came through exec by accident, a lock or a pipe that others wait on.
// Everything that Go itself opened carries the close-on-exec flag, so what lacks it was not ours.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// listen reads the worker's notes until it is gone: "+PID" and "-PID" for the
// sessions of its runs, bye if it ends in order.
func listen(worker io.Reader) (sessions map[int]bool, clean bool) {
	sessions = make(map[int]bool)
	lines := bufio.NewScanner(worker)
	for lines.Scan() {
		line := lines.Text()
		if line == bye {
			return sessions, true
		}
		if pid, err := strconv.Atoi(strings.TrimLeft(line, "+-")); err == nil && pid > 0 {
			if line[0] == '-' {
				delete(sessions, pid)
			} else {
				sessions[pid] = true
			}
		}
	}
	return sessions, false
}

// A guard gives up on what does not die, a process stuck in a broken disk, after so long.
const patience = 10 * time.Minute

// sweepCgroup kills what is in the worker's cgroup and removes its directories.
func sweepCgroup(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("not a cgroup: " + path)
	}
	deadline := time.Now().Add(patience)
	for {
		c, err := tree.OpenCgroup(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		killErr := c.Kill(time.Second)
		// A child that the worker was about to start when it died may come in between: try again then.
		err = errors.Join(killErr, c.Remove())
		if err == nil || time.Now().After(deadline) {
			return err
		}
		unix.Poll(nil, 5)
	}
}

// sweepToken kills the processes that carry the worker's token, those in the sessions of its runs,
// and what descends from them.
func sweepToken(token string, sessions map[int]bool) error {
	died := tree.Now()
	find := func() ([]tree.Proc, error) {
		procs, err := tree.Procs()
		if err != nil {
			return nil, err
		}
		chosen := make(map[int]bool)
		for pid, p := range procs {
			// A session that began after the worker's death got its number by chance.
			if sessions[p.Session] && p.Start <= died {
				chosen[pid] = true
			} else if value, ok := p.Var(Var); ok && strings.HasPrefix(value, token+"-") {
				chosen[pid] = true
			}
		}
		var found []tree.Proc
		for pid := range tree.Descendants(procs, chosen) {
			if p := procs[pid]; !p.Zombie() && pid != os.Getpid() {
				found = append(found, p)
			}
		}
		return found, nil
	}
	// A child that was being started when the worker died shows its token only once it has been executed.
	for quiet := 0; quiet < 5; quiet++ {
		n, err := tree.KillAll(find, patience)
		if err != nil {
			return err
		}
		if n > 0 {
			quiet = 0
		}
		unix.Poll(nil, 40)
	}
	return nil
}

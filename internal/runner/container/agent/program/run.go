//go:build linux

package main

import (
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// killWithin bounds how long what is left of a command may take to die.
const killWithin = 8 * time.Second

// run runs one command to its end, and ends what it leaves behind.
func (a *agent) run(c frame.Command) frame.End {
	defer a.ended()
	ooms := a.kept.ooms()
	env := merged(a.kept.env, c.Env)
	next := a.next
	a.next = nil
	if next == nil {
		fail("asked for a command before anything else")
	}
	p, err := newPipes(c, next)
	if err != nil {
		fail("pipes: " + err.Error())
	}
	path, missed := find(c.Args[0], c.Dir, env)
	if missed != nil {
		p.closeTheirs()
		p.closeOurs()
		return *missed
	}
	a.kept.adjust(true)
	pid, err := syscall.ForkExec(path, c.Args, &syscall.ProcAttr{
		Dir: c.Dir, Env: env, Files: p.theirs(),
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: []uint32{c.GID}}},
	})
	a.kept.adjust(false)
	p.closeTheirs()
	if err != nil {
		p.closeOurs()
		return unstarted(c.Args[0], err)
	}
	var pumps sync.WaitGroup
	if !c.Direct {
		pumps.Go(func() { a.pump(roomy(p.out), frame.Stdout) })
		pumps.Go(func() { a.pump(roomy(p.err), frame.Stderr) })
	}
	if in := a.begun(pid); in != nil {
		pumps.Go(func() { in.feed(p.in) })
	}
	ws := reap(pid)
	a.ended()
	killAll()
	if p.in != nil {
		p.in.Close() // ends a write under way
	}
	pumps.Wait()
	end := frame.End{How: frame.Exited, Code: byte(ws.ExitStatus()), OOM: a.kept.ooms() > ooms, Artifacts: holds(frame.Artifacts), Workspace: holds(frame.Workspace)}
	if ws.Signaled() {
		end.How, end.Code = frame.Signalled, byte(ws.Signal())
	}
	return end
}

// reap waits for the end of one process, and for all that end before it: orphans are process 1's.
func reap(pid int) syscall.WaitStatus {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, syscall.WALL, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fail("wait: " + err.Error())
		case got == pid && (ws.Exited() || ws.Signaled()):
			return ws
		}
	}
}

// killAll returns when there is no process but this one, or ends this one, and with it the container.
func killAll() {
	late := time.AfterFunc(killWithin, func() { fail("a process does not die") })
	defer late.Stop()
	for {
		// One pass reaches all: a fork under way is undone by the signal.
		if err := syscall.Kill(-1, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			fail("kill: " + err.Error())
		}
		if _, err := syscall.Wait4(-1, nil, syscall.WALL, nil); err == syscall.ECHILD {
			return
		}
	}
}

// begun notes that the command runs, passes on what came for it before, and returns its input.
func (a *agent) begun(pid int) *input {
	a.mu.Lock()
	a.pid = pid
	early, in := a.early, a.input
	a.early = nil
	a.mu.Unlock()
	for _, s := range early {
		a.signal(s)
	}
	return in
}

// ended notes that no command runs: what is still on its way to it is for nobody.
func (a *agent) ended() {
	a.mu.Lock()
	in := a.input
	a.open, a.pid, a.early, a.input = false, 0, nil, nil
	a.mu.Unlock()
	if in != nil {
		in.stop()
	}
}

// signal passes a signal on to the group of the command that runs. KILL is for everything.
func (a *agent) signal(s syscall.Signal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.open:
	case a.pid == 0:
		a.early = append(a.early, s)
	case s == syscall.SIGKILL:
		_ = syscall.Kill(-1, s)
	case syscall.Kill(-a.pid, s) != nil:
		_ = syscall.Kill(a.pid, s)
	}
}

// pump passes output on to its end.
func (a *agent) pump(from *os.File, t frame.Type) {
	defer from.Close()
	buf := make([]byte, frame.Header+frame.Piece)
	for {
		n, err := from.Read(buf[frame.Header:])
		if n > 0 {
			frame.PutHeader(buf, t, n)
			a.send(buf[:frame.Header+n])
		}
		if err != nil {
			return
		}
	}
}

// outputs are the pipes of a command's output: what is read from, and what is written to.
type outputs struct{ out, err [2]int }

// newOutputs makes those of a command that is not known yet, and says where the worker finds them.
func newOutputs() (*outputs, frame.Pipes, error) {
	o, named := &outputs{}, frame.Pipes{}
	for _, pipe := range []struct {
		fds   *[2]int
		named *frame.Pipe
	}{{&o.out, &named.Stdout}, {&o.err, &named.Stderr}} {
		if err := syscall.Pipe2(pipe.fds[:], syscall.O_CLOEXEC); err != nil {
			return nil, named, err
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(pipe.fds[0], &st); err != nil {
			return nil, named, err
		}
		*pipe.named = frame.Pipe{FD: uint32(pipe.fds[0]), Ino: st.Ino}
	}
	return o, named, nil
}

// pipes are those of one command: our ends, and its.
type pipes struct {
	in, out, err *os.File // in is nil without input, and the others where the worker has them
	its          []int
}

func newPipes(c frame.Command, o *outputs) (*pipes, error) {
	p := &pipes{}
	if c.Stdin {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			return nil, err
		}
		if err := p.give(c, fds[0]); err != nil {
			return nil, err
		}
		p.in = pollable(fds[1])
	} else {
		null, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		p.its = append(p.its, null)
	}
	for _, end := range []struct {
		fds [2]int
		our **os.File
	}{{o.out, &p.out}, {o.err, &p.err}} {
		if err := p.give(c, end.fds[1]); err != nil {
			return nil, err
		}
		if c.Direct {
			_ = syscall.Close(end.fds[0]) // so that it is told when nobody reads
		} else {
			*end.our = pollable(end.fds[0])
		}
	}
	return p, nil
}

// give makes the end of a pipe the command's own, which may open it again as /dev/stdout.
func (p *pipes) give(c frame.Command, fd int) error {
	p.its = append(p.its, fd)
	return syscall.Fchown(fd, int(c.UID), int(c.GID))
}

func (p *pipes) theirs() []uintptr {
	return []uintptr{uintptr(p.its[0]), uintptr(p.its[1]), uintptr(p.its[2])}
}

func (p *pipes) closeTheirs() {
	for _, fd := range p.its {
		_ = syscall.Close(fd)
	}
}

func (p *pipes) closeOurs() {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		if f != nil {
			f.Close()
		}
	}
}

// merged sets variables over others.
func merged(base, over []string) []string {
	set := make(map[string]bool, len(over))
	for _, v := range over {
		name, _, _ := strings.Cut(v, "=")
		set[name] = true
	}
	all := make([]string, 0, len(base)+len(over))
	for _, v := range base {
		if name, _, _ := strings.Cut(v, "="); !set[name] {
			all = append(all, v)
		}
	}
	return append(all, over...)
}

// find returns the program of a name, as execvp does.
func find(name, dir string, env []string) (string, *frame.End) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, v := range env {
		if rest, ok := strings.CutPrefix(v, "PATH="); ok {
			path = rest
		}
	}
	why := syscall.ENOENT
	for _, d := range strings.Split(path, ":") {
		if !strings.HasPrefix(d, "/") {
			d = dir + "/" + d
		}
		file := d + "/" + name
		var st syscall.Stat_t
		if syscall.Stat(file, &st) != nil {
			continue
		}
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0 {
			return file, nil
		}
		why = syscall.EACCES
	}
	end := unstarted(name, why)
	return "", &end
}

// unstarted tells a program that is not there from one that cannot be executed.
func unstarted(name string, err error) frame.End {
	end := frame.End{How: frame.NotExec, Text: name[:min(len(name), 512)] + ": " + err.Error()}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		end.How = frame.NotFound
	}
	return end
}

// input is what a command reads: bytes on their way, within the credit.
type input struct {
	a *agent

	mu   sync.Mutex
	news sync.Cond
	next []byte
	held int  // of the credit
	end  bool // no more comes
	over bool // no more is wanted
}

func newInput(a *agent) *input {
	in := &input{a: a}
	in.news.L = &in.mu
	return in
}

func (in *input) push(data []byte, end bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over {
		return
	}
	if in.held += len(data); in.held > frame.Window || in.end {
		fail("more input than it gave credit for")
	}
	in.next, in.end = append(in.next, data...), end
	in.news.Signal()
}

// feed writes what comes, until it ends or nobody reads it any more.
func (in *input) feed(to *os.File) {
	defer to.Close()
	var data []byte
	owed := 0
	for {
		in.mu.Lock()
		for len(in.next) == 0 && !in.end && !in.over {
			in.news.Wait()
		}
		data, in.next = in.next, data[:0]
		if in.over || len(data) == 0 {
			in.mu.Unlock()
			return
		}
		in.mu.Unlock()
		_, err := to.Write(data)
		in.mu.Lock()
		in.held -= len(data)
		in.over = in.over || err != nil
		over := in.over
		in.mu.Unlock()
		if over {
			return
		}
		if owed += len(data); owed >= frame.Window/4 {
			in.a.send(frame.Append(nil, frame.Credit, frame.AppendCredit(nil, owed)))
			owed = 0
		}
	}
}

// stop ends feed.
func (in *input) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.over = true
	in.news.Signal()
}

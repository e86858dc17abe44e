package tree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proc is what /proc/PID/stat says of a process.
type Proc struct {
	PID, Parent, Group, Session int
	State                       byte
	Threads                     int
	// Forked says that it has not executed a program since its fork.
	Forked bool
	// Start is when it began, in clock ticks since the machine did. With PID it names a process for good.
	Start uint64
}

// Zombie reports whether the process has ended and waits to be reaped. One whose first thread
// has ended, and others have not, lives on.
func (p Proc) Zombie() bool { return (p.State == 'Z' || p.State == 'X') && p.Threads <= 1 }

// ParseStat reads the content of /proc/PID/stat.
func ParseStat(stat []byte) (Proc, error) {
	// "PID (name) S ppid pgrp session ...": the name may hold spaces and parentheses itself, so the last one counts.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return Proc{}, fmt.Errorf("no name in parentheses: %.80q", stat)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(stat[:open])))
	if err != nil || pid <= 0 {
		return Proc{}, fmt.Errorf("no process id: %.80q", stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const state, parent, group, session, flags, threads, start = 0, 1, 2, 3, 6, 17, 19
	if len(fields) <= start || len(fields[state]) != 1 {
		return Proc{}, fmt.Errorf("too few fields: %.80q", stat)
	}
	p := Proc{PID: pid, State: fields[state][0]}
	for at, to := range map[int]*int{parent: &p.Parent, group: &p.Group, session: &p.Session, threads: &p.Threads} {
		if *to, err = strconv.Atoi(fields[at]); err != nil {
			return Proc{}, fmt.Errorf("field %d: %w", at+3, err)
		}
	}
	bits, err := strconv.ParseUint(fields[flags], 10, 64)
	if err != nil {
		return Proc{}, fmt.Errorf("field %d: %w", flags+3, err)
	}
	const forkNoExec = 0x40 // PF_FORKNOEXEC
	p.Forked = bits&forkNoExec != 0
	if p.Start, err = strconv.ParseUint(fields[start], 10, 64); err != nil {
		return Proc{}, fmt.Errorf("field %d: %w", start+3, err)
	}
	return p, nil
}

// ReadProc returns what is known of a process; an error means mostly that it is gone.
func ReadProc(pid int) (Proc, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Proc{}, err
	}
	return ParseStat(stat)
}

// Procs returns every process that can be seen, by id. One that ends meanwhile may be left out.
func Procs() (map[int]Proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	procs := make(map[int]Proc, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := ReadProc(pid); err == nil {
			procs[pid] = p
		}
	}
	return procs, nil
}

// Children returns the direct children of this process, zombies too. The kernel may leave one out
// while others end. It is an error where the kernel does not tell at all.
func Children() ([]int, error) {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	tasks, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	told := false
	for _, task := range tasks {
		list, err := os.ReadFile("/proc/self/task/" + task + "/children")
		if err != nil {
			continue // a thread that ended; its children went to another
		}
		told = true
		pids = append(pids, ParsePIDs(list)...)
	}
	if !told {
		return nil, errors.New("this kernel does not tell children")
	}
	return pids, nil
}

// Var returns the value of a variable in the environment with which the process was
// started. It is not known of another user's process, nor of a zombie.
func (p Proc) Var(name string) (value string, ok bool) {
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
	if err != nil {
		return "", false
	}
	return Lookup(environ, name)
}

// Lookup finds a variable in the content of /proc/PID/environ. The first one counts.
func Lookup(environ []byte, name string) (value string, ok bool) {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if key, value, ok := bytes.Cut(entry, []byte{'='}); ok && string(key) == name {
			return string(value), true
		}
	}
	return "", false
}

// Link returns what a link below /proc/PID shows: "cwd", "fd/1". It is "" where it cannot be read.
func (p Proc) Link(name string) string {
	target, _ := os.Readlink("/proc/" + strconv.Itoa(p.PID) + "/" + name)
	return target
}

// Descendants returns the ids of those in procs that the chosen ones are ancestors of, and the chosen ones.
func Descendants(procs map[int]Proc, chosen map[int]bool) map[int]bool {
	found := make(map[int]bool, len(chosen))
	for pid := range chosen {
		found[pid] = true
	}
	for grown := true; grown; {
		grown = false
		for pid, p := range procs {
			if !found[pid] && found[p.Parent] {
				found[pid], grown = true, true
			}
		}
	}
	return found
}

// Signal sends sig to the process that p was read from, and never to another that has got its id since.
// One that is gone is no error.
func (p Proc) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if errors.Is(err, unix.ENOSYS) {
		return p.signalByID(sig)
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// What the descriptor holds is the process that has the id now: see that it is the one meant.
	if now, err := ReadProc(p.PID); err != nil || now.Start != p.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", p.PID, err)
	}
	return nil
}

// signalByID is for kernels before 5.3. Between the look and the kill, microseconds, the id could change hands.
func (p Proc) signalByID(sig unix.Signal) error {
	if now, err := ReadProc(p.PID); err != nil || now.Start != p.Start {
		return nil
	}
	if err := unix.Kill(p.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", p.PID, err)
	}
	return nil
}

// WaitGone waits until the processes have ended (a zombie has), or for as long as wait.
func WaitGone(procs []Proc, wait time.Duration) {
	deadline := time.Now().Add(wait)
	for _, p := range procs {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ENOSYS) {
			unix.Poll(nil, 5) // a kernel before 5.3: the caller looks again
			continue
		}
		if err != nil {
			continue
		}
		for {
			left := time.Until(deadline)
			if now, err := ReadProc(p.PID); left <= 0 || err != nil || now.Start != p.Start {
				break
			}
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(1, left.Milliseconds())))
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		unix.Close(fd)
	}
}

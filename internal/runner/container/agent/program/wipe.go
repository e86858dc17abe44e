//go:build linux

package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// surroundings is what the agent found at its start.
type surroundings struct {
	env    []string
	mounts string   // what is mounted
	places []string // directories in memory where others than root may leave something
	oom    *os.File // where the kernel counts whom it killed, or nil
	adj    *os.File // how soon this process is killed for want of memory, or nil
	before []byte   // what that said
}

// look notes the surroundings.
func (a *agent) look() error {
	k := &a.kept
	k.env = os.Environ()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	k.mounts = string(mounts)
	for line := range strings.Lines(k.mounts) {
		// 36 35 98:0 /root /place options... - type source options
		front, back, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(front), strings.Fields(back)
		if len(fields) < 6 || len(kind) < 1 || kind[0] != "tmpfs" && kind[0] != "mqueue" {
			continue
		}
		place := fields[4]
		var st syscall.Stat_t
		if err := syscall.Stat(place, &st); err != nil {
			return err
		}
		if st.Mode&syscall.S_IFMT == syscall.S_IFDIR && (st.Uid != 0 || st.Mode&0o022 != 0) {
			k.places = append(k.places, place)
		}
	}
	for _, name := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		if f, err := os.Open(name); err == nil {
			k.oom = f
			break
		}
	}
	if f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_RDWR, 0); err == nil {
		k.adj = f
		buf := make([]byte, 16)
		n, _ := f.ReadAt(buf, 0)
		k.before = buf[:n]
	}
	return nil
}

// ooms is how many processes of the container the kernel has killed for want of memory.
func (k *surroundings) ooms() int {
	if k.oom == nil {
		return 0
	}
	var buf [512]byte
	n, _ := k.oom.ReadAt(buf[:], 0)
	for line := range strings.Lines(string(buf[:n])) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			total, _ := strconv.Atoi(strings.TrimSpace(count))
			return total
		}
	}
	return 0
}

// adjust has the kernel prefer what is started now to anything else, or back.
func (k *surroundings) adjust(prefer bool) {
	if k.adj == nil {
		return
	}
	text := k.before
	if prefer {
		text = []byte("1000")
	}
	_, _ = k.adj.WriteAt(text, 0)
}

// wipe leaves the container as it was before anything ran in it, or says what stands against it.
func (a *agent) wipe(who frame.Owner) error {
	killAll()
	if err := alone(); err != nil {
		return err
	}
	for _, place := range a.kept.places {
		if err := clear(place, ""); err != nil {
			return err
		}
	}
	if err := clear(frame.Root, frame.Program); err != nil {
		return err
	}
	if err := errors.Join(os.Lchown(frame.Root, 0, 0), os.Chmod(frame.Root, 0o755)); err != nil {
		return err
	}
	for _, name := range []string{frame.Workspace, frame.Artifacts} {
		name = frame.Root + "/" + name
		if err := errors.Join(os.Mkdir(name, 0o700), os.Lchown(name, int(who.UID), int(who.GID))); err != nil {
			return err
		}
	}
	if err := clearIPC(); err != nil {
		return err
	}
	if now, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(now) != a.kept.mounts {
		return errors.New("what is mounted has changed")
	}
	return nil
}

// alone returns once there is no process beside this one. What came from outside takes a moment to go.
func alone() error {
	for until := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		d, err := os.Open("/proc")
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(-1)
		d.Close()
		if err != nil {
			return err
		}
		others := slices.ContainsFunc(names, func(name string) bool {
			return name != "1" && name[0] >= '0' && name[0] <= '9'
		})
		switch {
		case !others:
			return nil
		case time.Now().After(until):
			return errors.New("a process is left")
		}
	}
}

// clear removes what is in a directory, but one name.
func clear(place, but string) error {
	d, err := os.Open(place)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		removed := false
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if name == but {
				continue
			}
			if err := os.RemoveAll(place + "/" + name); err != nil {
				return err
			}
			removed = true
		}
		switch {
		case err != nil && err != io.EOF:
			return err
		case !removed && err == io.EOF:
			return nil
		case err == io.EOF:
			// What is removed while a directory is read may hide what was not: look again.
			if _, err := d.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
}

// clearIPC removes the objects of System V, which belong to nobody's life.
func clearIPC() error {
	for _, kind := range []struct {
		name, id string
		remove   func(id uintptr) error
	}{
		{"shm", "shmid", func(id uintptr) error { return control(syscall.SYS_SHMCTL, id, 0, 0) }},
		{"msg", "msqid", func(id uintptr) error { return control(syscall.SYS_MSGCTL, id, 0, 0) }},
		{"sem", "semid", func(id uintptr) error { return control(syscall.SYS_SEMCTL, id, 0, 0) }},
	} {
		list, err := os.ReadFile("/proc/sysvipc/" + kind.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var head []string
		for line := range strings.Lines(string(list)) {
			fields := strings.Fields(line)
			if head == nil {
				head = fields
				continue
			}
			id, err := column(head, fields, kind.id)
			if err != nil {
				return err
			}
			maker, err := column(head, fields, "cuid")
			if err != nil {
				return err
			}
			if err := as(maker, func() error { return kind.remove(uintptr(id)) }); err != nil {
				return errors.New("System V " + kind.name + ": " + err.Error())
			}
		}
	}
	return nil
}

func column(head, fields []string, name string) (int, error) {
	i := slices.Index(head, name)
	if i < 0 || i >= len(fields) {
		return 0, errors.New("System V: no " + name)
	}
	return strconv.Atoi(fields[i])
}

// control is the removal of an object: IPC_RMID is 0. For shared memory and queues it is the second argument, for
// semaphores the third after their number, which is 0 as well.
func control(call, id, a, b uintptr) error {
	if _, _, errno := syscall.RawSyscall6(call, id, a, b, 0, 0, 0); errno != 0 && errno != syscall.EINVAL && errno != syscall.EIDRM {
		return errno
	}
	return nil
}

// as does something as another user, on this thread alone: only the maker of such an object, or one who may do
// anything at all, can remove it.
func as(uid int, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const same = ^uintptr(0)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return errno
	}
	err := do()
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, 0, same); errno != 0 {
		fail("to be root again: " + errno.Error())
	}
	return err
}

//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// mess TOKEN KIND... leaves something behind in each of these ways, with the token in it, and ends well if it could.
func mess(args []string) int {
	token := args[0]
	signal.Ignore(syscall.SIGUSR1) // from what it has started itself
	for _, kind := range args[1:] {
		if err := messes[kind](token); err != nil {
			fmt.Println("mess", kind, err)
			return 1
		}
	}
	fmt.Println("messed", token)
	return 0
}

var messes = map[string]func(token string) error{
	// A daemon: its parent is gone, and it has a session of its own.
	"daemon": func(token string) error {
		c := exec.Command("/job", "haunt", "again", token)
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return c.Run()
	},
	// One that keeps the output open.
	"holder": func(token string) error {
		c := exec.Command("/job", "haunt", token)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		return c.Start()
	},
	"files": func(token string) error {
		for _, dir := range []string{"/runnel/workspace", "/runnel/artifacts", "/tmp", "/dev/shm"} {
			if err := os.WriteFile(filepath.Join(dir, "of-"+token), []byte(token), 0o666); err != nil {
				return err
			}
		}
		return nil
	},
	"locked": func(token string) error {
		for _, dir := range []string{"/runnel/workspace", "/runnel/artifacts", "/tmp", "/dev/shm"} {
			at := filepath.Join(dir, "locked-"+token)
			if err := os.MkdirAll(at+"/in", 0o700); err != nil {
				return err
			}
			for _, name := range []string{"/in/file", "/file"} {
				if err := os.WriteFile(at+name, []byte(token), 0o000); err != nil {
					return err
				}
			}
			if err := os.Chmod(at+"/in", 0); err != nil {
				return err
			}
			if err := os.Chmod(at, 0); err != nil {
				return err
			}
			if err := os.Chmod(dir, 0); err != nil && strings.HasPrefix(dir, "/runnel") {
				return err
			}
		}
		return nil
	},
	"deep": func(token string) error {
		if err := os.Chdir("/tmp"); err != nil {
			return err
		}
		for range 600 {
			name := "deep-" + token
			if err := os.Mkdir(name, 0o700); err != nil {
				return err
			}
			if err := os.Chdir(name); err != nil {
				return err
			}
		}
		return nil
	},
	"links": func(token string) error {
		for i, to := range []string{"/", "/runnel", "/proc/1/root", "/runnel/.agent", "/dev"} {
			if err := os.Symlink(to, "/runnel/artifacts/to-"+token+strconv.Itoa(i)); err != nil {
				return err
			}
			if err := os.Symlink(to, "/tmp/to-"+token+strconv.Itoa(i)); err != nil {
				return err
			}
		}
		return nil
	},
	"ipc": func(string) error {
		for _, call := range [][4]uintptr{
			{syscall.SYS_SHMGET, 4711, 4096, 0o1666}, {syscall.SYS_MSGGET, 4712, 0o1666}, {syscall.SYS_SEMGET, 4713, 3, 0o1666},
		} {
			if _, _, errno := syscall.Syscall(call[0], call[1], call[2], call[3]); errno != 0 {
				return errno
			}
		}
		return nil
	},
	"mqueue": func(token string) error {
		name := append([]byte("of-"+token), 0)
		_, _, errno := syscall.Syscall6(mqOpen, uintptr(unsafe.Pointer(&name[0])), syscall.O_CREAT|syscall.O_RDWR, 0o666, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	},
	"process": func(token string) error {
		syscall.Umask(0o077)
		_ = os.Setenv("TOKEN", token)
		for _, what := range []int{syscall.RLIMIT_NOFILE, syscall.RLIMIT_FSIZE, syscall.RLIMIT_CORE, syscall.RLIMIT_AS} {
			var limit syscall.Rlimit
			if err := syscall.Getrlimit(what, &limit); err != nil {
				return err
			}
			limit.Cur, limit.Max = limit.Cur/2, limit.Max/2
			_ = syscall.Setrlimit(what, &limit)
		}
		return syscall.Setpriority(syscall.PRIO_USER, 0, 10)
	},
	"closed": func(string) error {
		_ = syscall.Close(0)
		_ = syscall.Close(1)
		return syscall.Close(2)
	},
	"signals": func(string) error {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
		for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1} {
			_ = syscall.Kill(-1, s)
			_ = syscall.Kill(1, s)
		}
		return nil
	},
	// Frames of the agent's own, wherever a number might lead to it.
	"frames": func(string) error {
		frames := []byte{11, 0, 0, 4, 0, 0, 0, 0, 12, 0, 0, 0}
		for fd := 3; fd < 256; fd++ {
			_, _ = syscall.Write(fd, frames)
		}
		for fd := range 64 {
			if f, err := os.OpenFile("/proc/1/fd/"+strconv.Itoa(fd), os.O_WRONLY, 0); err == nil {
				_, _ = f.Write(frames)
				f.Close()
				return fmt.Errorf("the agent's descriptor %d can be opened", fd)
			}
		}
		return nil
	},
}

// haunt [again] TOKEN looks for what the next one has, and marks what it finds. With again it leaves that to a child.
func haunt(args []string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if args[0] == "again" {
		c := exec.Command("/job", "haunt", args[1])
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if c.Start() != nil {
			return 1
		}
		return 0
	}
	for range 100_000 {
		found, _ := filepath.Glob("/runnel/workspace/*")
		for _, name := range found {
			data, _ := os.ReadFile(name)
			_ = os.WriteFile("/runnel/artifacts/haunted-"+args[0], data, 0o666)
		}
		_ = os.WriteFile("/tmp/haunted-"+args[0], []byte(args[0]), 0o666)
		_ = syscall.Kill(-1, syscall.SIGUSR1)
		time.Sleep(time.Millisecond)
	}
	return 0
}

// traces prints all that there is beside what a first job finds: nothing.
func traces([]string) int {
	for _, dir := range []string{"/runnel/workspace", "/runnel/artifacts", "/tmp", "/dev/shm", "/dev/mqueue"} {
		names, err := os.ReadDir(dir)
		if err != nil {
			fmt.Println("trace", dir, err)
		}
		for _, name := range names {
			if name.Name() != "given" {
				fmt.Println("trace", dir, name)
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if id := filepath.Base(p); id != "1" && id != strconv.Itoa(os.Getpid()) {
			fmt.Println("trace process", id)
		}
	}
	for _, kind := range []string{"shm", "msg", "sem"} {
		data, _ := os.ReadFile("/proc/sysvipc/" + kind)
		if n := strings.Count(string(data), "\n"); n > 1 {
			fmt.Println("trace", string(data))
		}
	}
	if mask := syscall.Umask(0o022); mask != 0o022 {
		fmt.Printf("trace umask %o\n", mask)
	}
	if n, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); n != 20 || err != nil {
		fmt.Println("trace priority", n, err)
	}
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "CapInh", "CapPrm", "CapEff", "CapAmb":
			if strings.Trim(value, "\t0") != "" {
				fmt.Println("trace", line)
			}
		case "Groups", "SigIgn":
			if value = strings.TrimSpace(value); value != "" && strings.Trim(value, "0") != "" && value != "1000" {
				fmt.Println("trace", line)
			}
		}
	}
	open, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range open {
		to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		// Not what the runtime of Go opens for itself, nor the directory that is being read.
		if n := number(fd.Name()); n > 2 && to != "" && !strings.HasPrefix(to, "/sys/fs/cgroup/cpu") && !strings.HasPrefix(to, "anon_inode:[event") {
			fmt.Println("trace descriptor", n, to)
		}
	}
	limits, _ := os.ReadFile("/proc/self/limits")
	lines := strings.Split(string(limits), "\n")
	sort.Strings(lines)
	for _, line := range append(lines, os.Environ()...) {
		fmt.Println("same", line)
	}
	wd, err := os.Getwd()
	fmt.Println("same", wd, err)
	for _, name := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if f, err := os.OpenFile(name, os.O_WRONLY, 0); err != nil && name != "/dev/stdin" {
			fmt.Println("trace", err)
		} else if err == nil {
			f.Close()
		}
	}
	return 0
}

// visit TOKEN KIND... prints what it was given and what traces there are of others, and leaves a mess.
func visit(args []string) int {
	given, err := os.ReadFile("/runnel/workspace/given")
	fmt.Println("given", string(given), err)
	in, err := io.ReadAll(os.Stdin)
	fmt.Println("input", string(in), err)
	traces(nil)
	return mess(args)
}

// attack tries what would be the end of an agent that shares a container, and prints what was not refused.
func attack([]string) int {
	bad := 0
	for name, try := range map[string]func() error{
		"signal it":        func() error { return syscall.Kill(1, syscall.SIGKILL) },
		"stop it":          func() error { return syscall.Kill(1, syscall.SIGSTOP) },
		"trace it":         func() error { return syscall.PtraceAttach(1) },
		"read its memory":  func() error { _, err := os.ReadFile("/proc/1/mem"); return err },
		"read its maps":    func() error { return orEmpty(readable("/proc/1/maps"), "/proc/1/maps") },
		"read its secrets": func() error { _, err := os.ReadFile("/proc/1/environ"); return err },
		"see its files":    func() error { _, err := os.ReadDir("/proc/1/fd"); return err },
		"see its root":     func() error { _, err := os.ReadDir("/proc/1/root"); return err },
		"read by a call": func() error {
			buf := make([]byte, 8)
			local := syscall.Iovec{Base: &buf[0], Len: 8}
			remote := syscall.Iovec{Base: &buf[0], Len: 8}
			if _, _, errno := syscall.Syscall6(processVMReadv, 1, uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0); errno != 0 {
				return errno
			}
			return nil
		},
		"spare it the killer": func() error { return os.WriteFile("/proc/1/oom_score_adj", []byte("1000"), 0) },
		"slow it down":        func() error { return syscall.Setpriority(syscall.PRIO_PROCESS, 1, 19) },
		"write over it":       func() error { return os.WriteFile("/runnel/.agent", nil, 0o755) },
		"remove it":           func() error { return os.Remove("/runnel/.agent") },
		"put itself there":    func() error { return os.Rename("/runnel/workspace", "/runnel/other") },
		"become it":           func() error { return exec.Command("/runnel/.agent").Run() },
		"become root":         func() error { return syscall.Setuid(0) },
		"become root by file": suid,
		"have a namespace":    func() error { return syscall.Unshare(syscall.CLONE_NEWUSER) },
	} {
		if err := try(); err == nil {
			fmt.Println("NOT REFUSED", name)
			bad++
		} else {
			fmt.Println("refused", name, err)
		}
	}
	return bad
}

func readable(path string) error {
	_, err := os.ReadFile(path)
	return err
}

//go:build linux

// Command job is what tests run in containers: one small static program that behaves well or badly as it is told.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "sh" {
		os.Exit(shell(os.Args[1:]))
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "job: no such command: %q\n", os.Args)
		os.Exit(99)
	}
	os.Exit(commands[os.Args[1]](os.Args[2:]))
}

var commands map[string]func(args []string) int

func init() {
	commands = map[string]func([]string) int{
		"exit":    func(args []string) int { return number(args[0]) },
		"say":     say,
		"writes":  writes,
		"echo":    echo,
		"hang":    hang,
		"signal":  func(args []string) int { return signalSelf(number(args[0])) },
		"eat":     eat,
		"feed":    feedChild,
		"env":     env,
		"leave":   leave,
		"look":    look,
		"refused": refused,
		"serve":   serve,
		"fork":    forkBomb,
		"files":   manyFiles,
		"stamp":   stamp,
		"fill":    fill,
		"flood":   flood,
		"pour":    pour,
		"mess":    mess,
		"haunt":   haunt,
		"traces":  traces,
		"attack":  attack,
		"visit":   visit,

		"spawn":     spawn,
		"processes": processes,
	}
}

// shell -ec LINES runs commands of this program, one a line, up to the first that fails.
func shell(args []string) int {
	if len(args) != 2 || args[0] != "-ec" {
		fmt.Fprintf(os.Stderr, "sh: it is -ec and lines, not %q\n", args)
		return 2
	}
	for line := range strings.Lines(args[1]) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if commands[words[0]] == nil {
			fmt.Fprintf(os.Stderr, "sh: %s: not found\n", words[0])
			return 127
		}
		if code := commands[words[0]](words[1:]); code != 0 {
			return code
		}
	}
	return 0
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

// say OUT ERR writes one line to each stream.
func say(args []string) int {
	fmt.Println(args[0])
	fmt.Fprintln(os.Stderr, args[1])
	return 0
}

// writes N [EXIT] writes the pattern of package runnertest to both streams, and ends at once (S29).
func writes(args []string) int {
	n := number(args[0])
	x := uint64(88172645463325252)
	data := make([]byte, 0, n+8)
	for len(data) < n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		data = binary.LittleEndian.AppendUint64(data, x)
	}
	for data = data[:n]; len(data) > 0; {
		piece := data[:min(len(data), 100_000)]
		data = data[len(piece):]
		for _, file := range []*os.File{os.Stdout, os.Stderr} {
			if _, err := file.Write(piece); err != nil {
				return 1
			}
		}
	}
	if len(args) > 1 {
		return number(args[1])
	}
	return 0
}

func echo([]string) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// hang [well|deaf] goes on until it is stopped: well ends with 7 at TERM, deaf does not hear it.
func hang(args []string) int {
	signals := make(chan os.Signal, 1)
	switch {
	case len(args) > 0 && args[0] == "well":
		signal.Notify(signals, syscall.SIGTERM)
	case len(args) > 0 && args[0] == "deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	fmt.Println("ready")
	select {
	case <-signals:
		fmt.Println("bye")
		return 7
	case <-time.After(10 * time.Minute):
		return 0
	}
}

func signalSelf(n int) int {
	signal.Reset()
	_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
	time.Sleep(10 * time.Second)
	return 1
}

// eat MB [late] takes memory and touches it: late, once its input has ended.
func eat(args []string) int {
	if len(args) > 1 {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	var all [][]byte
	for range number(args[0]) {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
	}
	if len(all) == 0 {
		return 1
	}
	return 0
}

// feed MB has a child eat, and does well itself: it goes on until a busy engine, too, has heard of the child's end.
func feedChild(args []string) int {
	err := exec.Command("/job", "eat", args[0]).Run()
	fmt.Println(err)
	time.Sleep(time.Second)
	return 0
}

// env prints the environment, the directory, the ids and the limits.
func env([]string) int {
	dir, err := os.Getwd()
	fmt.Println("dir", dir, err)
	groups, _ := os.Getgroups()
	fmt.Println("ids", os.Geteuid(), os.Getegid(), groups, "pid1", os.Getpid() == 1)
	for _, e := range os.Environ() {
		fmt.Println("env", e)
	}
	return 0
}

// leave makes files of each sort among the artifacts.
func leave(args []string) int {
	dir := os.Getenv("RUNNEL_ARTIFACTS")
	for _, kind := range args {
		var err error
		at := filepath.Join(dir, kind)
		switch kind {
		case "file":
			err = os.WriteFile(at, []byte("content\n"), 0o640)
		case "script":
			err = os.WriteFile(at, []byte("#!/bin/sh\n"), 0o755)
		case "secret":
			err = os.WriteFile(at, []byte("secret\n"), 0o000)
		case "deep":
			if err = os.MkdirAll(at+"/a/b", 0o755); err == nil {
				err = os.WriteFile(at+"/a/b/c", []byte("deep\n"), 0o644)
			}
		case "symlink":
			err = os.Symlink("/etc/passwd", at)
		case "dirlink":
			err = os.Symlink("/etc", at)
		case "hardlink":
			err = os.Link(filepath.Join(dir, "file"), at)
		case "fifo":
			err = syscall.Mkfifo(at, 0o644)
		case "socket":
			_, err = net.Listen("unix", at)
		case "workspace":
			err = os.WriteFile(filepath.Join(os.Getenv("RUNNEL_WORKSPACE"), "made"), []byte("made\n"), 0o644)
		default:
			var size int64
			if size, err = strconv.ParseInt(kind, 10, 64); err == nil {
				var f *os.File
				if f, err = os.Create(filepath.Join(dir, "sized")); err == nil {
					err = f.Truncate(size)
				}
			}
		}
		if err != nil {
			fmt.Println(kind, err)
			return 1
		}
	}
	return 0
}

// look PATH... prints files with their modes and owners.
func look(args []string) int {
	for _, path := range args {
		info, err := os.Lstat(path)
		if err != nil {
			fmt.Println(path, err)
			continue
		}
		sys := info.Sys().(*syscall.Stat_t)
		data := ""
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			data = fmt.Sprintf("%q %v", content, err)
		}
		fmt.Println(path, info.Mode(), sys.Uid, sys.Gid, data)
	}
	return 0
}

// stamp PATH writes there what no other call does, after a moment, and says so on both streams.
func stamp(args []string) int {
	time.Sleep(200 * time.Millisecond)
	text := strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := os.WriteFile(args[0], []byte(text), 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	return say([]string{"stamped " + text, "stamped"})
}

// flood DIR writes files of 1 MiB there until it is stopped.
func flood(args []string) int {
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(args[0], "flood"+strconv.Itoa(i)), make([]byte, 1<<20), 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

// pour N prints what `job flood` of the integration tests does.
func pour(args []string) int {
	block := make([]byte, 1<<20)
	for at, size := 0, number(args[0]); at < size; at += len(block) {
		for i := 0; i < len(block); i += 8 {
			x := uint64((at+i)>>3)*0x9e3779b97f4a7c15 + 0x1234567
			binary.LittleEndian.PutUint64(block[i:], x^x>>29)
		}
		if _, err := os.Stdout.Write(block[:min(len(block), size-at)]); err != nil {
			return 1
		}
	}
	return 0
}

// fill PATH N writes a file of N bytes.
func fill(args []string) int {
	if err := os.WriteFile(args[0], make([]byte, number(args[1])), 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// serve answers HTTP-like on a port until it is stopped.
func serve(args []string) int {
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		fmt.Fprintln(c, "hello")
		c.Close()
	}
}

// refused tries what must be refused, and prints what was not.
func refused([]string) int {
	bad := 0
	for name, try := range attempts {
		if err := try(); err == nil {
			fmt.Println("NOT REFUSED", name)
			bad++
		} else {
			fmt.Println("refused", name, err)
		}
	}
	return bad
}

var attempts = map[string]func() error{
	"write to the image":  func() error { return os.WriteFile("/new", nil, 0o644) },
	"write over the job":  func() error { return os.WriteFile("/job", nil, 0o755) },
	"write to /etc":       func() error { return os.WriteFile("/etc/passwd", nil, 0o644) },
	"write to sysctl":     func() error { return os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0o644) },
	"write to sysrq":      func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0o644) },
	"write to /sys":       func() error { return os.WriteFile("/sys/kernel/profiling", []byte("0"), 0o644) },
	"read kernel memory":  func() error { _, err := os.ReadFile("/proc/kcore"); return orEmpty(err, "/proc/kcore") },
	"become root":         func() error { return syscall.Setuid(0) },
	"become root by file": suid,
	"mount":               func() error { return syscall.Mount("none", "/tmp", "tmpfs", 0, "") },
	"mount namespace":     func() error { return syscall.Unshare(syscall.CLONE_NEWNS) },
	"raw socket":          func() error { return socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP) },
	"packet socket":       func() error { return socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0) },
	"device":              func() error { return syscall.Mknod("/tmp/device", syscall.S_IFBLK|0o666, 8<<8) },
	"change the clock":    func() error { return syscall.Settimeofday(&syscall.Timeval{}) },
	"reboot":              func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) },
	"chroot":              func() error { return syscall.Chroot("/tmp") },
	"network": func() error {
		c, err := net.DialTimeout("tcp", "192.0.2.1:80", 2*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	},
	"interfaces": func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			if i.Flags&net.FlagLoopback == 0 {
				return nil
			}
		}
		return fmt.Errorf("only loopback, %v", err)
	},
	"100 GB file": func() error {
		signal.Ignore(syscall.SIGXFSZ)
		f, err := os.Create(filepath.Join(os.Getenv("RUNNEL_WORKSPACE"), "huge"))
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Truncate(100e9)
	},
	"10^6 files in /tmp": func() error {
		for i := range 1_000_000 {
			if err := os.WriteFile("/tmp/f"+strconv.Itoa(i), nil, 0o600); err != nil {
				return fmt.Errorf("after %d: %w", i, err)
			}
		}
		return nil
	},
	"fill /tmp": func() error {
		f, err := os.Create("/tmp/full")
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		return err
	},
}

func orEmpty(err error, path string) error {
	if err != nil {
		return err
	}
	if data, _ := os.ReadFile(path); len(data) == 0 {
		return fmt.Errorf("%s is empty", path)
	}
	return nil
}

// suid runs this program as a file that belongs to root and says so in its mode.
func suid() error {
	out, err := exec.Command("/suid", "env").Output()
	if err != nil {
		return err
	}
	if strings.Contains(string(out), "ids "+strconv.Itoa(os.Getuid())+" ") {
		return errors.New("still the same user")
	}
	return nil
}

func socket(family, kind, proto int) error {
	fd, err := syscall.Socket(family, kind, proto)
	if err == nil {
		syscall.Close(fd)
	}
	return err
}

// fork starts children until it cannot, and says how many there were.
func forkBomb([]string) int {
	var all []*exec.Cmd
	var err error
	for range 10_000 {
		c := exec.Command("/job", "hang")
		if err = c.Start(); err != nil {
			break
		}
		all = append(all, c)
	}
	fmt.Println(len(all), err)
	for _, c := range all {
		_ = c.Process.Kill()
	}
	if err == nil {
		return 1
	}
	return 0
}

// spawn leaves a process in a session of its own behind.
func spawn([]string) int {
	c := exec.Command("/job", "hang", "deaf")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// processes prints how many there are.
func processes([]string) int {
	all, err := filepath.Glob("/proc/[0-9]*")
	fmt.Println(len(all), err)
	return 0
}

// files N makes N files among the artifacts.
func manyFiles(args []string) int {
	for i := range number(args[0]) {
		if err := os.WriteFile(filepath.Join(os.Getenv("RUNNEL_ARTIFACTS"), strconv.Itoa(i)), nil, 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

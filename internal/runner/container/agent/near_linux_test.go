package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// this is this process, as if it were an agent's.
func this(t *testing.T) *near {
	t.Helper()
	dir, err := os.OpenFile("/proc/self", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := &near{dir: dir}
	t.Cleanup(n.close)
	if n.pipefs, err = pipefs(); err != nil {
		t.Fatal(err)
	}
	return n
}

// stat returns what an agent would say of a file.
func stat(t *testing.T, f *os.File) frame.Pipe {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return frame.Pipe{FD: uint32(f.Fd()), Ino: st.Ino}
}

// The pipes are taken, and nothing else is, whatever an agent says; nothing of it waits for anybody.
func TestOnlyPipesAreTaken(t *testing.T) {
	n := this(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	good := stat(t, r)
	out, err := n.take(frame.Pipes{Stdout: good, Stderr: good})
	if err != nil {
		t.Fatalf("take() = %v", err)
	}
	defer out[0].Close()
	out[1].Close()
	_, _ = w.WriteString("output")
	w.Close()
	r.Close()
	buf := make([]byte, 16)
	if n, err := out[0].Read(buf); string(buf[:n]) != "output" {
		t.Errorf("Read() = %q, %v", buf[:n], err)
	}
	if k, err := out[0].Read(buf); k != 0 || err == nil {
		t.Errorf("Read() at the end = %d, %v", k, err)
	}

	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	listens, err := socket.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listens.Close()
	other := stat(t, out[0])
	other.Ino++
	for name, bad := range map[string]frame.Pipe{
		"another pipe": other, "a file with a name": stat(t, file), "a pipe with a name": stat(t, fifo), "a socket": stat(t, listens), "nothing": {FD: 1<<31 - 1, Ino: good.Ino},
	} {
		before := descriptors(t)
		for _, p := range []frame.Pipes{{Stdout: bad, Stderr: stat(t, out[0])}, {Stdout: stat(t, out[0]), Stderr: bad}} {
			if _, err := n.take(p); err == nil {
				t.Errorf("%s is taken", name)
			}
		}
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d descriptors are open, and were %d", name, after, before)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A process that is not the container's, as the kernel says, is not looked at; one that has gone is nobody else.
func TestOnlyTheContainersProcessIsSeen(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for name, test := range map[string]struct {
		pid  int
		id   string
		want string
	}{
		"another's": {os.Getpid(), id, "none of the container's"},
		"no pid":    {0, id, "does not say"},
		"no id":     {os.Getpid(), "", "does not say"},
		"not here":  {1 << 30, id, "not to be seen"},
	} {
		if n, err := look(test.pid, test.id); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: look() = %v, %v, want %q", name, n, err, test.want)
		}
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	dir, err := os.OpenFile(fmt.Sprintf("/proc/%d", cmd.Process.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := &near{dir: dir}
	defer n.close()
	fd, err := n.open("cgroup", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	in.Close()
	_ = cmd.Wait()
	if fd, err := n.open("cgroup", unix.O_RDONLY); err == nil {
		unix.Close(fd)
		t.Error("a process that has gone is seen")
	}
}

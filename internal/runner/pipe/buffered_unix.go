//go:build linux || darwin

package pipe

import (
	"os"

	"golang.org/x/sys/unix"
)

// buffered returns how many bytes can be read from a pipe at once.
func buffered(pipe *os.File) int {
	n := 0
	conn, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	if err := conn.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), fionread) }); err != nil {
		return 0
	}
	return n
}

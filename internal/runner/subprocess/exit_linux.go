package subprocess

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// waitExit waits for the end of a child and leaves it as a zombie.
func waitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

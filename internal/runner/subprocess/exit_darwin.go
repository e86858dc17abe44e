package subprocess

import (
	"os"
	"syscall"
	"unsafe"
)

// waitExit waits for the end of a child and leaves it as a zombie.
func waitExit(pid int) error {
	const (
		byPID   = 1  // P_PID
		exited  = 4  // WEXITED
		nowait  = 32 // WNOWAIT
		infoLen = 128
	)
	// The kernel writes a siginfo_t, and fails without a place for it.
	var info [infoLen / 8]uint64
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid), uintptr(unsafe.Pointer(&info)), exited|nowait, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != syscall.EINTR {
			return os.NewSyscallError("waitid", errno)
		}
	}
}

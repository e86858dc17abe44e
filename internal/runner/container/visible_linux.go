package container

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// visible returns why this process may not look into the one at the other end.
func visible(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if failed := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); failed != nil {
		return failed
	}
	switch {
	case err != nil:
		return fmt.Errorf("whose the engine's socket is: %w", err)
	case peer.Pid == 0:
		return errors.New("the engine's processes are not to be seen from here, as in a container (--pid host shows them)")
	}
	// The engine has more rights than its containers' agents, into which root may look with no more than theirs.
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", peer.Pid)); err != nil && os.Geteuid() != 0 {
		return fmt.Errorf("the engine's processes may not be looked into, which takes root or CAP_SYS_PTRACE: %w", err)
	}
	return nil
}

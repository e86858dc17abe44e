//go:build unix

package artifacts

import (
	"os"
	"syscall"
)

// openFlags open a regular file that may not be one any more: no link is
// followed, and no FIFO waited for. The worker's descriptors are no child's.
const (
	openFlags    = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	openDirFlags = openFlags | syscall.O_DIRECTORY
)

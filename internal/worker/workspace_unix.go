//go:build unix

package worker

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile opens and locks a file until it is closed, or its holder dies. One that is held is an error.
func lockFile(path string) (*os.File, error) { return flock(path, unix.LOCK_EX|unix.LOCK_NB) }

// waitLock is lockFile, but waits its turn.
func waitLock(path string) (*os.File, error) { return flock(path, unix.LOCK_EX) }

func flock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// untouched reports whether a directory is as os.Mkdir(dir, 0700) leaves it: empty, ours, with that mode and
// no attributes, through which one run could leave word for the next.
func untouched(dir string) bool {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&0o7777 != 0o700 || int(st.Uid) != os.Geteuid() {
		return false
	}
	if n, err := unix.Flistxattr(int(f.Fd()), nil); n > 0 || err != nil && err != unix.ENOTSUP {
		return false
	}
	_, err = f.Readdirnames(1)
	return err == io.EOF
}

// freeBytes is what an account without privileges may still write in a directory's file system.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

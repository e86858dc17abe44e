//go:build !unix

package container

import (
	"errors"
	"io/fs"
	"os"
)

func lockFile(string, bool) (*os.File, error) {
	return nil, errors.New("there are no workers for this system")
}

func full(error) bool { return true }

func diskFree(string) (bytes, names int64) { return 0, 0 }

func onDisk(info fs.FileInfo) int64 { return info.Size() }

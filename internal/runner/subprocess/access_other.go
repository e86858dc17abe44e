//go:build !unix

package subprocess

import "io/fs"

func mayExecute(_ string, info fs.FileInfo) bool { return info.Mode().IsRegular() }

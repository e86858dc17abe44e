//go:build !unix

package artifacts

import "os"

// Systems without links that anybody can make, and without FIFOs in directories.
const (
	openFlags    = os.O_RDONLY
	openDirFlags = os.O_RDONLY
)

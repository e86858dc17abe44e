package subprocess

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// climb returns the best rung that works, or the one of that name, and why the better ones do not.
func climb(name string) (rung, map[string]error, error) {
	open := map[string]func() (rung, error){
		RungCgroup:    func() (rung, error) { return openCgroups() },
		RungSubreaper: func() (rung, error) { return openSubreaper() },
	}
	names := []string{RungCgroup, RungSubreaper}
	if name != "" {
		if open[name] == nil {
			return nil, nil, fmt.Errorf("kill ladder: no rung %q: there are %v", name, names)
		}
		names = []string{name}
	}
	keepDescriptors()
	why := make(map[string]error)
	for _, name := range names {
		rung, err := open[name]()
		if err == nil {
			return rung, why, nil
		}
		why[name] = err
	}
	return nil, nil, fmt.Errorf("kill ladder: no rung works: %v", why)
}

// keepDescriptors marks every descriptor above the three standard ones as not to be inherited.
// Go opens its own like that; what this process inherited, a lock or a socket, would go on to every job.
func keepDescriptors() {
	// Kernels before 5.11 do not know the flag: jobs inherit what the worker did.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
}

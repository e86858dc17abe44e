package subprocess_test

import (
	"fmt"
	"os"
)

// childArgv0 is the name under which the test binary is a job of its own.
const childArgv0 = "test-runnel-child"

// children are what the test binary does as a job.
var children = map[string]func(args []string) int{}

func child(args []string) int {
	if len(args) == 0 || children[args[0]] == nil {
		fmt.Fprintf(os.Stderr, "no child %q\n", args)
		return 2
	}
	return children[args[0]](args[1:])
}

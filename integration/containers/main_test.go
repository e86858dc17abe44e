// Package containers_test runs a fleet whose server and workers are containers, as on machines of their own.
package containers_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/testcontainers/testcontainers-go/log"

	"github.com/runnel-project/runnel/integration/fleet"
)

// silent is where the library tells of what it does.
type silent struct{}

func (silent) Printf(string, ...any) {}

func TestMain(m *testing.M) {
	// What is left over is removed by the tests themselves; the library's own reaper would have to be pulled.
	os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	// The engine is this machine's, also where the tests are in a container: directories are shared with it.
	os.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	log.SetDefault(silent{})
	code := fleet.Main(m)
	if err := unload(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

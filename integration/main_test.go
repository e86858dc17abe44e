package integration_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/fleet"
)

// The test binary is its own nats-server, its own worker and its own submitter.
func TestMain(m *testing.M) { os.Exit(fleet.Main(m)) }

func rounds(t *testing.T, short int) int { return fleet.Rounds(t, short) }

// figure prints what was measured; nothing is asserted on it.
func figure(t *testing.T, name, format string, a ...any) {
	t.Helper()
	t.Attr("figure", name+": "+fmt.Sprintf(format, a...))
}

// second prints how many executions were not the first of their invocation.
func second(t *testing.T, r check.Report) {
	t.Helper()
	figure(t, "executions", "%d, second %d, overlaps %d", r.Executions, r.Second, r.Overlaps)
}

func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }

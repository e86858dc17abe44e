package integration_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/fleet"
)

// The test binary is its own nats-server, its own worker and its own submitter.
func TestMain(m *testing.M) { os.Exit(fleet.Main(m)) }

// rounds is how often a fault run repeats each fault: RUNNEL_ROUNDS (make soak), else short.
func rounds(t *testing.T, short int) int {
	t.Helper()
	text := os.Getenv("RUNNEL_ROUNDS")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RUNNEL_ROUNDS=%q: a number of at least 1", text)
	}
	return n
}

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

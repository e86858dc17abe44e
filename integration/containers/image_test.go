package containers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/testcontainers/testcontainers-go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
)

// The image serves as it is: no user, no directory and no setting is owed to it but the server.
func TestTheWorkersImageServesAsItIs(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.start(testcontainers.ContainerRequest{})
	c := s.Client("default", "")
	ctx, cancel := context.WithTimeout(t.Context(), fleet.Patience)
	defer cancel()
	// The only program that is in it.
	var out strings.Builder
	r, err := c.Run(ctx, runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"worker", "version"}}, runnel.RunOptions{Stdout: &out})
	if err != nil || r.Status != runnel.StatusSucceeded || !strings.HasPrefix(out.String(), "worker ") {
		t.Errorf("Run() = %+v, %v, said %q", r, err, out.String())
	}
	s.stop(b)
}

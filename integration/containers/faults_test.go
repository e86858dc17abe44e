package containers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// faults are what is done to the container of a worker, and how it is made good again.
var faults = map[string]struct {
	begin func(ctx context.Context, s *site, c box) error
	// end returns the worker that goes on.
	end func(ctx context.Context, s *site, c box) (box, error)
}{
	"paused": {
		begin: func(ctx context.Context, s *site, c box) error {
			return s.api.ContainerPause(ctx, c.GetContainerID())
		},
		end: func(ctx context.Context, s *site, c box) (box, error) {
			return c, s.api.ContainerUnpause(ctx, c.GetContainerID())
		},
	},
	"disconnected": {
		begin: func(ctx context.Context, s *site, c box) error {
			return s.api.NetworkDisconnect(ctx, s.network.ID, c.GetContainerID(), false)
		},
		end: func(ctx context.Context, s *site, c box) (box, error) {
			return c, s.api.NetworkConnect(ctx, s.network.ID, c.GetContainerID(), &network.EndpointSettings{})
		},
	},
	"killed": {
		begin: func(ctx context.Context, s *site, c box) error {
			return s.api.ContainerKill(ctx, c.GetContainerID(), "KILL")
		},
		end: func(_ context.Context, s *site, _ box) (box, error) {
			return s.worker(), nil
		},
	},
}

// A worker's container is paused, cut off from its network, and killed, in the middle of jobs: another does them, nothing
// is lost, and what comes back goes on.
func TestAWorkersContainerIs(t *testing.T) {
	for name := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			victim, other := s.worker(), s.worker()
			for range fleet.Rounds(t, 1) {
				victim = s.round(name, victim)
				victim, other = other, victim
			}
			s.AwaitEmpty()
			s.stop(victim)
			s.stop(other)
			report := s.Verify()
			t.Attr("figure", fmt.Sprintf("executions: %d, second %d, overlaps %d", report.Executions, report.Second, report.Overlaps))
		})
	}
}

// round breaks a worker while both are full of jobs, and returns what takes its place.
func (s *site) round(fault string, victim box) box {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*fleet.Patience)
	defer cancel()
	c := s.Client("default", "")
	var jobs []contracts.Invocation
	for range 6 * slots {
		jobs = append(jobs, s.Count("default", s.ID("job"), "-n", "60", "-every", "25ms", "-both", "-files", "1"))
	}
	ended := s.Results()
	s.Submit(c, jobs...)
	for _, inv := range jobs {
		s.Follow(c, "default", inv.ID, inv.ID)
	}
	s.Await("some have ended and both workers are full", fleet.Patience, func(context.Context) (bool, string) {
		done, running := s.Results()-ended, len(s.Running())
		return done > 0 && running == 2*slots, fmt.Sprintf("%d ended, %d run", done, running)
	})
	if err := faults[fault].begin(ctx, s, victim); err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	var held []check.Key
	if fault != "killed" {
		held = s.ExcuseRunning(fault)
	}
	s.AwaitResults(fleet.Patience)
	done := time.Now()
	victim, err := faults[fault].end(ctx, s, victim)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, k := range held {
		s.Excuse(k.Tenant, k.ID, fault) // until now
	}
	again, gap := 0, time.Duration(0)
	for _, at := range s.Second() {
		if at.After(began) {
			again, gap = again+1, max(gap, at.Sub(began))
		}
	}
	s.t.Attr("figure", fmt.Sprintf("%s: %d of 8 that ran began again, the last after %v; all 24 ended after %v", fault, again,
		gap.Round(time.Millisecond), done.Sub(began).Round(time.Millisecond)))
	began = time.Now()
	s.serves(c, victim)
	s.t.Attr("figure", fmt.Sprintf("%s: serves again after %v", fault, time.Since(began).Round(time.Millisecond)))
	return victim
}

// serves waits until a worker that came back has done a job.
func (s *site) serves(c *runnel.Client, b box) {
	s.t.Helper()
	s.Await(b.name+" has done a job", fleet.Patience, func(ctx context.Context) (bool, string) {
		var jobs []contracts.Invocation
		var ids []string
		for range 2 * slots {
			inv := s.Count("default", s.ID("again"), "-n", "10", "-every", "10ms")
			jobs, ids = append(jobs, inv), append(ids, inv.ID)
		}
		s.Submit(c, jobs...)
		by := map[string]int{}
		for r, err := range c.Wait(ctx, ids...) {
			if err != nil {
				return false, err.Error()
			}
			by[r.Worker]++
		}
		return by[b.name] > 0, fmt.Sprintf("%v did them:\n%s", by, s.log(b))
	})
}

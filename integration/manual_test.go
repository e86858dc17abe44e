package integration_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// Three responder processes, one killed over its work: every invocation is answered, and has one result.
func TestManualSurvivesAKilledResponder(t *testing.T) {
	t.Parallel()
	jobs := 600
	if os.Getenv("RUNNEL_ROUNDS") != "" && rounds(t, 1) >= 20 {
		jobs = 10_000
	}
	f := fleet.Start(t, fleet.Config{})
	for range 2 {
		f.StartWorker(fleet.WorkerConfig{Slots: 16})
	}
	var responders []*fleet.Responder
	for range 3 {
		responders = append(responders, f.StartResponder())
	}
	var invs []contracts.Invocation
	ids := make([]string, 0, jobs)
	for range jobs {
		inv := contracts.Invocation{ID: f.ID("ask"), Kind: contracts.KindManual, Name: fleet.EchoName,
			// What was in the dead one's hands is asked of another after three of these.
			Metadata: map[string]string{"manual.heartbeat_seconds": "1"}}
		invs, ids = append(invs, inv), append(ids, inv.ID)
	}
	c := f.Client("default", "")
	began := time.Now()
	f.Submit(c, invs...)
	f.Await("a third is answered", fleet.Patience, func(context.Context) (bool, string) { return f.Results() >= jobs/3, "not yet" })
	responders[0].Kill()
	f.AwaitResults(2 * fleet.Patience)
	took := time.Since(began)
	by, again := map[string]int{}, 0
	for r, err := range c.Wait(t.Context(), ids...) {
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, p := range r.Tail {
			said += string(p.Data)
		}
		if r.Status != contracts.StatusSucceeded || said != r.ID+"\n" && r.Chunks == 0 {
			t.Errorf("%s: %s %s, output %q", r.ID, r.Status, r.Error, said)
		}
		by[r.Metadata["who"]]++
		if info, err := c.Get(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		} else if len(info.Ends) > 0 {
			again++ // its first responder was the one that was killed
		}
	}
	n := 0
	for i, r := range responders {
		n += by[r.ID]
		if by[r.ID] == 0 {
			t.Errorf("responder %d answered nothing: the load is not shared", i)
		}
	}
	if n != jobs {
		t.Errorf("%v answered, want %d by the three", by, jobs)
	}
	figure(t, "answered", "%d in %v by three responders (%d, %d, %d), the first killed; %d asked again",
		jobs, took.Round(time.Millisecond), by[responders[0].ID], by[responders[1].ID], by[responders[2].ID], again)
	second(t, f.Verify())
}

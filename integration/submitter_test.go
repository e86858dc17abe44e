package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// sprung waits until a way was cut where a test wants it.
func sprung(t *testing.T, what string, cut <-chan struct{}) {
	t.Helper()
	select {
	case <-cut:
	case <-time.After(fleet.Patience):
		t.Fatalf("it was never cut %s", what)
	}
}

// kill -9 of a submitter at each step of a submission and of a cancel (the middle of a batch: TestKillSubmitter): what it was at is
// done whole or not at all, and who does it again gets no second run.
func TestKillSubmitterAtItsSteps(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	large := func(id string) contracts.Invocation { // its input is stored beside the queue
		inv := f.Count("default", id)
		inv.Stdin = &contracts.Input{Data: make([]byte, 1<<20)}
		return inv
	}
	submit := func(inv contracts.Invocation) {
		f.Submitted(inv)
		r, err := c.Submit(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		f.Accepted("default", inv.ID, r.Digest)
	}
	for range rounds(t, 1) {
		way, address := f.Proxy()
		inv := large(f.ID("input"))
		cut := way.Trap("PUB runnel.invoke.", 1)
		s := f.StartSubmitter(address, inv)
		sprung(t, "between the input and the invocation", cut)
		s.Kill()
		if _, err := c.Get(t.Context(), inv.ID); err == nil {
			t.Errorf("%s is there", inv.ID)
		}
		submit(inv)

		way, address = f.Proxy()
		inv = large(f.ID("unheard"))
		cut = way.TrapAfter("PUB runnel.invoke.")
		s = f.StartSubmitter(address, inv)
		sprung(t, "before the receipt", cut)
		s.Kill()
		f.Await(inv.ID+" is there", fleet.Patience, func(ctx context.Context) (bool, string) {
			_, err := c.Get(ctx, inv.ID)
			return err == nil, "not yet"
		})
		submit(inv) // is the same

		// Nobody holds it: the canceller stores the result itself, and is killed over it.
		way, address = f.Proxy()
		queued := f.Count("default", f.ID("queued"))
		f.Submit(c, queued)
		cut = way.TrapAfter("PUB runnel.reply.")
		s = f.StartCanceller(address, queued.ID)
		sprung(t, "after the result of a cancel", cut)
		s.Kill()

		w := f.StartWorker(fleet.WorkerConfig{})
		if r := result(t, c, queued.ID, fleet.Patience); r.Status != contracts.StatusCancelled {
			t.Errorf("%s is %s, want cancelled", queued.ID, r.Status)
		}
		if n := f.Executions("default", queued.ID); n != 0 {
			t.Errorf("%s was cancelled and ran %d times", queued.ID, n)
		}
		// Somebody holds it: the request is on its way when its sender dies.
		way, address = f.Proxy()
		running := f.Count("default", f.ID("running"), "-n", "1000", "-every", "100ms", "-daemon")
		f.Submit(c, running)
		awaitRuns(f, running.ID, 2)
		cut = way.TrapAfter("PUB runnel.cancel.")
		s = f.StartCanceller(address, running.ID)
		sprung(t, "after the request of a cancel", cut)
		s.Kill()
		if r := result(t, c, running.ID, fleet.Patience); r.Status != contracts.StatusCancelled || r.Worker != w.Name {
			t.Errorf("%s is %s by %q, want cancelled by %q", running.ID, r.Status, r.Worker, w.Name)
		}
		f.AwaitResults(fleet.Patience)
		f.AwaitEmpty()
		w.Terminate()
		w.Ended(fleet.Patience)
	}
	second(t, f.Verify())
}

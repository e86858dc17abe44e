package queue_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

func TestPresences(t *testing.T) {
	t.Parallel()
	n := queuetest.Server(t)
	nc := n.Connect(t)
	top := queue.Topology{WorkersTTL: 2 * time.Second}
	js := ensured(t, nc, top)
	ctx := context.Background()
	w := queue.NewPresences(nc, top)
	if all, err := w.All(ctx); err != nil || len(all) != 0 {
		t.Fatalf("All() of nobody = %v, %v", all, err)
	}
	for _, name := range []string{"a", "host-1.example.org-4711", "b"} {
		p := contracts.Presence{Name: name, Kinds: []contracts.Kind{"noop"}, Runs: []string{"abcdefgh"}, Slots: 2}
		for range 2 { // the second replaces the first
			if err := w.Put(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := func() (all []string) {
		t.Helper()
		ps, err := w.All(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			all = append(all, p.Name)
		}
		return all
	}
	if got, want := names(), []string{"a", "b", "host-1.example.org-4711"}; !slices.Equal(got, want) {
		t.Errorf("All() = %v, want %v", got, want)
	}
	p, err := w.Get(ctx, "b")
	if err != nil || p.Name != "b" || p.Slots != 2 || !slices.Equal(p.Runs, []string{"abcdefgh"}) {
		t.Errorf("Get() = %+v, %v", p, err)
	}
	for run, want := range map[string]bool{"abcdefgh": true, "hgfedcba": false} {
		if got, err := w.Runs(ctx, "b", run); err != nil || got != want {
			t.Errorf("Runs(b, %s) = %v, %v, want %v", run, got, err, want)
		}
	}
	if got, err := w.Runs(ctx, "nobody", "abcdefgh"); err != nil || got {
		t.Errorf("Runs(nobody) = %v, %v, want false", got, err)
	}
	if err := w.Remove(ctx, "b"); err != nil {
		t.Errorf("Remove() = %v", err)
	}
	if _, err := w.Get(ctx, "b"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Get() of a removed one = %v, want ErrNotFound", err)
	}
	// A newer program's worker is shown, and hides nobody.
	kv, err := js.KeyValue(ctx, top.WorkersBucket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "newer", []byte("\xc1 nobody can read this")); err != nil {
		t.Fatal(err)
	}
	if got, want := names(), []string{"a", "host-1.example.org-4711", "newer"}; !slices.Equal(got, want) {
		t.Errorf("All() = %v, want %v", got, want)
	}
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "é"} {
		if err := w.Put(ctx, contracts.Presence{Name: bad}); err == nil {
			t.Errorf("Put() of the name %q = nil", bad)
		}
	}
	// Nobody says more: the server forgets them.
	eventually(t, "nobody lives", func() bool { return len(names()) == 0 })
}

func TestServerNow(t *testing.T) {
	n := queuetest.Server(t)
	nc := n.Connect(t)
	var top queue.Topology
	ensured(t, nc, top)
	w := queue.NewPresences(nc, top)
	before := time.Now()
	if at := w.Now(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("Now() before a write = %v, want the local time", at)
	}
	if err := w.Put(context.Background(), contracts.Presence{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	// The server is this process: its clock is ours, so what is off is within the time that it took.
	if off, took := time.Until(w.Now()), time.Since(before); off < -took || off > took {
		t.Errorf("Now() is %v off, want within %v", off, took)
	}
}

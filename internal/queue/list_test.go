package queue_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

func TestGet(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	if _, err := s.p.Get(ctx, "j"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Get() of nothing = %v, want ErrNotFound", err)
	}
	receipt, err := s.p.Submit(ctx, contracts.Invocation{ID: "j", Kind: contracts.KindNoop, Name: "n", Labels: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		do   func()
		want string
	}{
		{func() {}, "pending  0 0"},
		{func() { s.start("j", runA) }, "running aaaaaaaa 1 0"},
		{func() { s.end("j", runA, 0, "") }, "pending aaaaaaaa 1 1"},
		{func() { s.start("j", runB) }, "running bbbbbbbb 2 1"},
		{func() { s.result("j", runB, 0, "") }, "succeeded bbbbbbbb 2 1"},
	}
	for i, step := range steps {
		step.do()
		info, err := s.p.Get(ctx, "j")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %d %d", info.Status, info.Run, len(info.Starts), len(info.Ends)); got != step.want {
			t.Errorf("Get() at step %d = %q, want %q", i, got, step.want)
		}
		if i < 4 && (info.Name != "n" || info.Labels["k"] != "v" || info.Digest != receipt.Digest || info.Queued.IsZero() || info.Tenant != "default") {
			t.Errorf("Get() at step %d = %+v, want what the invocation said", i, info)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	for i := range 700 {
		s.result(fmt.Sprintf("e%03d", i), runA, 0, "")
	}
	half := time.Now()
	s.result("e700", runA, 0, "")
	for i := range 300 {
		s.submit(fmt.Sprintf("q%03d", i))
	}
	s.start("q100", runA)
	s.start("q299", runA)
	s.end("q299", runA, 0, "")
	s.result("q298", runA, 0, "") // its message is about to be acked
	if _, err := s.p.Submit(ctx, contracts.Invocation{ID: "other", Kind: contracts.KindSubprocess, Command: []string{"a"}, Labels: map[string]string{"k": "v", "l": "w"}}); err != nil {
		t.Fatal(err)
	}
	list := func(o queue.ListOptions) (all []string) {
		for i, err := range s.p.List(ctx, o) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, i.ID+" "+string(i.Status))
		}
		return all
	}
	all := list(queue.ListOptions{})
	if len(all) != 1002 {
		t.Errorf("List() has %d, want 1002", len(all))
	}
	seen := map[string]bool{}
	for _, l := range all {
		if seen[l] {
			t.Errorf("List() has %s twice", l)
		}
		seen[l] = true
	}
	expect(t, "the first", all[:4], "other pending", "q299 pending", "q297 pending", "q296 pending")
	expect(t, "where the ended ones begin", all[298:303], "q001 pending", "q000 pending", "q298 succeeded", "e700 succeeded", "e699 succeeded")
	expect(t, "the last", all[1001:], "e000 succeeded")
	expect(t, "running ones", list(queue.ListOptions{Status: []contracts.Status{contracts.StatusRunning}}), "q100 running")
	expect(t, "with a limit", list(queue.ListOptions{Limit: 2}), "other pending", "q299 pending")
	expect(t, "ended ones", list(queue.ListOptions{Status: []contracts.Status{contracts.StatusSucceeded}, Limit: 2}), "q298 succeeded", "e700 succeeded")
	expect(t, "of a kind", list(queue.ListOptions{Kind: contracts.KindSubprocess}), "other pending")
	expect(t, "with labels", list(queue.ListOptions{Labels: map[string]string{"k": "v", "l": "w"}}), "other pending")
	expect(t, "with another label", list(queue.ListOptions{Labels: map[string]string{"k": "w"}}))
	expect(t, "since", list(queue.ListOptions{Since: half, Status: []contracts.Status{contracts.StatusSucceeded}}), "q298 succeeded", "e700 succeeded")
	for _, err := range s.p.List(ctx, queue.ListOptions{Kind: "no.kind"}) {
		if err == nil {
			t.Error("List() of what is no kind yields something")
		}
	}
}

func TestListOfNothing(t *testing.T) {
	s := newStage(t, queue.Topology{})
	for i, err := range s.p.List(within(t), queue.ListOptions{}) {
		t.Errorf("List() yields %v, %v", i, err)
	}
}

func TestResolve(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	for _, id := range []string{"abcdefgh", "abcdxyz", "abcd", "queued-1", "x"} {
		s.submit(id)
	}
	s.result("ended-1", runA, 0, "")
	for prefix, want := range map[string]string{
		"abcdefgh": "abcdefgh", "abcde": "abcdefgh", "abcd": "abcd", "queued": "queued-1", "ended-1": "ended-1", "ende": "ended-1", "x": "x",
	} {
		if id, err := s.p.Resolve(ctx, prefix); err != nil || id != want {
			t.Errorf("Resolve(%s) = %q, %v, want %q", prefix, id, err, want)
		}
	}
	s.submit("abcdeaaa")
	var many *queue.AmbiguousError
	if _, err := s.p.Resolve(ctx, "abcde"); !errors.As(err, &many) || many.Count != 2 || fmt.Sprint(many.IDs) != "[abcdeaaa abcdefgh]" {
		t.Errorf("Resolve() of what is ambiguous = %v, want both ids", err)
	}
	for _, prefix := range []string{"none", "que", "q*", "ended.1", ""} {
		id, err := s.p.Resolve(ctx, prefix)
		if err == nil {
			t.Errorf("Resolve(%q) = %q, want an error", prefix, id)
		}
		if (prefix == "none" || prefix == "que") && !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("Resolve(%q) = %v, want ErrNotFound", prefix, err)
		}
	}
}

func TestServed(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	s.present("b", contracts.KindNoop, contracts.KindSubprocess)
	s.present("a", contracts.KindNoop)
	workers, err := s.p.Workers(ctx)
	if err != nil || len(workers) != 2 || workers[0].Name != "a" || workers[1].Name != "b" {
		t.Errorf("Workers() = %+v, %v, want a and b", workers, err)
	}
	for _, c := range []struct {
		kind contracts.Kind
		pool string
		want bool
	}{{contracts.KindNoop, "", true}, {contracts.KindSubprocess, "default", true}, {contracts.KindNoop, "other", false}, {contracts.KindHTTP, "", false}} {
		if got, err := s.p.Served(ctx, c.kind, c.pool); err != nil || got != c.want {
			t.Errorf("Served(%s, %q) = %v, %v, want %v", c.kind, c.pool, got, err, c.want)
		}
	}
}

// Equal ids of two tenants never touch each other.
func TestTenants(t *testing.T) {
	s := newStage(t, queue.Topology{})
	ctx := within(t)
	other, err := queue.NewProducer(s.pnc, queue.ProducerConfig{Topology: s.top, Tenant: "other"})
	if err != nil {
		t.Fatal(err)
	}
	s.submit("same")
	if _, err := other.Get(ctx, "same"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Get() of another tenant's = %v, want ErrNotFound", err)
	}
	if _, err := other.Cancel(ctx, "same"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Cancel() of another tenant's = %v, want ErrNotFound", err)
	}
	if r, err := other.Submit(ctx, contracts.Invocation{ID: "same", Kind: contracts.KindNoop, Name: "theirs"}); err != nil || r.Existed {
		t.Errorf("Submit() under another tenant's id = %+v, %v, want a new one", r, err)
	}
	if _, err := other.Cancel(ctx, "same"); err != nil {
		t.Fatal(err)
	}
	if info, err := s.p.Get(ctx, "same"); err != nil || info.Status != contracts.StatusPending || info.Name != "" {
		t.Errorf("Get() = %+v, %v, want it pending as it was", info, err)
	}
}

package queue_test

import (
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

var here = queue.Address{Kind: "subprocess", Pool: "default", Lane: contracts.LaneNormal, Shard: "0", Tenant: "acme", ID: "a-1"}

func TestSubjects(t *testing.T) {
	var n queue.Names
	for want, got := range map[string]string{
		"runnel.invoke.subprocess.default.normal.0.acme.a-1": n.Invoke(here),
		"runnel.invoke.*.*.*.*.acme.a-1":                     n.AnyInvoke("acme", "a-1"),
		"runnel.invoke.*.*.*.*.acme.*":                       n.Invokes("acme"),
		"runnel.invoke.http.gpu.low.0.*.*":                   n.InvokesOf("http", "gpu", contracts.LaneLow, "0"),
		"runnel.reply.acme.a-1.result":                       n.Result("acme", "a-1"),
		"runnel.reply.acme.*.result":                         n.Results("acme"),
		"runnel.reply.acme.a-1.abcdefgh.7":                   n.Chunk("acme", "a-1", "abcdefgh", 7),
		"runnel.reply.acme.a-1.abcdefgh.start":               n.Start("acme", "a-1", "abcdefgh"),
		"runnel.reply.acme.a-1.abcdefgh.end":                 n.End("acme", "a-1", "abcdefgh"),
		"runnel.reply.acme.a-1.*.start":                      n.Starts("acme", "a-1"),
		"runnel.reply.acme.a-1.*.end":                        n.Ends("acme", "a-1"),
		"runnel.reply.acme.a-1.abcdefgh.*":                   n.RunAll("acme", "a-1", "abcdefgh"),
		"runnel.reply.acme.a-1.>":                            n.ReplyAll("acme", "a-1"),
		"runnel.reply.acme.>":                                n.Replies("acme"),
		"runnel.live.acme.a-1.result":                        n.Live(n.Result("acme", "a-1")),
		"runnel.live.acme.a-1.>":                             n.LiveAll("acme", "a-1"),
		"runnel.live.acme.*.result":                          n.LiveResults("acme"),
		"runnel.dead.acme.a-1":                               n.Dead("acme", "a-1"),
		"runnel.dead.acme.*":                                 n.Deads("acme"),
		"runnel.cancel.acme.a-1":                             n.Cancel("acme", "a-1"),
		"runnel.sandbox.acme.a-1":                            n.Sandbox("acme", "a-1"),
		"other.cancel.acme.a-1":                              queue.Names{Prefix: "other"}.Cancel("acme", "a-1"),
	} {
		if got != want {
			t.Errorf("made %q, want %q", got, want)
		}
	}
}

func TestNoSubjectOfAnInvalidToken(t *testing.T) {
	with := func(change func(*queue.Address)) queue.Address {
		a := here
		change(&a)
		return a
	}
	var n queue.Names
	bad := []string{"", "*", ">", "a.b", "a b", "a\r\nPUB x 0", "Ä", "\x00", strings.Repeat("a", 129)}
	for _, b := range bad {
		for what, got := range map[string]string{
			"kind":        n.Invoke(with(func(a *queue.Address) { a.Kind = contracts.Kind(b) })),
			"pool":        n.Invoke(with(func(a *queue.Address) { a.Pool = b })),
			"lane":        n.Invoke(with(func(a *queue.Address) { a.Lane = contracts.Lane(b) })),
			"shard":       n.Invoke(with(func(a *queue.Address) { a.Shard = b })),
			"tenant":      n.Invoke(with(func(a *queue.Address) { a.Tenant = b })),
			"id":          n.Invoke(with(func(a *queue.Address) { a.ID = b })),
			"any":         n.AnyInvoke("acme", b),
			"invokes":     n.Invokes(b),
			"invokes of":  n.InvokesOf("noop", b, contracts.LaneLow, "0"),
			"result":      n.Result(b, "a"),
			"results":     n.Results(b),
			"chunk":       n.Chunk("acme", b, "abcdefgh", 1),
			"chunk run":   n.Chunk("acme", "a", b, 1),
			"start":       n.Start("acme", "a", b),
			"end":         n.End("acme", b, "abcdefgh"),
			"reply all":   n.ReplyAll("acme", b),
			"run all":     n.RunAll("acme", "a", b),
			"live all":    n.LiveAll("acme", b),
			"live":        n.Live(b),
			"cancel":      n.Cancel("acme", b),
			"dead":        n.Dead(b, "a"),
			"sandbox":     n.Sandbox(b, "a"),
			"sandbox id":  n.Sandbox("acme", b),
			"live result": n.LiveResults(b),
		} {
			if got != "" {
				t.Errorf("%s of %q made %q, want none", what, b, got)
			}
		}
		if p := (queue.Names{Prefix: b}); b != "" && p.Invoke(here) != "" {
			t.Errorf("prefix %q made %q, want none", b, p.Invoke(here))
		}
	}
	for _, i := range []int{-1, 0, 1_000_000_001} {
		if got := n.Chunk("acme", "a", "abcdefgh", i); got != "" {
			t.Errorf("Chunk(%d) = %q, want none", i, got)
		}
	}
}

func TestValidateNamesTheToken(t *testing.T) {
	if err := here.Validate(); err != nil {
		t.Errorf("Validate() = %v", err)
	}
	a := here
	a.Tenant = "*"
	if err := a.Validate(); err == nil || !strings.Contains(err.Error(), `tenant "*"`) {
		t.Errorf("Validate() = %v, want it to name the tenant", err)
	}
}

func FuzzParseInvoke(f *testing.F) {
	f.Add("runnel", "runnel.invoke.subprocess.default.normal.0.acme.a-1")
	f.Add("r", "r.invoke.k.p.high.0.t.-")
	f.Add("", "runnel.invoke.k.p.lane.0.t.a")
	f.Add("", "runnel.invoke.k.p.high.0.t.*")
	f.Fuzz(func(t *testing.T, prefix, subject string) {
		n := queue.Names{Prefix: prefix}
		if a, err := n.ParseInvoke(subject); err == nil && n.Invoke(a) != subject {
			t.Errorf("ParseInvoke(%q) = %+v, which makes %q", subject, a, n.Invoke(a))
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for _, s := range []string{
		"runnel.reply.acme.a.result", "runnel.live.acme.a.abcdefgh.start", "runnel.reply.acme.a.abcdefgh.end", "runnel.reply.acme.a.abcdefgh.1",
		"runnel.reply.acme.a.abcdefgh.01", "runnel.reply.acme.a.abcdefgh.+1", "runnel.reply.acme.a.abcdefgh.0", "runnel.reply.acme.a.abcdefgh.99999999999",
		"runnel.reply.acme.a.result.start", "runnel.reply.acme.a.abcdefgh", "runnel.reply.acme.a.abcdefgh.１",
	} {
		f.Add("", s)
	}
	f.Fuzz(func(t *testing.T, prefix, subject string) {
		n := queue.Names{Prefix: prefix}
		a, err := n.ParseReply(subject)
		if err != nil {
			return
		}
		var made string
		switch a.Kind {
		case queue.ReplyResult:
			made = n.Result(a.Tenant, a.ID)
		case queue.ReplyStart:
			made = n.Start(a.Tenant, a.ID, a.Run)
		case queue.ReplyEnd:
			made = n.End(a.Tenant, a.ID, a.Run)
		case queue.ReplyChunk:
			made = n.Chunk(a.Tenant, a.ID, a.Run, a.N)
		}
		if made != subject && n.Live(made) != subject {
			t.Errorf("ParseReply(%q) = %+v, which makes %q", subject, a, made)
		}
	})
}

// FuzzSubjectsBuildParse makes subjects of anything: what is made is one
// subject, and reads back as what it was made of.
func FuzzSubjectsBuildParse(f *testing.F) {
	f.Add("", "noop", "default", "normal", "0", "acme", "a-1", "abcdefgh", 3)
	f.Add("p", "k.", "*", "high", ">", " ", "A", "ABCDEFGH", 0)
	f.Fuzz(func(t *testing.T, prefix, kind, pool, lane, shard, tenant, id, run string, i int) {
		n := queue.Names{Prefix: prefix}
		a := queue.Address{Kind: contracts.Kind(kind), Pool: pool, Lane: contracts.Lane(lane), Shard: shard, Tenant: tenant, ID: id}
		if s := n.Invoke(a); s != "" {
			if got, err := n.ParseInvoke(s); err != nil || got != a {
				t.Errorf("ParseInvoke(%q) = %+v, %v, want %+v", s, got, err, a)
			}
		} else if a.Validate() == nil && (prefix == "" || contracts.ValidToken(prefix)) {
			t.Errorf("Invoke(%+v) = none of a valid address", a)
		}
		for s, want := range map[string]queue.ReplyAddress{
			n.Result(tenant, id):        {Tenant: tenant, ID: id, Kind: queue.ReplyResult},
			n.Start(tenant, id, run):    {Tenant: tenant, ID: id, Run: run, Kind: queue.ReplyStart},
			n.End(tenant, id, run):      {Tenant: tenant, ID: id, Run: run, Kind: queue.ReplyEnd},
			n.Chunk(tenant, id, run, i): {Tenant: tenant, ID: id, Run: run, Kind: queue.ReplyChunk, N: i},
		} {
			if s == "" {
				continue
			}
			for _, s := range []string{s, n.Live(s)} {
				if got, err := n.ParseReply(s); err != nil || got != want {
					t.Errorf("ParseReply(%q) = %+v, %v, want %+v", s, got, err, want)
				}
			}
		}
		if s := n.Dead(tenant, id); s != "" {
			if gt, gi, err := n.ParseDead(s); err != nil || gt != tenant || gi != id {
				t.Errorf("ParseDead(%q) = %q, %q, %v", s, gt, gi, err)
			}
		}
		if s := n.Sandbox(tenant, id); s != "" {
			if gt, gi, err := n.ParseSandbox(s); err != nil || gt != tenant || gi != id {
				t.Errorf("ParseSandbox(%q) = %q, %q, %v", s, gt, gi, err)
			}
		}
		if s := n.Cancel(tenant, id); s != "" {
			if gt, gi, err := n.ParseCancel(s); err != nil || gt != tenant || gi != id {
				t.Errorf("ParseCancel(%q) = %q, %q, %v", s, gt, gi, err)
			}
		}
	})
}

package queue

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/runnel-project/runnel/internal/contracts"
)

// DefaultPrefix is the first token of every subject where none is set.
const DefaultPrefix = "runnel"

// maxChunk bounds the number of a chunk in a subject; beyond it a name is not ours.
const maxChunk = 1_000_000_000

// Names makes and reads the subjects of one fleet. Every method that makes a
// subject returns "" if a token is not valid: nothing can be published to or
// read from that, so a stranger's token never becomes a wildcard or a second
// token. What Parse accepts, the method that makes it would have made.
type Names struct {
	// Prefix is the first token; "" is DefaultPrefix.
	Prefix string
}

// Address says where an invocation waits: the tokens of its subject.
type Address struct {
	Kind   contracts.Kind
	Pool   string
	Lane   contracts.Lane
	Shard  string
	Tenant string
	ID     string
}

// AddressOf returns where inv waits; inv must have its defaults filled in.
func AddressOf(inv contracts.Invocation) Address {
	return Address{Kind: inv.Kind, Pool: inv.Pool, Lane: inv.Lane, Shard: contracts.DefaultShard, Tenant: inv.Tenant, ID: inv.ID}
}

// Validate names the first token that cannot stand in a subject.
func (a Address) Validate() error {
	for _, t := range [...]struct{ name, value string }{
		{"kind", string(a.Kind)}, {"pool", a.Pool}, {"shard", a.Shard}, {"tenant", a.Tenant},
	} {
		if !contracts.ValidToken(t.value) {
			return fmt.Errorf("%s %q: must be 1 to 64 of a-z 0-9 _ -", t.name, t.value)
		}
	}
	if !validLane(a.Lane) {
		return fmt.Errorf("lane %q: must be high, normal or low", a.Lane)
	}
	if !contracts.ValidID(a.ID) {
		return fmt.Errorf("id %q: must be a letter or digit and up to 127 of A-Z a-z 0-9 _ -", a.ID)
	}
	return nil
}

// ReplyKind says what is stored under a reply subject.
type ReplyKind int

// What a run and its worker store.
const (
	ReplyChunk ReplyKind = iota + 1
	ReplyStart
	ReplyEnd
	ReplyResult
)

// String returns the kind as it is called in messages.
func (k ReplyKind) String() string {
	return [...]string{"unknown", "chunk", "start", "end", "result"}[max(0, min(int(k), 4))]
}

// ReplyAddress is what a reply subject, or its live copy, says.
type ReplyAddress struct {
	Tenant, ID string
	// Run is "" for a result.
	Run  string
	Kind ReplyKind
	// N is the number of a chunk, from 1; else 0.
	N int
}

func (n Names) prefix() string {
	if n.Prefix == "" {
		return DefaultPrefix
	}
	return n.Prefix
}

// join makes a subject, or "" if a token is missing: the callers pass what tok, id and run let through.
func (n Names) join(tokens ...string) string {
	p := n.prefix()
	if !contracts.ValidToken(p) {
		return ""
	}
	size := len(p)
	for _, t := range tokens {
		if t == "" {
			return ""
		}
		size += 1 + len(t)
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteString(p)
	for _, t := range tokens {
		b.WriteByte('.')
		b.WriteString(t)
	}
	return b.String()
}

func tok(s string) string {
	if contracts.ValidToken(s) {
		return s
	}
	return ""
}

func id(s string) string {
	if contracts.ValidID(s) {
		return s
	}
	return ""
}

func run(s string) string {
	if contracts.ValidRun(s) {
		return s
	}
	return ""
}

// Invoke is the subject of an invocation: <prefix>.invoke.<kind>.<pool>.<lane>.<shard>.<tenant>.<id>.
func (n Names) Invoke(a Address) string {
	lane := ""
	if validLane(a.Lane) {
		lane = string(a.Lane)
	}
	return n.join("invoke", tok(string(a.Kind)), tok(a.Pool), lane, tok(a.Shard), tok(a.Tenant), id(a.ID))
}

// ParseInvoke reads the subject of an invocation.
func (n Names) ParseInvoke(subject string) (Address, error) {
	t, ok := n.split(subject, "invoke")
	if !ok || len(t) != 6 {
		return Address{}, fmt.Errorf("subject %q: not of an invocation", subject)
	}
	a := Address{Kind: contracts.Kind(t[0]), Pool: t[1], Lane: contracts.Lane(t[2]), Shard: t[3], Tenant: t[4], ID: t[5]}
	if err := a.Validate(); err != nil {
		return Address{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	return a, nil
}

// AnyInvoke is the filter that finds an invocation whatever its kind, pool, lane and shard.
func (n Names) AnyInvoke(tenant, invocation string) string {
	return n.join("invoke", "*", "*", "*", "*", tok(tenant), id(invocation))
}

// Invokes is the filter of all that waits of one tenant.
func (n Names) Invokes(tenant string) string {
	return n.join("invoke", "*", "*", "*", "*", tok(tenant), "*")
}

// InvokesOf is the filter of what one consumer hands out.
func (n Names) InvokesOf(kind contracts.Kind, pool string, lane contracts.Lane, shard string) string {
	l := ""
	if validLane(lane) {
		l = string(lane)
	}
	return n.join("invoke", tok(string(kind)), tok(pool), l, tok(shard), "*", "*")
}

// Result is where the one result of an invocation is stored.
func (n Names) Result(tenant, invocation string) string {
	return n.join("reply", tok(tenant), id(invocation), "result")
}

// Results is the filter of all results of one tenant.
func (n Names) Results(tenant string) string { return n.join("reply", tok(tenant), "*", "result") }

// Chunk is where chunk i of a run is stored; i counts from 1.
func (n Names) Chunk(tenant, invocation, runName string, i int) string {
	if i < 1 || i > maxChunk {
		return ""
	}
	return n.join("reply", tok(tenant), id(invocation), run(runName), strconv.Itoa(i))
}

// Start is where the start of a run is stored.
func (n Names) Start(tenant, invocation, runName string) string {
	return n.join("reply", tok(tenant), id(invocation), run(runName), "start")
}

// End is where the end of a run is stored that was not the last word.
func (n Names) End(tenant, invocation, runName string) string {
	return n.join("reply", tok(tenant), id(invocation), run(runName), "end")
}

// Starts is the filter of the starts of every run of an invocation.
func (n Names) Starts(tenant, invocation string) string {
	return n.join("reply", tok(tenant), id(invocation), "*", "start")
}

// Ends is the filter of the ends of every run of an invocation.
func (n Names) Ends(tenant, invocation string) string {
	return n.join("reply", tok(tenant), id(invocation), "*", "end")
}

// RunAll is the filter of all that one run stored.
func (n Names) RunAll(tenant, invocation, runName string) string {
	return n.join("reply", tok(tenant), id(invocation), run(runName), "*")
}

// ReplyAll is the filter of all that is stored of an invocation.
func (n Names) ReplyAll(tenant, invocation string) string {
	return n.join("reply", tok(tenant), id(invocation), ">")
}

// Replies is the filter of all that is stored of one tenant's invocations.
func (n Names) Replies(tenant string) string { return n.join("reply", tok(tenant), ">") }

// ParseReply reads a reply subject, or the live copy of one.
func (n Names) ParseReply(subject string) (ReplyAddress, error) {
	t, ok := n.split(subject, "reply")
	if !ok {
		t, ok = n.split(subject, "live")
	}
	bad := func() (ReplyAddress, error) {
		return ReplyAddress{}, fmt.Errorf("subject %q: not of a reply", subject)
	}
	if !ok || len(t) < 3 || len(t) > 4 || !contracts.ValidToken(t[0]) || !contracts.ValidID(t[1]) {
		return bad()
	}
	a := ReplyAddress{Tenant: t[0], ID: t[1]}
	if len(t) == 3 {
		if t[2] != "result" {
			return bad()
		}
		a.Kind = ReplyResult
		return a, nil
	}
	if !contracts.ValidRun(t[2]) {
		return bad()
	}
	a.Run = t[2]
	switch t[3] {
	case "start":
		a.Kind = ReplyStart
	case "end":
		a.Kind = ReplyEnd
	default:
		i, err := strconv.Atoi(t[3])
		// Atoi takes "+1" and "01" too, which Chunk never makes.
		if err != nil || i < 1 || i > maxChunk || t[3][0] < '1' || t[3][0] > '9' {
			return bad()
		}
		a.Kind, a.N = ReplyChunk, i
	}
	return a, nil
}

// Live is where the copy of a stored reply is published once it is stored.
func (n Names) Live(reply string) string {
	rest, ok := strings.CutPrefix(reply, n.prefix()+".reply.")
	if !ok || rest == "" {
		return ""
	}
	return n.prefix() + ".live." + rest
}

// LiveAll is what a follower of one invocation subscribes to.
func (n Names) LiveAll(tenant, invocation string) string {
	return n.join("live", tok(tenant), id(invocation), ">")
}

// LiveResults is what somebody who waits for many invocations of a tenant subscribes to.
func (n Names) LiveResults(tenant string) string { return n.join("live", tok(tenant), "*", "result") }

// Dead is where an invocation that was put aside is stored.
func (n Names) Dead(tenant, invocation string) string {
	return n.join("dead", tok(tenant), id(invocation))
}

// Deads is the filter of all dead letters of one tenant.
func (n Names) Deads(tenant string) string { return n.join("dead", tok(tenant), "*") }

// ParseDead reads the subject of a dead letter.
func (n Names) ParseDead(subject string) (tenant, invocation string, err error) {
	return n.parsePair(subject, "dead")
}

// Cancel is where the holder of an invocation hears that it is to stop.
func (n Names) Cancel(tenant, invocation string) string {
	return n.join("cancel", tok(tenant), id(invocation))
}

// Cancels is the filter of all cancel requests.
func (n Names) Cancels() string { return n.join("cancel", "*", "*") }

// ParseCancel reads the subject of a cancel request.
func (n Names) ParseCancel(subject string) (tenant, invocation string, err error) {
	return n.parsePair(subject, "cancel")
}

// Manual is where the responders of a name hear requests.
func (n Names) Manual(name string) string { return n.join("manual", tok(name)) }

// Answer is where the holder of a manual invocation hears that a person has ended it.
func (n Names) Answer(tenant, invocation string) string {
	return n.join("answer", tok(tenant), id(invocation))
}

// Answers is the filter of all answers of persons.
func (n Names) Answers() string { return n.join("answer", "*", "*") }

// ParseAnswer reads the subject of an answer.
func (n Names) ParseAnswer(subject string) (tenant, invocation string, err error) {
	return n.parsePair(subject, "answer")
}

// Sandbox is where the run of a sandbox hears its callers.
func (n Names) Sandbox(tenant, invocation string) string {
	return n.join("sandbox", tok(tenant), id(invocation))
}

// ParseSandbox reads the subject of a call to a sandbox.
func (n Names) ParseSandbox(subject string) (tenant, invocation string, err error) {
	return n.parsePair(subject, "sandbox")
}

func (n Names) parsePair(subject, what string) (string, string, error) {
	t, ok := n.split(subject, what)
	if !ok || len(t) != 2 || !contracts.ValidToken(t[0]) || !contracts.ValidID(t[1]) {
		return "", "", fmt.Errorf("subject %q: not <prefix>.%s.<tenant>.<id>", subject, what)
	}
	return t[0], t[1], nil
}

// split returns the tokens after <prefix>.<word>.
func (n Names) split(subject, word string) ([]string, bool) {
	p := n.prefix()
	if !contracts.ValidToken(p) {
		return nil, false
	}
	rest, ok := strings.CutPrefix(subject, p)
	if !ok {
		return nil, false
	}
	if rest, ok = strings.CutPrefix(rest, "."+word+"."); !ok {
		return nil, false
	}
	return strings.Split(rest, "."), true
}

func validLane(l contracts.Lane) bool {
	return l == contracts.LaneHigh || l == contracts.LaneNormal || l == contracts.LaneLow
}

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// publish sends a message to the queue past the client, as a stranger might.
func publish(t *testing.T, f *fleet.Fleet, subject string, header nats.Header, body []byte) error {
	t.Helper()
	js, err := jetstream.New(f.Conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	return err
}

func address(id string) queue.Address {
	return queue.Address{Kind: contracts.KindSubprocess, Pool: "default", Lane: contracts.LaneNormal, Shard: "0", Tenant: "default", ID: id}
}

// What only a worker can see leaves exactly one `rejected` result, with a text that names the field (must-show 7).
func TestBadMessagesAreRejectedOnce(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{})
	c := f.Client("default", "")
	whole := func(id string) contracts.Invocation {
		return contracts.Invocation{ID: id, Kind: contracts.KindSubprocess, Command: []string{"true"}}.WithDefaults()
	}
	encode := func(inv contracts.Invocation) []byte {
		body, err := contracts.Encode(inv)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	text := func(format string) func(string) []byte {
		return func(id string) []byte { return fmt.Appendf(nil, format, id) }
	}
	tests := map[string]struct {
		body   func(id string) []byte
		header nats.Header
		want   string
	}{
		"empty":             {body: func(string) []byte { return nil }, want: ""},
		"malformed msgpack": {body: func(string) []byte { return []byte{0x82, 0xc1} }, want: ""},
		"cut msgpack":       {body: func(id string) []byte { b := encode(whole(id)); return b[:len(b)/2] }, want: ""},
		"more than msgpack": {body: func(id string) []byte { return append(encode(whole(id)), 0) }, want: "bytes"},
		"malformed JSON":    {body: text(`{"invocation_id":"%s",`), want: ""},
		"unknown field":     {body: text(`{"invocation_id":"%s","runtime_kind":"subprocess","command":["true"],"color":"red"}`), want: "color"},
		"duplicate field":   {body: text(`{"invocation_id":"%s","runtime_kind":"subprocess","command":["true"],"command":["false"]}`), want: "command"},
		"wrong-case field":  {body: text(`{"invocation_id":"%s","runtime_kind":"subprocess","Command":["true"]}`), want: "Command"},
		"wrong type":        {body: text(`{"invocation_id":"%s","runtime_kind":"subprocess","command":"true"}`), want: "command"},
		"empty command":     {body: text(`{"invocation_id":"%s","runtime_kind":"subprocess","command":[]}`), want: "command"},
		"no command":        {body: func(id string) []byte { inv := whole(id); inv.Command = nil; return encode(inv) }, want: "command"},
		"another id":        {body: func(string) []byte { return encode(whole("somebody")) }, want: "invocation_id"},
		"another tenant":    {body: func(id string) []byte { inv := whole(id); inv.Tenant = "other"; return encode(inv) }, want: "tenant"},
		"another kind":      {body: func(id string) []byte { inv := whole(id); inv.Kind = "noop"; return encode(inv) }, want: "runtime_kind"},
		"a path as id":      {body: func(string) []byte { return encode(whole("../x")) }, want: "invocation_id"},
		"negative timeout":  {body: func(id string) []byte { inv := whole(id); inv.TimeoutSeconds = -1; return encode(inv) }, want: "timeout_seconds"},
		"unknown encoding":  {body: text(`{"invocation_id":"%s"}`), header: nats.Header{"Content-Type": {"text/xml"}}, want: "Content-Type"},
		"no version":        {body: text(`{}`), header: nats.Header{"Runnel-Version": {"x"}}, want: "Runnel-Version"},
	}
	for name, tt := range tests {
		id := "bad-" + strings.ReplaceAll(name, " ", "-")
		inv := whole(id)
		f.Submitted(inv)
		if err := publish(t, f, f.Topology.Names().Invoke(address(id)), tt.header, tt.body(id)); err != nil {
			t.Errorf("%s: publish: %v", name, err)
			continue
		}
		f.Accepted("default", id, "")
		r := result(t, c, id, fleet.Patience)
		if r.Status != contracts.StatusRejected || r.Reason != contracts.ReasonBadInvocation {
			t.Errorf("%s: result is %s/%s, want rejected/bad_invocation", name, r.Status, r.Reason)
		}
		if r.Error == "" || !strings.Contains(r.Error, tt.want) {
			t.Errorf("%s: the result says %q, want %q in it", name, r.Error, tt.want)
		}
	}
	// The worker is none the worse for it.
	f.Submit(c, f.Count("default", f.ID("after")))
	f.Verify()
}

// Headers with which a stranger would empty the queue, expire messages or swallow another's job: the server
// refuses them, or they mean nothing.
func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	waiting := f.Count("default", f.ID("waits"))
	f.Submit(c, waiting)
	refused := map[string]nats.Header{
		"rollup of a subject": {"Nats-Rollup": {"sub"}},
		"rollup of all":       {"Nats-Rollup": {"all"}},
		"time to live":        {"Nats-TTL": {"1s"}},
		"expected stream":     {"Nats-Expected-Stream": {"OTHER"}},
		"expected sequence":   {"Nats-Expected-Last-Sequence": {"4711"}},
		"schedule":            {"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"runnel.invoke.x"}},
	}
	for name, header := range refused {
		if err := publish(t, f, f.Topology.Names().Invoke(address(f.ID("hostile"))), header, []byte("{}")); err == nil {
			t.Errorf("%s: the server took it", name)
		}
	}
	// Equal message ids are forgotten, not swallowed; a result by a stranger with a status of its own is no proof of absence.
	f.StartWorker(fleet.WorkerConfig{})
	for i := range 2 {
		inv := contracts.Invocation{ID: f.ID("msgid"), Kind: contracts.KindSubprocess, Command: []string{"true"}}.WithDefaults()
		body, err := contracts.Encode(inv)
		if err != nil {
			t.Fatal(err)
		}
		header := nats.Header{"Nats-Msg-Id": {fmt.Sprint("same", i)}, "Status": {"404"}, "Nats-Sequence": {"1"}, "Nats-Subject": {"runnel.invoke.x"}}
		f.Submitted(inv)
		if err := publish(t, f, f.Topology.Names().Invoke(address(inv.ID)), header, body); err != nil {
			t.Errorf("publish: %v", err)
		}
		f.Accepted("default", inv.ID, "")
		if r := result(t, c, inv.ID, fleet.Patience); r.Status != contracts.StatusSucceeded {
			t.Errorf("%s: %s/%s: %s", inv.ID, r.Status, r.Reason, r.Error)
		}
	}
	f.Verify()
}

// What the client refuses leaves no trace.
func TestRefusedByTheClient(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	c := f.Client("default", "")
	sub := contracts.KindSubprocess
	tests := map[string]struct {
		inv  runnel.Invocation
		want string
	}{
		"no kind":         {runnel.Invocation{Command: []string{"true"}}, "runtime_kind"},
		"no command":      {runnel.Invocation{Kind: sub}, "command"},
		"a path as id":    {runnel.Invocation{ID: "../x", Kind: sub, Command: []string{"true"}}, "invocation_id"},
		"10 KB of id":     {runnel.Invocation{ID: strings.Repeat("x", 10<<10), Kind: sub, Command: []string{"true"}}, "invocation_id"},
		"a wildcard":      {runnel.Invocation{ID: "*", Kind: sub, Command: []string{"true"}}, "invocation_id"},
		"a reserved name": {runnel.Invocation{Kind: sub, Command: []string{"true"}, Environment: map[string]string{"RUNNEL_X": "1"}}, "RUNNEL_X"},
		"another tenant":  {runnel.Invocation{Tenant: "other", Kind: sub, Command: []string{"true"}}, "tenant"},
		"a lane":          {runnel.Invocation{Lane: "express", Kind: sub, Command: []string{"true"}}, "lane"},
		"too large":       {runnel.Invocation{Kind: sub, Command: []string{"echo", strings.Repeat("x", 600<<10)}}, ""},
	}
	for name, tt := range tests {
		_, err := c.Submit(t.Context(), tt.inv)
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000 {
			t.Errorf("%s: Submit() = %.200v, want an error with %q", name, err, tt.want)
		}
	}
	if err := publish(t, f, f.Topology.Names().Invoke(address("large")), nil, make([]byte, contracts.MaxMessageBytes+1)); err == nil {
		t.Error("a message beyond the cap was taken")
	}
	inv := f.Count("default", f.ID("used"))
	f.Submit(c, inv)
	other := inv
	other.Command = []string{"false"}
	if _, err := c.Submit(t.Context(), other); !errors.Is(err, runnel.ErrIDInUse) {
		t.Errorf("other content under a used id: %v, want ErrIDInUse", err)
	}
	again, err := c.Submit(t.Context(), inv)
	if err != nil || !again.Existed {
		t.Errorf("the same again: %+v, %v, want that it existed", again, err)
	}
	// Nobody serves it: it waits, and can be taken back without a trace.
	if _, err := c.Submit(t.Context(), runnel.Invocation{ID: "nobody", Kind: "teleport"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Withdraw(t.Context(), "nobody"); err != nil {
		t.Errorf("Withdraw() = %v", err)
	}
	f.StartWorker(fleet.WorkerConfig{})
	f.Verify() // finds a trace of anything but the one that was accepted
}

package contracts_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Each field of each manual message, with what it must not be (E25): the error names it.
func TestManualMessagesAreRefusedByName(t *testing.T) {
	type change = map[string]func(*contracts.ManualReply)
	replies := manualReplies()
	for base, changes := range map[string]change{
		"accepted": {
			"type":          func(r *contracts.ManualReply) { r.Type = "Accepted" },
			"invocation_id": func(r *contracts.ManualReply) { r.ID = "a b" },
			"run":           func(r *contracts.ManualReply) { r.Run = "abcd1890" },
			"responder":     func(r *contracts.ManualReply) { r.Responder = "-x" },
			"n":             func(r *contracts.ManualReply) { r.N = 1 },
			"pieces":        func(r *contracts.ManualReply) { r.Pieces = replies["output"].Pieces },
			"fraction":      func(r *contracts.ManualReply) { r.Fraction = ptr(0.5) },
			"text":          func(r *contracts.ManualReply) { r.Text = "x" },
			"outcome":       func(r *contracts.ManualReply) { r.Outcome = replies["outcome"].Outcome },
		},
		"output": {
			"n":                func(r *contracts.ManualReply) { r.N = 0 },
			"pieces":           func(r *contracts.ManualReply) { r.Pieces = nil },
			"pieces[0].stream": func(r *contracts.ManualReply) { r.Pieces = []contracts.Piece{{Stream: "stdin"}} },
			"pieces[0].phase":  func(r *contracts.ManualReply) { r.Pieces = []contracts.Piece{{Stream: "stdout", Phase: "A"}} },
			"pieces[0].cut":    func(r *contracts.ManualReply) { r.Pieces = []contracts.Piece{{Stream: "stdout", Cut: 1}} },
		},
		"progress": {
			"fraction": func(r *contracts.ManualReply) { r.Fraction = ptr(math.NaN()) },
			"text":     func(r *contracts.ManualReply) { r.Text = long(contracts.MaxErrorBytes + 1) },
		},
		"outcome": {
			"n":                      func(r *contracts.ManualReply) { r.N = -1 },
			"outcome":                func(r *contracts.ManualReply) { r.Outcome = nil },
			"outcome.status":         func(r *contracts.ManualReply) { r.Outcome.Status = contracts.StatusCancelled },
			"outcome.exit_code":      func(r *contracts.ManualReply) { r.Outcome.ExitCode = ptr(0) },
			"outcome.error_summary":  func(r *contracts.ManualReply) { r.Outcome.Error = "\xff" },
			"outcome.metadata":       func(r *contracts.ManualReply) { r.Outcome.Metadata = map[string]string{"a": long(17 << 10)} },
			"outcome.metadata[\"\"]": func(r *contracts.ManualReply) { r.Outcome.Metadata = map[string]string{"": "b"} },
			"outcome.tail": func(r *contracts.ManualReply) {
				r.Outcome.Tail = []contracts.Piece{{Stream: "stdout", Data: []byte(long(65 << 10))}}
			},
		},
	} {
		for field, change := range changes {
			r := replies[base]
			if r.Outcome != nil {
				o := *r.Outcome
				r.Outcome = &o
			}
			change(&r)
			names(t, base, field, r.Validate())
		}
	}

	for field, change := range map[string]func(*contracts.ManualRequest){
		"invocation.runtime_name": func(r *contracts.ManualRequest) { r.Invocation.Name = "Greet me" },
		"invocation.runtime_kind": func(r *contracts.ManualRequest) { r.Invocation.Kind = contracts.KindNoop },
		"run":                     func(r *contracts.ManualRequest) { r.Run = "" },
		"attempt":                 func(r *contracts.ManualRequest) { r.Attempt = 0 },
		"heartbeat_seconds":       func(r *contracts.ManualRequest) { r.HeartbeatSeconds = 0 },
		"seconds_left":            func(r *contracts.ManualRequest) { r.SecondsLeft = -1 },
		"window":                  func(r *contracts.ManualRequest) { r.Window = 0 },
	} {
		r := manualRequest()
		change(&r)
		names(t, "request", field, r.Validate())
	}

	for field, change := range map[string]func(*contracts.ManualControl){
		"type":          func(c *contracts.ManualControl) { c.Type = "kill" },
		"invocation_id": func(c *contracts.ManualControl) { c.ID = "" },
		"run":           func(c *contracts.ManualControl) { c.Run = "x" },
		"n":             func(c *contracts.ManualControl) { c.N = 2 },
		"reason":        func(c *contracts.ManualControl) { c.Reason = "So there" },
		"grace_seconds": func(c *contracts.ManualControl) { c.GraceSeconds = math.Inf(1) },
	} {
		c := manualStop()
		change(&c)
		names(t, "control", field, c.Validate())
	}

	for field, change := range map[string]func(*contracts.ManualAnswer){
		"invocation_id":         func(a *contracts.ManualAnswer) { a.ID = "../x" },
		"answer":                func(a *contracts.ManualAnswer) { a.Answer = "ABCDEFGHIJKLMNOP" },
		"outcome.status":        func(a *contracts.ManualAnswer) { a.Outcome.Status = "" },
		"outcome.error_summary": func(a *contracts.ManualAnswer) { a.Outcome.Status = contracts.StatusRejected },
	} {
		a := manualAnswer()
		change(&a)
		names(t, "answer", field, a.Validate())
	}
	names(t, "receipt", "answer", contracts.ManualReceipt{Answer: "short"}.Validate())
}

func names(t *testing.T, base, field string, err error) {
	t.Helper()
	var v *contracts.ValidationError
	if !errors.As(err, &v) || !strings.HasPrefix(v.Fields[0].Field, field) {
		t.Errorf("%s with a bad %s: Validate() = %v, want it named", base, field, err)
	}
}

// The name of a manual invocation is a token of the subject that its responders listen on; others are free text.
func TestManualNamesAreTokens(t *testing.T) {
	for _, name := range []string{"", "a b", "a.b", "*", ">", "Greet", "é", long(65)} {
		inv := manualInvocation()
		inv.Name = name
		names(t, "invocation", "runtime_name", inv.Validate())
		if inv.Kind = contracts.KindNoop; inv.Validate() != nil {
			t.Errorf("name %q of another kind: %v", name, inv.Validate())
		}
	}
}

package contracts_test

import (
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Each field of a call, with what it must not be: the error names it.
func TestSandboxCallsAreRefusedByName(t *testing.T) {
	for base, changes := range map[string]map[string]func(*contracts.SandboxCall){
		"full": {
			"type":              func(c *contracts.SandboxCall) { c.Type = "Exec" },
			"invocation_id":     func(c *contracts.SandboxCall) { c.ID = "a b" },
			"exec":              func(c *contracts.SandboxCall) { c.Exec = "abcdefgh1" },
			"command":           func(c *contracts.SandboxCall) { c.Command = nil },
			"environment":       func(c *contracts.SandboxCall) { c.Environment = map[string]string{"RUNNEL_X": ""} },
			"working_directory": func(c *contracts.SandboxCall) { c.WorkingDirectory = "../.." },
			"timeout_seconds":   func(c *contracts.SandboxCall) { c.TimeoutSeconds = -1 },
			"stop":              func(c *contracts.SandboxCall) { c.Stop = &contracts.Stop{InterruptSeconds: -1} },
			"heartbeat_seconds": func(c *contracts.SandboxCall) { c.HeartbeatSeconds = 0 },
			"window":            func(c *contracts.SandboxCall) { c.Window = 0 },
			"data":              func(c *contracts.SandboxCall) { c.Data = []byte(long(64<<10 + 1)) },
			"n":                 func(c *contracts.SandboxCall) { c.N = 1 },
		},
		"stdin": {
			"n":       func(c *contracts.SandboxCall) { c.N = 0 },
			"exec":    func(c *contracts.SandboxCall) { c.Exec = "" },
			"command": func(c *contracts.SandboxCall) { c.Command = []string{"true"} },
			"stop":    func(c *contracts.SandboxCall) { c.Stop = &contracts.Stop{} },
			"window":  func(c *contracts.SandboxCall) { c.Window = 1 },
		},
		"heartbeat": {
			"n":    func(c *contracts.SandboxCall) { c.N = -1 },
			"data": func(c *contracts.SandboxCall) { c.Data = []byte("x") },
			"more": func(c *contracts.SandboxCall) { c.More = true },
		},
		"ping":  {"exec": func(c *contracts.SandboxCall) { c.Exec = someExec }},
		"close": {"exec": func(c *contracts.SandboxCall) { c.Exec = someExec }},
	} {
		for field, change := range changes {
			c := sandboxCalls()[base]
			change(&c)
			names(t, base, field, c.Validate())
		}
	}
}

// The same of a reply.
func TestSandboxRepliesAreRefusedByName(t *testing.T) {
	for base, changes := range map[string]map[string]func(*contracts.SandboxReply){
		"output": {
			"type":             func(r *contracts.SandboxReply) { r.Type = "Output" },
			"invocation_id":    func(r *contracts.SandboxReply) { r.ID = "" },
			"exec":             func(r *contracts.SandboxReply) { r.Exec = "" },
			"n":                func(r *contracts.SandboxReply) { r.N = 0 },
			"pieces":           func(r *contracts.SandboxReply) { r.Pieces = nil },
			"pieces[0].stream": func(r *contracts.SandboxReply) { r.Pieces = []contracts.Piece{{Stream: "stdin"}} },
			"outcome":          func(r *contracts.SandboxReply) { r.Outcome = sandboxReplies()["outcome"].Outcome },
		},
		"heartbeat": {
			"n":      func(r *contracts.SandboxReply) { r.N = -1 },
			"pieces": func(r *contracts.SandboxReply) { r.Pieces = sandboxReplies()["output"].Pieces },
		},
		"outcome": {
			"outcome":               func(r *contracts.SandboxReply) { r.Outcome = nil },
			"outcome.status":        func(r *contracts.SandboxReply) { r.Outcome.Status = contracts.StatusRunning },
			"outcome.reason":        func(r *contracts.SandboxReply) { r.Outcome.Reason = "A b" },
			"outcome.error_summary": func(r *contracts.SandboxReply) { r.Outcome.Error = "\xff" },
			"outcome.killed":        func(r *contracts.SandboxReply) { r.Outcome.Killed = "\x00" },
			"outcome.tail": func(r *contracts.SandboxReply) {
				r.Outcome.Tail = []contracts.Piece{{Stream: "stdout", Data: []byte(long(65 << 10))}}
			},
		},
	} {
		for field, change := range changes {
			r := sandboxReplies()[base]
			change(&r)
			names(t, base, field, r.Validate())
		}
	}
}

// What a sandbox cannot have is refused by name, and not left out in silence.
func TestSandboxesHaveLessThanContainers(t *testing.T) {
	for field, change := range map[string]func(*contracts.Invocation){
		"command":                        func(inv *contracts.Invocation) { inv.Command = []string{"true"} },
		"stdin":                          func(inv *contracts.Invocation) { inv.Stdin = &contracts.Input{} },
		"retry":                          func(inv *contracts.Invocation) { inv.Retry = &contracts.Retry{Attempts: 2} },
		"container.entrypoint":           func(inv *contracts.Invocation) { inv.Container.Entrypoint = []string{"sh"} },
		"container.ports":                func(inv *contracts.Invocation) { inv.Container.Network, inv.Container.Ports = "bridge", []string{"80"} },
		"container.no_init":              func(inv *contracts.Invocation) { inv.Container.NoInit = true },
		"container.user":                 func(inv *contracts.Invocation) { inv.Container.User = "1000:root" },
		"container.sandbox.idle_seconds": func(inv *contracts.Invocation) { inv.Container.Sandbox.IdleSeconds = -1 },
		"container.sandbox.wait_seconds": func(inv *contracts.Invocation) { inv.Container.Sandbox.WaitSeconds = 1e10 },
	} {
		inv := sandboxInvocation()
		change(&inv)
		names(t, "sandbox", field, inv.Validate())
	}
	for user, ok := range map[string]bool{"": true, "1000": true, "1000:1001": true, "0": false, "0:5": false, "5:0": false, "root": false, "1000:": false} {
		inv := sandboxInvocation()
		inv.Container.User = user
		if err := inv.Validate(); (err == nil) != ok {
			t.Errorf("user %q: Validate() = %v, want it taken: %v", user, err, ok)
		}
	}
}

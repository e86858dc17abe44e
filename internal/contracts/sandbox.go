package contracts

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Sandbox makes an invocation of kind container one that stays open: it has no command of its own, and runs those that
// are asked for while it is open, one at a time, over the same files. timeout_seconds bounds its whole life.
type Sandbox struct {
	// IdleSeconds ends it when no command has run for so long; 0 is 600.
	IdleSeconds float64 `json:"idle_seconds,omitempty"`
	// WaitSeconds is how long a command waits for the one before it to end; then it is refused (S14). 0 is 10.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
}

// SandboxCall is what a caller says to a sandbox: a request to <prefix>.sandbox.<tenant>.<id>, whose reply subject is an
// inbox where the caller hears SandboxReply messages.
type SandboxCall struct {
	Type SandboxCallType `json:"type"`
	ID   string          `json:"invocation_id"`
	// Exec names one command by 16 random characters of a-z and 2-7: what is asked again under a name is not run twice.
	// ping and close have none.
	Exec string `json:"exec,omitempty"`
	// Command is the argument vector. No shell is added.
	Command []string `json:"command,omitempty"`
	// Environment is set over the sandbox's own.
	Environment map[string]string `json:"environment,omitempty"`
	// WorkingDirectory is where it starts: "" is where the sandbox says; relative is inside of that one's workspace.
	WorkingDirectory string `json:"working_directory,omitempty"`
	// TimeoutSeconds bounds the command from its start; 0 is no bound.
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
	// Stop says how it is ended when it must be; nil is as the sandbox says.
	Stop *Stop `json:"stop,omitempty"`
	// HeartbeatSeconds is how often both sides say something at least; silence of three times as long is their death.
	HeartbeatSeconds float64 `json:"heartbeat_seconds,omitempty"`
	// Window is how many output messages may be unacknowledged; as many stdin messages may be.
	Window int `json:"window,omitempty"`
	// Data are bytes of standard input, at most 64 KiB: of an exec its beginning.
	Data []byte `json:"data,omitempty"`
	// More says that stdin messages follow.
	More bool `json:"more,omitempty"`
	// N numbers a stdin message, from 1 without gaps; in an ack it is the output message up to which it counts, in a
	// heartbeat how many stdin messages there were.
	N int `json:"n,omitempty"`
}

// SandboxCallType says what a SandboxCall is.
type SandboxCallType string

// What a caller says.
const (
	SandboxExec      SandboxCallType = "exec"      // run a command: Command, and what goes with it
	SandboxStdin     SandboxCallType = "stdin"     // N, Data, More
	SandboxAck       SandboxCallType = "ack"       // output messages up to N are taken
	SandboxHeartbeat SandboxCallType = "heartbeat" // I live; N
	SandboxStop      SandboxCallType = "stop"      // end the command and say how it ended
	SandboxEnd       SandboxCallType = "end"       // the outcome is taken: say nothing more
	SandboxPing      SandboxCallType = "ping"      // are you open? answered with a heartbeat
	SandboxClose     SandboxCallType = "close"     // end the sandbox; answered with a heartbeat, then its result is stored
)

// SandboxCallTypes returns all that a caller may say.
func SandboxCallTypes() []SandboxCallType {
	return []SandboxCallType{SandboxExec, SandboxStdin, SandboxAck, SandboxHeartbeat, SandboxStop, SandboxEnd, SandboxPing, SandboxClose}
}

// SandboxReply is what a sandbox says to a caller, on the inbox of the call.
type SandboxReply struct {
	Type SandboxReplyType `json:"type"`
	ID   string           `json:"invocation_id"`
	Exec string           `json:"exec,omitempty"`
	// N numbers an output message, from 1 without gaps; in an ack it is the stdin message up to which it counts, in a
	// heartbeat and an outcome how many output messages there were.
	N int `json:"n,omitempty"`
	// Pieces are the bytes of an output message, at most 64 KiB.
	Pieces []Piece `json:"pieces,omitempty"`
	// Outcome is how the command ended.
	Outcome *SandboxOutcome `json:"outcome,omitempty"`
}

// SandboxReplyType says what a SandboxReply is.
type SandboxReplyType string

// What a sandbox says.
const (
	SandboxSaysOutput    SandboxReplyType = "output"    // N, Pieces
	SandboxSaysAck       SandboxReplyType = "ack"       // stdin messages up to N are taken
	SandboxSaysHeartbeat SandboxReplyType = "heartbeat" // I live; N
	SandboxSaysOutcome   SandboxReplyType = "outcome"   // Outcome; the last one of a command
)

// SandboxReplyTypes returns all that a sandbox may say.
func SandboxReplyTypes() []SandboxReplyType {
	return []SandboxReplyType{SandboxSaysOutput, SandboxSaysAck, SandboxSaysHeartbeat, SandboxSaysOutcome}
}

// SandboxOutcome is how a command in a sandbox ended.
type SandboxOutcome struct {
	// Status is succeeded, failed, timed_out, cancelled, or rejected: it was not begun.
	Status Status `json:"status"`
	// Reason is as in a result, or busy or closed.
	Reason Reason `json:"reason,omitempty"`
	// ExitCode is the command's; negative is a signal; nil where there was none.
	ExitCode *int `json:"exit_code,omitempty"`
	// Error is for people, at most 4 KiB.
	Error string `json:"error_summary,omitempty"`
	// Killed says what had to be ended, for people.
	Killed string `json:"killed,omitempty"`
	// Tail is output after the last output message, at most 64 KiB.
	Tail []Piece `json:"tail,omitempty"`
}

// Why a command in a sandbox is not begun, or ends, beside the reasons of results. No result has them.
const (
	ReasonBusy   Reason = "busy"   // rejected: the command before it did not end in time
	ReasonClosed Reason = "closed" // the sandbox ended, and the command with it
)

// Settings of sandboxes.
const (
	SandboxIdleSeconds    = 600  // without a command, where the sandbox does not say
	SandboxTimeoutSeconds = 3600 // of its whole life, where the invocation does not say
	SandboxWaitSeconds    = 10   // of a command for the one before it
	SandboxWindow         = 16   // messages of one direction that may be unacknowledged
	SandboxHeartbeats     = 2    // seconds, that a caller asks for where it has no reason for others
	SandboxSilence        = 3    // heartbeats that may be missed
)

// SandboxWork is a command as the run of a sandbox gets it. What is left of its standard input when the work has ended is
// dropped. Writes block while the caller is behind, and fail once nobody waits.
type SandboxWork struct {
	Call           SandboxCall
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Hush fails the writes under way and all that come: a caller that does not read must not keep a stopped command alive.
	Hush func()
}

// SandboxServer is the run of a sandbox, as its callers' messages come to it. Its methods are called on many goroutines at once.
type SandboxServer interface {
	// Exec runs a command to its end, or stops it when ctx ends: its caller wants that, or is gone, as context.Cause says.
	// The outcome has no Tail.
	Exec(ctx context.Context, work SandboxWork) SandboxOutcome
	// Close has the sandbox end. It does not wait for that.
	Close()
}

// Validate says what is wrong with a call: also a field that does not go with its type.
func (c SandboxCall) Validate() error {
	var p problems
	p.id(c.ID)
	if !slices.Contains(SandboxCallTypes(), c.Type) {
		p.add("type", "%s is not one of %q", quote(string(c.Type)), SandboxCallTypes())
		return p.err()
	}
	if c.Type == SandboxPing || c.Type == SandboxClose {
		p.without(c.Exec != "", "exec", "does not go with %s", c.Type)
	} else {
		p.exec(c.Exec)
	}
	if c.Type == SandboxExec {
		p.sandboxCommand(c)
	} else {
		for _, f := range []struct {
			name  string
			there bool
		}{
			{"command", len(c.Command) > 0}, {"environment", len(c.Environment) > 0}, {"working_directory", c.WorkingDirectory != ""},
			{"timeout_seconds", c.TimeoutSeconds != 0}, {"stop", c.Stop != nil}, {"heartbeat_seconds", c.HeartbeatSeconds != 0}, {"window", c.Window != 0},
		} {
			p.without(f.there, f.name, "goes with exec only")
		}
	}
	if len(c.Data) > MaxChunkBytes {
		p.add("data", "has %d bytes, more than %d", len(c.Data), MaxChunkBytes)
	}
	if c.Type != SandboxExec && c.Type != SandboxStdin {
		p.without(len(c.Data) > 0, "data", "goes with exec and stdin only")
		p.without(c.More, "more", "goes with exec and stdin only")
	}
	switch c.Type {
	case SandboxStdin:
		p.count("n", int64(c.N), 1)
	case SandboxAck, SandboxHeartbeat:
		p.count("n", int64(c.N), 0)
	default:
		p.without(c.N != 0, "n", "goes with stdin, ack and heartbeat only")
	}
	return p.err()
}

func (p *problems) sandboxCommand(c SandboxCall) {
	if len(c.Command) == 0 || c.Command[0] == "" {
		p.add("command", "must name a program")
	}
	p.texts("command", c.Command, MaxMessageBytes)
	p.environment(Invocation{Environment: c.Environment})
	p.workingDirectory(c.WorkingDirectory)
	p.seconds("timeout_seconds", c.TimeoutSeconds)
	p.stop(c.Stop)
	p.seconds("heartbeat_seconds", c.HeartbeatSeconds)
	if !(c.HeartbeatSeconds >= 0.1 && c.HeartbeatSeconds <= 3600) {
		p.add("heartbeat_seconds", "%v is not within 0.1 and 3600", c.HeartbeatSeconds)
	}
	p.count("window", int64(c.Window), 1)
}

// Validate says what is wrong with a reply: also a field that does not go with its type.
func (r SandboxReply) Validate() error {
	var p problems
	p.id(r.ID)
	if !slices.Contains(SandboxReplyTypes(), r.Type) {
		p.add("type", "%s is not one of %q", quote(string(r.Type)), SandboxReplyTypes())
		return p.err()
	}
	// A heartbeat answers ping and close too, an outcome what could not be read.
	if r.Exec != "" || r.Type == SandboxSaysOutput || r.Type == SandboxSaysAck {
		p.exec(r.Exec)
	}
	least := int64(0)
	if r.Type == SandboxSaysOutput {
		least = 1
	}
	p.count("n", int64(r.N), least)
	if r.Type == SandboxSaysOutput && len(r.Pieces) == 0 {
		p.add("pieces", "must not be empty")
	}
	p.without(r.Type != SandboxSaysOutput && len(r.Pieces) > 0, "pieces", "go with output only: an outcome has a tail")
	p.whole("pieces", r.Pieces, MaxChunkBytes)
	switch {
	case r.Type == SandboxSaysOutcome && r.Outcome == nil:
		p.add("outcome", "is missing")
	case r.Type != SandboxSaysOutcome && r.Outcome != nil:
		p.add("outcome", "goes with type outcome only")
	case r.Outcome != nil:
		o := *r.Outcome
		if !o.Status.Ended() {
			p.add("outcome.status", "%s is not how a command ends", quote(string(o.Status)))
		}
		if o.Reason != "" {
			p.token("outcome.reason", string(o.Reason))
		}
		p.text("outcome.error_summary", o.Error, MaxErrorBytes)
		p.text("outcome.killed", o.Killed, MaxKilledBytes)
		p.whole("outcome.tail", o.Tail, MaxTailBytes)
	}
	return p.err()
}

// without adds a problem where a field is there that must not be.
func (p *problems) without(there bool, field, problem string, a ...any) {
	if there {
		p.add(field, problem, a...)
	}
}

func (p *problems) exec(name string) {
	if len(name) != 16 || !ValidRun(name[:8]) || !ValidRun(name[8:]) {
		p.add("exec", "%s is not 16 characters of a-z and 2-7", quote(name))
	}
}

// sandbox checks that an invocation asks for nothing that a sandbox does not have.
func (p *problems) sandbox(inv Invocation) {
	s := inv.Container.Sandbox
	if s == nil {
		return
	}
	p.seconds("container.sandbox.idle_seconds", s.IdleSeconds)
	p.seconds("container.sandbox.wait_seconds", s.WaitSeconds)
	c := inv.Container
	p.without(len(inv.Command) > 0, "command", "does not go with a sandbox: its commands are asked for while it is open")
	p.without(len(c.Entrypoint) > 0, "container.entrypoint", "does not go with a sandbox: nothing of the image's is run by itself")
	p.without(inv.Stdin != nil, "stdin", "does not go with a sandbox: each of its commands may have one")
	p.without(inv.Retry != nil, "retry", "does not go with a sandbox: its files are gone when it ends")
	p.without(len(c.Ports) > 0, "container.ports", "do not go with a sandbox: a result says where they are, and there is none while it is open")
	p.without(c.NoInit, "container.no_init", "does not go with a sandbox: process 1 of it is Runnel's")
	if uid, gid, _ := strings.Cut(c.User, ":"); c.User != "" && (!ordinary(uid) || gid != "" && !ordinary(gid)) {
		p.add("container.user", "%s: the user of a sandbox is UID or UID:GID, numbers other than 0", quote(c.User))
	}
}

// ordinary reports whether an id is a number, and not root's.
func ordinary(id string) bool {
	n, err := strconv.ParseUint(id, 10, 31)
	return err == nil && n > 0
}

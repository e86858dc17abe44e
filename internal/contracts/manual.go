package contracts

import (
	"fmt"
	"slices"
)

// ManualRequest asks a responder to do an invocation of kind manual. A worker publishes it to
// <prefix>.manual.<runtime_name>, in JSON, with an inbox as its reply subject: there it hears ManualReply messages.
type ManualRequest struct {
	// Invocation is what was asked for, with tenant, pool and lane filled in.
	Invocation Invocation `json:"invocation"`
	// Run names this execution of it; every reply echoes it and the invocation's id (E25).
	Run string `json:"run"`
	// Attempt is 1 plus the attempts that ended before by the work's own doing.
	Attempt int `json:"attempt"`
	// HeartbeatSeconds is how often a responder says something at least; silence of three times as long is its death.
	HeartbeatSeconds float64 `json:"heartbeat_seconds"`
	// SecondsLeft is what is left of the run's time; 0 is no bound.
	SecondsLeft float64 `json:"seconds_left,omitempty"`
	// Window is how many output messages may be unacknowledged.
	Window int `json:"window"`
}

// ManualReply is what a responder says of a run, on the inbox of the request. Its own reply subject, if it has one,
// is where it hears ManualControl messages.
type ManualReply struct {
	Type ManualType `json:"type"`
	ID   string     `json:"invocation_id"`
	Run  string     `json:"run"`
	// Responder names who speaks: [A-Za-z0-9][A-Za-z0-9_-]{0,127}, "" allowed. The first one heard has the run, and
	// what another one says of it is not heard.
	Responder string `json:"responder,omitempty"`
	// N numbers an output message, from 1 without gaps; in an outcome it is how many went before it.
	N int `json:"n,omitempty"`
	// Pieces are the bytes of an output message, at most 64 KiB.
	Pieces []Piece `json:"pieces,omitempty"`
	// Fraction says how much of the work is done, from 0 to 1, in a progress message.
	Fraction *float64 `json:"fraction,omitempty"`
	// Text is for people: of a progress, or why the responder declined. At most 4 KiB.
	Text string `json:"text,omitempty"`
	// Outcome is how the work ended.
	Outcome *ManualOutcome `json:"outcome,omitempty"`
}

// ManualType says what a ManualReply is.
type ManualType string

// What a responder says.
const (
	ManualAccepted  ManualType = "accepted"  // I do it
	ManualOutput    ManualType = "output"    // N, Pieces
	ManualProgress  ManualType = "progress"  // Fraction or Text, or both
	ManualHeartbeat ManualType = "heartbeat" // I live
	ManualDeclined  ManualType = "declined"  // not I: before anything else ask again, later another worker tries
	ManualEnded     ManualType = "outcome"   // Outcome; the last one
)

// ManualOutcome is how the work ended, as a responder or a person says.
type ManualOutcome struct {
	// Status is succeeded, failed or rejected.
	Status Status `json:"status"`
	// ExitCode is 0 for succeeded and not 0 for failed; nil is 0 and 1.
	ExitCode *int `json:"exit_code,omitempty"`
	// Error is for people, at most 4 KiB; rejected needs one.
	Error string `json:"error_summary,omitempty"`
	// Metadata stands in the result, at most 16 KiB.
	Metadata map[string]string `json:"metadata,omitempty"`
	// Tail is output after the last output message, at most 64 KiB.
	Tail []Piece `json:"tail,omitempty"`
}

// ManualControl is what a worker says to the responder that has a run, on the reply subject of its messages, in JSON.
type ManualControl struct {
	Type ManualControlType `json:"type"`
	ID   string            `json:"invocation_id"`
	Run  string            `json:"run"`
	// N is the output message up to which an ack counts.
	N int `json:"n,omitempty"`
	// Reason says why the work is to stop: cancelled, timeout, answered, infra.
	Reason Reason `json:"reason,omitempty"`
	// GraceSeconds is how long the worker waits for the outcome of what it stops.
	GraceSeconds float64 `json:"grace_seconds,omitempty"`
}

// ManualControlType says what a ManualControl is.
type ManualControlType string

// What a worker says to a responder.
const (
	ManualAck  ManualControlType = "ack"  // output messages up to N are taken
	ManualStop ManualControlType = "stop" // end the work and say how it ended; Reason
	ManualEnd  ManualControlType = "end"  // the outcome is taken, or nobody waits for it: send nothing more
)

// ManualAnswer ends a manual invocation by hand: a request to <prefix>.answer.<tenant>.<id>, which the worker
// that holds the run answers with a ManualReceipt.
type ManualAnswer struct {
	ID string `json:"invocation_id"`
	// Answer names this answer, by 16 random characters of a-z and 2-7: what is asked again is not taken twice.
	Answer  string        `json:"answer"`
	Outcome ManualOutcome `json:"outcome"`
}

// ManualReceipt says that a holder has taken an answer. The result names it in metadata["manual.answer"].
type ManualReceipt struct {
	// Answer is the one that was taken: another one's if that came first, "" if the work had ended by then.
	Answer string `json:"answer,omitempty"`
}

// ManualHeard is a message as the worker's side of a run hears it.
type ManualHeard struct {
	// Nobody says that no responder listens: there is no message then.
	Nobody bool
	// Person says that it is a ManualAnswer; else it is a ManualReply.
	Person bool
	Meta   Meta
	Body   []byte
	Reply  string // where to answer, or ""
}

// Settings and caps of manual.
const (
	ManualWindow       = 16 // output messages that may be unacknowledged
	ManualHeartbeats   = 10 // seconds, where the invocation does not say
	ManualSilence      = 3  // heartbeats that may be missed
	MetaManualAnswer   = "manual.answer"
	MetaManualWho      = "manual.responder"
	MetaManualNobody   = "manual.no_responder"      // wait (which is the default) or reject
	MetaManualInterval = "manual.heartbeat_seconds" // 0.1 to 3600
)

// ReasonAnswered is why a responder is told to stop when a person has answered in its place. No result has it.
const ReasonAnswered Reason = "answered"

// PhaseProgress marks the lines, on stderr, that say how far the work of a responder is.
const PhaseProgress Phase = "progress"

// Validate says what is wrong with a request, and with the invocation in it.
func (r ManualRequest) Validate() error {
	var p problems
	if err, ok := r.Invocation.Validate().(*ValidationError); ok {
		for _, f := range err.Fields {
			f := f
			p.list = append(p.list, *f.in("invocation"))
		}
	}
	if r.Invocation.Kind != KindManual {
		p.add("invocation.runtime_kind", "%s is not manual", quote(string(r.Invocation.Kind)))
	}
	p.run(r.Run)
	p.count("attempt", int64(r.Attempt), 1)
	p.seconds("heartbeat_seconds", r.HeartbeatSeconds)
	if r.HeartbeatSeconds == 0 {
		p.add("heartbeat_seconds", "must be more than 0")
	}
	p.seconds("seconds_left", r.SecondsLeft)
	p.count("window", int64(r.Window), 1)
	return p.err()
}

// Validate says what is wrong with a reply: also a field that does not go with its type.
func (r ManualReply) Validate() error {
	var p problems
	p.id(r.ID)
	p.run(r.Run)
	if r.Responder != "" && !ValidID(r.Responder) {
		p.add("responder", "%s is not a name: 1 to %d letters, digits, '_' and '-', beginning with a letter or digit", quote(r.Responder), MaxIDBytes)
	}
	types := []ManualType{ManualAccepted, ManualOutput, ManualProgress, ManualHeartbeat, ManualDeclined, ManualEnded}
	if !slices.Contains(types, r.Type) {
		p.add("type", "%s is not accepted, output, progress, heartbeat, declined or outcome", quote(string(r.Type)))
		return p.err()
	}
	switch r.Type {
	case ManualOutput:
		p.count("n", int64(r.N), 1)
		if len(r.Pieces) == 0 {
			p.add("pieces", "must not be empty")
		}
	case ManualEnded:
		p.count("n", int64(r.N), 0)
	default:
		if r.N != 0 {
			p.add("n", "goes with output and outcome only")
		}
	}
	if len(r.Pieces) > 0 && r.Type != ManualOutput {
		p.add("pieces", "go with output only: an outcome has a tail")
	}
	p.whole("pieces", r.Pieces, MaxChunkBytes)
	if f := r.Fraction; f != nil {
		if r.Type != ManualProgress {
			p.add("fraction", "goes with progress only")
		}
		if !(*f >= 0 && *f <= 1) { // NaN too
			p.add("fraction", "%v is not within 0 and 1", *f)
		}
	}
	if r.Text != "" && r.Type != ManualProgress && r.Type != ManualDeclined {
		p.add("text", "goes with progress and declined only")
	}
	p.text("text", r.Text, MaxErrorBytes)
	switch {
	case r.Type == ManualEnded && r.Outcome == nil:
		p.add("outcome", "is missing")
	case r.Type != ManualEnded && r.Outcome != nil:
		p.add("outcome", "goes with type outcome only")
	case r.Outcome != nil:
		p.outcome("outcome.", *r.Outcome)
	}
	return p.err()
}

// Validate says what is wrong with an outcome.
func (o ManualOutcome) Validate() error {
	var p problems
	p.outcome("", o)
	return p.err()
}

func (p *problems) outcome(prefix string, o ManualOutcome) {
	switch o.Status {
	case StatusSucceeded:
		if o.ExitCode != nil && *o.ExitCode != 0 {
			p.add(prefix+"exit_code", "%d does not go with succeeded", *o.ExitCode)
		}
	case StatusFailed:
		if o.ExitCode != nil && *o.ExitCode == 0 {
			p.add(prefix+"exit_code", "0 does not go with failed")
		}
	case StatusRejected:
		if o.ExitCode != nil {
			p.add(prefix+"exit_code", "does not go with rejected")
		}
		if o.Error == "" {
			p.add(prefix+"error_summary", "must say why it is rejected")
		}
	default:
		p.add(prefix+"status", "%s is not succeeded, failed or rejected", quote(string(o.Status)))
	}
	if c := o.ExitCode; c != nil && (*c < -255 || *c > 1<<31-1) {
		p.add(prefix+"exit_code", "%d is not within -255 and %d", *c, 1<<31-1)
	}
	p.text(prefix+"error_summary", o.Error, MaxErrorBytes)
	size := 0
	for k, v := range o.Metadata {
		size += len(k) + len(v)
	}
	if size > MaxMetadataBytes {
		p.add(prefix+"metadata", "has %d bytes, more than %d", size, MaxMetadataBytes)
	} else {
		p.textMap(prefix+"metadata", o.Metadata, MaxNameBytes, MaxMetadataBytes, nil)
	}
	p.whole(prefix+"tail", o.Tail, MaxTailBytes)
}

// whole is pieces of a responder: what is left out is the worker's to say.
func (p *problems) whole(field string, pieces []Piece, most int) {
	p.pieces(field, pieces, most)
	for i, piece := range pieces {
		if piece.Cut > 0 {
			p.add(fmt.Sprintf("%s[%d].cut", field, i), "is the worker's to say")
		}
	}
}

// Validate says what is wrong with a control message.
func (c ManualControl) Validate() error {
	var p problems
	p.id(c.ID)
	p.run(c.Run)
	if !slices.Contains([]ManualControlType{ManualAck, ManualStop, ManualEnd}, c.Type) {
		p.add("type", "%s is not ack, stop or end", quote(string(c.Type)))
	}
	if c.Type == ManualAck {
		p.count("n", int64(c.N), 1)
	} else if c.N != 0 {
		p.add("n", "goes with ack only")
	}
	if c.Reason != "" {
		p.token("reason", string(c.Reason))
	}
	p.seconds("grace_seconds", c.GraceSeconds)
	return p.err()
}

// Validate says what is wrong with an answer.
func (a ManualAnswer) Validate() error {
	var p problems
	p.id(a.ID)
	p.answer(a.Answer)
	p.outcome("outcome.", a.Outcome)
	return p.err()
}

// Validate says what is wrong with a receipt.
func (r ManualReceipt) Validate() error {
	var p problems
	if r.Answer != "" {
		p.answer(r.Answer)
	}
	return p.err()
}

func (p *problems) id(id string) {
	if !ValidID(id) {
		p.add("invocation_id", "%s is not an id", quote(id))
	}
}

func (p *problems) answer(name string) {
	if len(name) != 16 || !ValidRun(name[:8]) || !ValidRun(name[8:]) {
		p.add("answer", "%s is not 16 characters of a-z and 2-7", quote(name))
	}
}

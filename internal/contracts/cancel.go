package contracts

// CancelReply is what the holder of a run answers to a cancel request: once at once
// (killing), and once more when the last word is stored.
type CancelReply struct {
	State CancelState `json:"state"`
	// Status is the stored result's, once there is one.
	Status Status `json:"status,omitempty"`
	// Killed says what was ended, for people.
	Killed string `json:"killed,omitempty"`
}

// CancelState says how far a cancel has come.
type CancelState string

// The states of a cancel.
const (
	CancelKilling CancelState = "killing"   // a holder heard it and ends the run
	CancelDone    CancelState = "cancelled" // the result says cancelled
	CancelEnded   CancelState = "ended"     // the run had ended otherwise
)

// Validate says what is wrong with a cancel reply.
func (r CancelReply) Validate() error {
	var p problems
	switch r.State {
	case CancelKilling, CancelDone, CancelEnded:
	default:
		p.add("state", "%s is not killing, cancelled or ended", quote(string(r.State)))
	}
	if r.Status != "" {
		p.ended(r.Status, "")
	}
	p.text("killed", r.Killed, MaxKilledBytes)
	return p.err()
}

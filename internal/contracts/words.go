package contracts

import "slices"

// Kind says which runner a run needs. It is an open set of tokens
// [a-z0-9_-]{1,64}; these are the ones that Runnel knows by name.
type Kind string

// The kinds of RxP v0.1 (E3), and two of our own.
const (
	KindSubprocess Kind = "subprocess"
	KindContainer  Kind = "container"
	KindHTTP       Kind = "http"
	KindHTTPAsync  Kind = "http_async"
	KindHTTPSSE    Kind = "http_sse"
	KindManual     Kind = "manual"
	KindNoop       Kind = "noop"
)

// Lane orders invocations that wait for the same kind and pool.
type Lane string

// The lanes, in the order in which workers ask them under load.
const (
	LaneHigh   Lane = "high"
	LaneNormal Lane = "normal"
	LaneLow    Lane = "low"
)

// Lanes returns every lane, the most urgent first.
func Lanes() []Lane { return []Lane{LaneHigh, LaneNormal, LaneLow} }

// Names that an invocation gets when it gives none.
const (
	DefaultPool   = "default"
	DefaultTenant = "default"
	DefaultShard  = "0"
)

// Status is where an invocation stands (E4).
type Status string

// Pending and running are never stored in a result; the others end an invocation.
const (
	StatusPending   Status = "pending"
	StatusRunning   Status = "running"
	StatusSucceeded Status = "succeeded"
	StatusFailed    Status = "failed"
	StatusTimedOut  Status = "timed_out"
	StatusCancelled Status = "cancelled"
	StatusRejected  Status = "rejected"
)

// Ended reports whether s is a last word.
func (s Status) Ended() bool {
	return slices.Contains([]Status{StatusSucceeded, StatusFailed, StatusTimedOut, StatusCancelled, StatusRejected}, s)
}

// Reason says why a status is not succeeded.
type Reason string

// Every reason that Runnel gives.
const (
	ReasonExit          Reason = "exit"           // failed: a non-zero exit code
	ReasonSignal        Reason = "signal"         // failed: ended by a signal, exit_code is its negative number (E17)
	ReasonOOM           Reason = "oom"            // failed: out of memory
	ReasonDisk          Reason = "disk"           // failed: it kept more on the disk than it may
	ReasonTimeout       Reason = "timeout"        // timed_out: timeout_seconds passed
	ReasonIdleTimeout   Reason = "idle_timeout"   // timed_out: no output for too long
	ReasonQueueTimeout  Reason = "queue_timeout"  // timed_out: waited too long to start
	ReasonCancelled     Reason = "cancelled"      // cancelled: asked to
	ReasonNoRunner      Reason = "no_runner"      // rejected: this worker has no runner for the kind (E10)
	ReasonBadInvocation Reason = "bad_invocation" // rejected: the invocation breaks a rule
	ReasonNotFound      Reason = "not_found"      // failed, 127: the command does not exist
	ReasonNotExecutable Reason = "not_executable" // failed, 126: the command cannot be executed
	ReasonNotAllowed    Reason = "not_allowed"    // rejected: the worker's policy forbids it
	ReasonImage         Reason = "image"          // failed: the image cannot be had
	ReasonSetup         Reason = "setup"          // failed: the setup did not end well, so the command did not run (S8)
	ReasonArtifacts     Reason = "artifacts"      // failed: the run ended well, its files could not be stored
	ReasonInfra         Reason = "infra"          // failed: Runnel or its surroundings, not the work
	ReasonPoison        Reason = "poison"         // failed: it took too many workers down
)

// Stream names one of the two outputs of a run.
type Stream string

// The two streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Phase says which part of a run wrote output. The work itself is the empty phase.
type Phase string

// The phases around the work (S7–S9).
const (
	PhaseMain    Phase = ""
	PhaseSetup   Phase = "setup"
	PhaseCleanup Phase = "cleanup"
)

// Caps of what is stored. They are part of the wire: a message beyond its cap is refused.
const (
	MaxMessageBytes     = 512 << 10 // any message
	MaxResultBytes      = 128 << 10 // a result
	MaxTailBytes        = 64 << 10  // output that rides in a result or an end
	MaxErrorBytes       = 4 << 10   // an error text
	MaxMetadataBytes    = 16 << 10  // metadata of a result, keys and values
	MaxInlineArtifacts  = 50        // artifacts named in a result; more go to a manifest object
	MaxChunkBytes       = 64 << 10  // output in one message or chunk
	MaxFloodChunkBytes  = 256 << 10 // output in one stored chunk of a run that writes fast
	MaxStateBytes       = 4 << 10   // what a run notes for whoever takes its work over
	MinChunkCharge      = 1 << 10   // what a stored chunk counts at least against the output limit
	MaxIDBytes          = 128
	MaxTokenBytes       = 64
	DefaultOutputLimit  = 64 << 20
	MaxInlineStdinBytes = 256 << 10 // stdin beyond this travels through the input bucket
)

package runnel

import (
	"errors"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// What travels, and is stored. The package documentation says how to see the fields; their wire names and rules stand in docs/protocol.md.
type (
	// Invocation is the ask: what to run, with what, and under which limits.
	Invocation = contracts.Invocation
	// Input is standard input: bytes in the invocation, or a reference to the tenant's input bucket.
	Input = contracts.Input
	// Stop is the order in which work is ended: interrupt, terminate, kill.
	Stop = contracts.Stop
	// Container says in what an invocation of kind container runs.
	Container = contracts.Container
	// Setup prepares the image of a container once, and is kept for the next invocation with the same.
	Setup = contracts.Setup
	// Tmpfs is a directory in memory, inside of a container.
	Tmpfs = contracts.Tmpfs
	// Mount is a directory or file of the engine's machine, seen from inside of a container.
	Mount = contracts.Mount
	// Pull says when an image is fetched.
	Pull = contracts.Pull
	// SandboxLimits make an invocation of kind container a sandbox, and say how long it may be idle.
	SandboxLimits = contracts.Sandbox
	// Retry says which of the work's own failures are tried again, and when.
	Retry = contracts.Retry
	// Result is the last word on an invocation: exactly one is stored.
	Result = contracts.Result
	// Event is what a follower of one invocation sees, in order: its Type says which of Output, Start, End, Gap and Result is set.
	Event = contracts.Event
	// Piece is a stretch of one stream's output, or the mark of a stretch that was left out.
	Piece = contracts.Piece
	// Start says that a run began.
	Start = contracts.Start
	// End says how a run ended that was not the last word.
	End = contracts.End
	// Gap names chunks of a run that cannot be had, from the first to the last.
	Gap = contracts.Gap
	// Artifact is a file that a run left.
	Artifact = contracts.Artifact
	// Segment is a stretch of a blob in the artifact store.
	Segment = contracts.Segment
	// Presence is what a worker says of itself while it lives.
	Presence = contracts.Presence

	// ManualOutcome is how a manual invocation ended, as a person says.
	ManualOutcome = contracts.ManualOutcome

	// Kind says which runner an invocation needs; an open set of names.
	Kind = contracts.Kind
	// Lane orders invocations that wait for the same kind and pool.
	Lane = contracts.Lane
	// Status is where an invocation stands.
	Status = contracts.Status
	// Reason says why a status is not succeeded.
	Reason = contracts.Reason
	// EventType says what an Event is.
	EventType = contracts.EventType
	// Stream names one of the two outputs of a run.
	Stream = contracts.Stream
	// Phase says which part of a run wrote output.
	Phase = contracts.Phase

	// Receipt says that an invocation was accepted: its ID, the Digest of its content, and whether it Existed.
	Receipt = queue.Receipt
	// Info is what is known of one invocation: where it stands, the run that counts, and the Result, nil until it has ended.
	Info = queue.Info
	// ListOptions says which invocations to list.
	ListOptions = queue.ListOptions
	// CancelReport says what a cancel came to: what it met, what was killed, and whether the invocation had AlreadyEnded.
	CancelReport = queue.CancelReport
	// ExecRequest is a command for a sandbox: its argument vector, and where its input and output come from and go.
	ExecRequest = queue.ExecRequest
	// ExecResult is how a command in a sandbox ended.
	ExecResult = queue.ExecResult
	// Drift is a setting of a stream that exists and differs from what Runnel would create.
	Drift = queue.Drift
	// Inspection is what a look at one stream found.
	Inspection = queue.Inspection

	// ValidationError lists every rule that an invocation breaks.
	ValidationError = contracts.ValidationError
	// FieldError is one broken rule, by the name of the field.
	FieldError = contracts.FieldError
	// AmbiguousError says that a prefix is that of several ids.
	AmbiguousError = queue.AmbiguousError
	// SandboxEndedError says that a sandbox is not open any more, and how it ended.
	SandboxEndedError = queue.SandboxEndedError
)

// The kinds that Runnel knows by name.
const (
	KindSubprocess = contracts.KindSubprocess
	KindContainer  = contracts.KindContainer
	KindHTTP       = contracts.KindHTTP
	KindHTTPAsync  = contracts.KindHTTPAsync
	KindHTTPSSE    = contracts.KindHTTPSSE
	KindManual     = contracts.KindManual
	KindNoop       = contracts.KindNoop
)

// The lanes, the most urgent first.
const (
	LaneHigh   = contracts.LaneHigh
	LaneNormal = contracts.LaneNormal
	LaneLow    = contracts.LaneLow
)

// What an invocation gets that names neither.
const (
	DefaultPool   = contracts.DefaultPool
	DefaultTenant = contracts.DefaultTenant
)

// The statuses. Pending and running are those of an Info; a result has one of the others.
const (
	StatusPending   = contracts.StatusPending
	StatusRunning   = contracts.StatusRunning
	StatusSucceeded = contracts.StatusSucceeded
	StatusFailed    = contracts.StatusFailed
	StatusTimedOut  = contracts.StatusTimedOut
	StatusCancelled = contracts.StatusCancelled
	StatusRejected  = contracts.StatusRejected
)

// The reasons: why a Status is not StatusSucceeded. ReasonExit is an exit code (a response that is none of the good ones, an error of a
// Handler), ReasonInfra a fault of ours. docs/protocol.md tells them all.
const (
	ReasonExit          = contracts.ReasonExit
	ReasonSignal        = contracts.ReasonSignal
	ReasonOOM           = contracts.ReasonOOM
	ReasonDisk          = contracts.ReasonDisk
	ReasonTimeout       = contracts.ReasonTimeout
	ReasonIdleTimeout   = contracts.ReasonIdleTimeout
	ReasonQueueTimeout  = contracts.ReasonQueueTimeout
	ReasonCancelled     = contracts.ReasonCancelled
	ReasonNoRunner      = contracts.ReasonNoRunner
	ReasonBadInvocation = contracts.ReasonBadInvocation
	ReasonNotFound      = contracts.ReasonNotFound
	ReasonNotExecutable = contracts.ReasonNotExecutable
	ReasonNotAllowed    = contracts.ReasonNotAllowed
	ReasonImage         = contracts.ReasonImage
	ReasonSetup         = contracts.ReasonSetup
	ReasonArtifacts     = contracts.ReasonArtifacts
	ReasonInfra         = contracts.ReasonInfra
	ReasonPoison        = contracts.ReasonPoison
	ReasonBusy          = contracts.ReasonBusy // of a command in a sandbox only
)

// The events of a follower.
const (
	EventStarted   = contracts.EventStarted
	EventOutput    = contracts.EventOutput
	EventEnded     = contracts.EventEnded
	EventRestarted = contracts.EventRestarted
	EventGap       = contracts.EventGap
	EventResult    = contracts.EventResult
)

// The two streams.
const (
	Stdout = contracts.Stdout
	Stderr = contracts.Stderr
)

// The phases of a run; the work itself is PhaseMain.
const (
	PhaseMain    = contracts.PhaseMain
	PhaseSetup   = contracts.PhaseSetup
	PhaseCleanup = contracts.PhaseCleanup
)

// The ways to fetch an image.
const (
	PullMissing = contracts.PullMissing
	PullAlways  = contracts.PullAlways
	PullNever   = contracts.PullNever
)

// Where the work of a container finds its directories.
const (
	ContainerWorkspace = contracts.ContainerWorkspace
	ContainerArtifacts = contracts.ContainerArtifacts
)

// Caps of what is stored.
const (
	MaxMessageBytes     = contracts.MaxMessageBytes     // bytes of any message, as it is encoded: 512 KiB
	MaxInlineStdinBytes = contracts.MaxInlineStdinBytes // bytes of stdin in an invocation; more travels through the input bucket
	MinPrefix           = queue.MinPrefix               // characters of an id that Resolve needs
)

// AllRuns has WatchRun show every run.
const AllRuns = queue.AllRuns

// What a caller may branch on with errors.Is.
var (
	// ErrNotFound says that there is no such invocation, or that its result is not kept any more.
	ErrNotFound = queue.ErrNotFound
	// ErrIDInUse says that another invocation with other content has the id.
	ErrIDInUse = queue.ErrIDInUse
	// ErrUnknown says that no answer came: what was asked for may have happened or not.
	ErrUnknown = queue.ErrUnknown
	// ErrFull says that the queue has no room: nothing was stored.
	ErrFull = queue.ErrFull
	// ErrDenied says that this user may not do it; the text names the subject.
	ErrDenied = queue.ErrDenied
	// ErrNoStream says that the queue is not set up on this server; see Client.Ensure.
	ErrNoStream = queue.ErrNoStream
	// ErrForbidden says that a stream has settings under which jobs can be lost or run twice; the text names them.
	ErrForbidden = queue.ErrForbidden
	// ErrTooLarge says that an invocation is larger than a message may be.
	ErrTooLarge = queue.ErrTooLarge
	// ErrTaken says that a worker has taken what was to be withdrawn.
	ErrTaken = queue.ErrTaken
	// ErrAnswered says that an invocation ended otherwise than by an answer.
	ErrAnswered = queue.ErrAnswered
	// ErrSandboxLost says that the worker of a sandbox is gone, and the sandbox with it.
	ErrSandboxLost = queue.ErrSandboxLost
	// ErrNotSandbox says that an invocation is no sandbox.
	ErrNotSandbox = queue.ErrNotSandbox
	// ErrNotEnded says that an invocation has no result yet.
	ErrNotEnded = errors.New("not ended yet")
	// ErrCorrupt says that stored content is not what was put there.
	ErrCorrupt = errors.New("stored content is damaged")
	// ErrClosed says that the connection is closed.
	ErrClosed = queue.ErrClosed
)

// NewID returns a new invocation id: 16 random lower-case base32 characters.
func NewID() string { return contracts.NewID() }

// ValidID reports whether s may name an invocation: [A-Za-z0-9][A-Za-z0-9_-]{0,127}.
func ValidID(s string) bool { return contracts.ValidID(s) }

// ValidName reports whether s may name a kind, a pool or a tenant: [a-z0-9_-]{1,64}.
func ValidName(s string) bool { return contracts.ValidToken(s) }

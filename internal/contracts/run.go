package contracts

import "time"

// Piece is a stretch of one stream's output, or the mark of a stretch that was left out.
type Piece struct {
	Stream Stream `json:"stream"`
	Phase  Phase  `json:"phase,omitempty"`
	Data   []byte `json:"data,omitempty"`
	// Cut counts bytes of the stream that were left out at this place; Data is empty then.
	Cut int64 `json:"cut,omitempty"`
}

// Chunk is a numbered step of a run: output, in the order in which the worker saw it.
// Stored under <run>.<n>; n is 1 for the first and has no gaps.
type Chunk struct {
	N  int       `json:"n"`
	At time.Time `json:"at"`
	// Pieces have at most 64 KiB together, or 256 KiB while output comes fast.
	Pieces []Piece `json:"pieces,omitempty"`
	// State is what the run notes for whoever takes the work over, should its worker be lost: at most 4 KiB that only its
	// runner reads. Each chunk has the newest; a later run of the same attempt goes on from there.
	State []byte `json:"state,omitempty"`
	// StateBytes counts the output of the run, from its beginning, that State stands for: a run that goes on begins with that.
	StateBytes int64 `json:"state_bytes,omitempty"`
}

// Start says that a run began. Stored under <run>.start.
type Start struct {
	Run     string    `json:"run"`
	Attempt int       `json:"attempt"` // 1 + the attempts that ended before
	Worker  string    `json:"worker"`
	Host    string    `json:"host,omitempty"`
	At      time.Time `json:"at"`
	Digest  string    `json:"digest"`
}

// End says how a run ended that was not the last word: before a retry, a hand-back,
// or beside a `cancelled` that somebody else stored. Stored under <run>.end.
type End struct {
	Run     string `json:"run"`
	Attempt int    `json:"attempt"`
	// Counted says that the run ended by the work's own doing and used up an attempt.
	Counted bool   `json:"counted,omitempty"`
	Status  Status `json:"status"`
	Reason  Reason `json:"reason,omitempty"`
	// ExitCode is the process's; negative is a signal; nil where there was none.
	ExitCode *int `json:"exit_code,omitempty"`
	// Error is at most 4 KiB.
	Error string `json:"error_summary,omitempty"`
	// Killed says what was ended when the run was stopped, for people.
	Killed string    `json:"killed,omitempty"`
	Worker string    `json:"worker,omitempty"`
	At     time.Time `json:"at"`
	// NotBefore is when the next run may start, by the server's clock; zero is at once.
	NotBefore time.Time `json:"not_before,omitempty,omitzero"`
	Chunks    int       `json:"chunks,omitempty"`
	Tail      []Piece   `json:"tail,omitempty"`
}

// Result is the last word on an invocation: exactly one is stored per tenant and id (E5).
type Result struct {
	ID     string            `json:"invocation_id"`
	Name   string            `json:"runtime_name,omitempty"`
	Kind   Kind              `json:"runtime_kind"`
	Tenant string            `json:"tenant"`
	Pool   string            `json:"pool"`
	Lane   Lane              `json:"lane"`
	Labels map[string]string `json:"labels,omitempty"`
	Digest string            `json:"digest"`

	// Status is one of those that are an end, Reason why it is not succeeded.
	Status Status `json:"status"`
	Reason Reason `json:"reason,omitempty"`
	// ExitCode is the work's: negative is a signal, nil where there was none.
	ExitCode *int `json:"exit_code,omitempty"`
	// Error says for people what went wrong, in at most 4 KiB.
	Error string `json:"error_summary,omitempty"`
	// Killed says what was ended when the work was stopped, for people.
	Killed string `json:"killed,omitempty"`

	// Run is the run whose output counts; "" where nothing ran.
	Run string `json:"run,omitempty"`
	// Attempt is 1 plus the attempts that ended before by the work's own doing.
	Attempt int `json:"attempt,omitempty"`
	// Chunks is how many messages hold that run's output; what came after them is Tail.
	Chunks int `json:"chunks,omitempty"`
	// Tail is the output after the last chunk, at most 64 KiB.
	Tail []Piece `json:"tail,omitempty"`
	// StdoutBytes and StderrBytes count what the run wrote, CutBytes what of it is not stored.
	StdoutBytes int64 `json:"stdout_bytes,omitempty"`
	StderrBytes int64 `json:"stderr_bytes,omitempty"`
	CutBytes    int64 `json:"cut_bytes,omitempty"`

	// Artifacts names the files left, at most 50; Manifest is the object with all ArtifactCount of them where there are more.
	Artifacts     []Artifact `json:"artifacts,omitempty"`
	ArtifactCount int        `json:"artifact_count,omitempty"`
	Manifest      string     `json:"manifest,omitempty"`
	// Warnings say what was not done as it was asked for: a file that could not be kept, a limit that the engine lacks.
	Warnings []string `json:"warnings,omitempty"`
	// Metadata is what the runner tells, at most 16 KiB: http.status, container.image and so on.
	Metadata map[string]string `json:"metadata,omitempty"`

	// Worker and Host say where it ended: "" where an asker cancelled it, and no worker had it.
	Worker string `json:"worker,omitempty"`
	Host   string `json:"host,omitempty"`
	// SubmittedAt, StartedAt and FinishedAt are by the server's clock, but for the end of what an asker cancelled. StartedAt is
	// zero where nothing ran.
	SubmittedAt time.Time `json:"submitted_at,omitempty,omitzero"`
	StartedAt   time.Time `json:"started_at,omitempty,omitzero"`
	FinishedAt  time.Time `json:"finished_at"`
}

// Artifact is a file that a run left.
type Artifact struct {
	// Path is relative, with slashes. Bytes that are not UTF-8 are kept in PathBytes, and Path shows U+FFFD for them.
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"`
	// Mode is the permission bits, 0777 at most.
	Mode uint32 `json:"mode"`
	// Size counts bytes; SHA256 is of the content, in lower-case hex.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Segments put together in order are the content; none for an empty file.
	Segments []Segment `json:"segments,omitempty"`
}

// Segment is a stretch of a blob in the artifact store.
type Segment struct {
	Blob   string `json:"blob"` // "<epoch>.<sha256 of the blob>"
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// Manifest names every file that a run left, where a result cannot name them all (Result.Manifest).
type Manifest struct {
	Artifacts []Artifact `json:"artifacts"`
}

// Dead is a letter that was put aside: the invocation as it came, and why.
type Dead struct {
	Reason  Reason    `json:"reason"`
	Error   string    `json:"error_summary,omitempty"`
	At      time.Time `json:"at"`
	Subject string    `json:"subject"`
	Body    []byte    `json:"body"`
}

// Presence is what a worker says of itself while it lives.
type Presence struct {
	// Name is unique in the fleet. Version is that of the program.
	Name    string `json:"name"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Pool    string `json:"pool"`
	// Kinds are those that it can serve now.
	Kinds  []Kind            `json:"kinds"`
	Labels map[string]string `json:"labels,omitempty"`
	// Slots is how many runs it has at once, Busy how many of them are taken.
	Slots int `json:"slots"`
	Busy  int `json:"busy"`
	// Runs names the runs under way, and those whose files are being stored.
	Runs []string `json:"runs,omitempty"`
	// Capabilities say what really works there, for people, under names that begin with a kind: container.engine.
	Capabilities map[string]string `json:"capabilities,omitempty"`
	StartedAt    time.Time         `json:"started_at"`
	// Draining says that it takes no more and ends when its runs have.
	Draining bool `json:"draining,omitempty"`
	// Blocked says why it takes no more work for now, for people; "" is that it does.
	Blocked string `json:"blocked,omitempty"`
}

// Outcome is how the work ended: all that a runner says.
type Outcome struct {
	// Status is succeeded or failed; timed_out where the runner keeps a clock of its own (idle_timeout).
	Status   Status
	Reason   Reason
	ExitCode *int
	Error    string
	Metadata map[string]string
	// Killed says what had to be ended, for people: "3 processes (TERM, then KILL)".
	Killed string
	// Warnings are passed on in the result.
	Warnings []string
}

// Event is what a follower of one invocation sees, in order. Type says which of Output, Start, End, Gap and Result is set: one at most.
type Event struct {
	Type EventType `json:"type"`
	// Run names the run that it is about; "" where there is none.
	Run string `json:"run,omitempty"`
	// At is when it was, by the server's clock; zero where nobody noted it.
	At time.Time `json:"at,omitempty,omitzero"`

	// N numbers the chunk that output came in; 0 is the tail that rode in a result or an end.
	N      int     `json:"n,omitempty"`
	Output *Piece  `json:"output,omitempty"`
	Start  *Start  `json:"start,omitempty"`
	End    *End    `json:"end,omitempty"`
	Gap    *Gap    `json:"gap,omitempty"`
	Result *Result `json:"result,omitempty"`
}

// EventType says what an event is.
type EventType string

// The events of a follower.
const (
	EventStarted   EventType = "started"   // a run began; Start may be nil for a short one
	EventOutput    EventType = "output"    // Output
	EventEnded     EventType = "ended"     // a run ended and is not the last word; End
	EventRestarted EventType = "restarted" // what was shown so far does not count: Run does, shown from its beginning
	EventGap       EventType = "gap"       // chunks that cannot be had; Gap
	EventResult    EventType = "result"    // the last event; Result
)

// Gap names chunks of a run that are not stored any more, or never were.
type Gap struct {
	// From and To are the numbers of the first and the last of them; chunks count from 1.
	From int `json:"from"`
	To   int `json:"to"`
}

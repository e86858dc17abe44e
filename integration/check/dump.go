// Package check decides whether what a fault run left behind keeps Runnel's
// invariants. It takes full dumps of the streams and what the harness saw from
// outside, and returns every violation by number; it talks to nobody.
package check

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Key names an invocation.
type Key struct{ Tenant, ID string }

func (k Key) String() string { return k.Tenant + "/" + k.ID }

// Dump is all that the streams hold at one time, decoded.
type Dump struct {
	// Taken is when, by the server's clock.
	Taken time.Time
	// Invoke holds the invocations that wait or are held, in stored order.
	Invoke []Waiting
	// Replies holds the reply stream in stored order.
	Replies []Reply
	// Dead holds the dead letters.
	Dead []Letter
	// Unreadable names every message that could not be decoded or whose subject is none of ours.
	Unreadable []string
	// Streams are the settings that the server reports.
	Streams []jetstream.StreamConfig
	// Consumers are the consumers that exist, as "STREAM name"; Golden those that may.
	Consumers, Golden []string
	// Files are the artifacts that results name, each read back once.
	Files []File
	// Orphans names objects in the stores without meta.
	Orphans []string
}

// Waiting is a message of the invoke stream.
type Waiting struct {
	Key
	Seq uint64
	At  time.Time
}

// Reply is a message of the reply stream. Exactly one of the pointers is set.
type Reply struct {
	Key
	Run string
	Seq uint64
	// At is when the server stored it.
	At time.Time

	Chunk  *contracts.Chunk
	Start  *contracts.Start
	End    *contracts.End
	Result *contracts.Result
}

// Letter is a message of the dead stream.
type Letter struct {
	Key
	Seq  uint64
	Dead contracts.Dead
}

// File is an artifact that a live result names; Err says why it could not be read and verified.
type File struct {
	Key
	Path string
	Err  error
}

// Facts are what the harness knows from outside of the streams.
type Facts struct {
	// Submitted holds every invocation whose submission was confirmed, or that the streams were given by hand.
	Submitted map[Key]Submission
	// Results are the sequences of stored results, heard live: more than one of a key is a second result,
	// even if only one is left in the stream.
	Results map[Key][]uint64
	// Samples are looks at the streams while it ran.
	Samples []Sample
	// Executions are the processes that jobs started, from their own ledger.
	Executions []Execution
	// Followers are what each follower saw.
	Followers []Follower
	// Excused says for which invocations a fault was of a kind that lets runs overlap.
	Excused map[Key]Excuse
	// Left names what a finished fleet left behind: processes, cgroups, workspaces.
	Left []string

	// Beat and Grace are the fleet's; a tree that must be gone has both, and Slack for the harness's own looking.
	Beat, Grace, Slack time.Duration
	// Settle is how long an invocation may stay in INVOKE after its result.
	Settle time.Duration
	// Poison is how many starts without an end there may be.
	Poison int
}

// Submission is what was asked for.
type Submission struct {
	Digest string
	// Attempts is what its retry policy allows; 0 is 1.
	Attempts int
	// Counted says that the job prints its run token and a counter: see Output.
	Counted bool
	// Maybe says that the submission was never confirmed: it may exist or not, but if it does all else holds.
	Maybe bool
}

// Sample is one look at which invocations stand where. Accepted was noted first, then Invoke was read, then Replied:
// an invocation moves in that direction only, so one that is in neither was nowhere.
type Sample struct {
	At       time.Time
	Accepted []Key
	Invoke   map[Key]bool
	Replied  map[Key]bool
}

// Execution is one process of a job, as its own ledger and the process table tell.
type Execution struct {
	Key
	// Token names the execution; a process that the job left behind has the same.
	Token   string
	PID     int
	Started time.Time
	// Gone is when it was first seen not to live; zero is still alive.
	Gone time.Time
}

// Follower is one Watch.
type Follower struct {
	Key
	Name   string
	Events []contracts.Event
	// Ended says that the Watch returned.
	Ended bool
	Err   error
}

// Excuse lets the runs of an invocation overlap: its holder was frozen or cut off, or a server without replicas was killed.
type Excuse struct {
	Why string
	// Until is when the holder could hear again; the loser's tree has a beat and the grace from then.
	Until time.Time
}

package contracts

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// RxPVersion is the version of RxP whose documents this package reads and writes.
const RxPVersion = "0.1"

// The contract kinds of RxP.
const (
	ContractInvocation = "runtime_invocation"
	ContractResult     = "runtime_result"
	ContractArtifact   = "artifact_descriptor"
)

// RxPKinds returns the kinds that RxP v0.1 names, in its order (E3). The vocabulary is an open
// set here: any token passes, and Runnel has kinds of its own.
func RxPKinds() []Kind {
	return []Kind{KindSubprocess, KindHTTP, KindHTTPAsync, KindContainer, KindManual, "unknown"}
}

// RxPStatuses returns the statuses of RxP v0.1 in its order (E4).
func RxPStatuses() []Status {
	return []Status{StatusPending, StatusRunning, StatusSucceeded, StatusFailed, StatusTimedOut, StatusCancelled, StatusRejected}
}

// RxPInvocation is RxP's ask (E1). A field that may be left out says what stands for it then; what is written has
// every field. It says more about files than an Invocation does, and nothing of tenants, pools and lanes.
type RxPInvocation struct {
	// SchemaVersion is "0.1", also where it is left out.
	SchemaVersion string `json:"schema_version" rxp:"optional,only=0.1"`
	// ContractKind is "runtime_invocation", also where it is left out.
	ContractKind string `json:"contract_kind" rxp:"optional,only=runtime_invocation"`
	// ID names the invocation. RxP takes any text; Runnel rejects what is not an id (Invocation.ID).
	ID string `json:"invocation_id" rxp:"required"`
	// Name says what the work is, for people and for manual responders.
	Name string `json:"runtime_name" rxp:"required"`
	// Kind says which runner it needs.
	Kind Kind `json:"runtime_kind" rxp:"required"`
	// WorkingDirectory is where the work starts: a path inside the workspace, made if it is missing, "." is the
	// workspace; or an absolute one on the worker, which its policy must allow (E13).
	WorkingDirectory string `json:"working_directory" rxp:"required"`
	// Command is the argument vector. Kinds that have none are given ["unused"].
	Command []string `json:"command" rxp:"required"`
	// Environment is set for the work; left out it is empty.
	Environment map[string]string `json:"environment" rxp:"optional"`
	// TimeoutSeconds bounds one run, in whole seconds; left out or null is no bound.
	TimeoutSeconds *int64 `json:"timeout_seconds" rxp:"optional,null"`
	// InputPayloadPath is a file of the submitter that the work reads on standard input (E12); left out or null is none.
	InputPayloadPath *string `json:"input_payload_path" rxp:"optional,null"`
	// OutputResultPath is where the submitter has the result written (E11); left out or null is nowhere.
	OutputResultPath *string `json:"output_result_path" rxp:"optional,null"`
	// ArtifactDirectory is the submitter's directory in which output and files are kept, under the invocation's id
	// (E14); left out or null is .executor_runtime.
	ArtifactDirectory *string `json:"artifact_directory" rxp:"optional,null"`
	// Metadata is handed to the runner; left out it is empty.
	Metadata map[string]string `json:"metadata" rxp:"optional"`
}

// RxPResult is RxP's last word (E5). What is written has every field.
type RxPResult struct {
	// SchemaVersion is "0.1", also where it is left out.
	SchemaVersion string `json:"schema_version" rxp:"optional,only=0.1"`
	// ContractKind is "runtime_result", also where it is left out.
	ContractKind string `json:"contract_kind" rxp:"optional,only=runtime_result"`
	// ID is that of the invocation.
	ID string `json:"invocation_id" rxp:"required"`
	// Name is that of the invocation.
	Name string `json:"runtime_name" rxp:"required"`
	// Kind is that of the invocation.
	Kind Kind `json:"runtime_kind" rxp:"required"`
	// Status says how it ended; pending and running are never written.
	Status Status `json:"status" rxp:"required"`
	// ExitCode is the process's, a negative one the number of the signal that ended it (E17); null where there was none.
	ExitCode *int64 `json:"exit_code" rxp:"optional,null"`
	// StartedAt is when it began, in UTC; of what never ran it is FinishedAt (E10).
	StartedAt time.Time `json:"started_at" rxp:"required"`
	// FinishedAt is when it ended, in UTC.
	FinishedAt time.Time `json:"finished_at" rxp:"required"`
	// StdoutPath is the file with the standard output; null where nothing ran.
	StdoutPath *string `json:"stdout_path" rxp:"optional,null"`
	// StderrPath is the file with the standard error; null where nothing ran.
	StderrPath *string `json:"stderr_path" rxp:"optional,null"`
	// Artifacts are the two outputs, and then the files that the work left; empty where nothing ran (E20).
	Artifacts []RxPArtifact `json:"artifacts" rxp:"optional"`
	// ErrorSummary says what went wrong; null where the exit code says it all (E17).
	ErrorSummary *string `json:"error_summary" rxp:"optional,null"`
	// Metadata is what the runner says, and under names that begin with "runnel." what we say.
	Metadata map[string]string `json:"metadata" rxp:"optional"`
}

// RxPArtifact is a file that an invocation left, as RxP describes it (E6).
type RxPArtifact struct {
	// SchemaVersion is "0.1", also where it is left out.
	SchemaVersion string `json:"schema_version" rxp:"optional,only=0.1"`
	// ContractKind is "artifact_descriptor", also where it is left out.
	ContractKind string `json:"contract_kind" rxp:"optional,only=artifact_descriptor"`
	// ID names it among those of its invocation: "stdout", "stderr", "file:" and the path that the work gave it.
	ID string `json:"artifact_id" rxp:"required"`
	// Path is where it is.
	Path string `json:"path" rxp:"required"`
	// Kind is free text: "log_excerpt" for the outputs, "file" for what was left.
	Kind string `json:"kind" rxp:"required"`
	// Description is for people.
	Description string `json:"description" rxp:"optional"`
	// Metadata says more; left out it is empty.
	Metadata map[string]string `json:"metadata" rxp:"optional"`
}

// RxPDocument is a document of RxP.
type RxPDocument interface {
	RxPInvocation | RxPResult | RxPArtifact
}

// Validate says what is wrong with an invocation of RxP. What Runnel asks of one beyond that, Invocation.Validate says.
func (inv RxPInvocation) Validate() error {
	var p problems
	p.contract(inv.SchemaVersion, inv.ContractKind, ContractInvocation)
	p.filled("invocation_id", inv.ID)
	p.filled("runtime_name", inv.Name)
	p.token("runtime_kind", string(inv.Kind))
	p.filled("working_directory", inv.WorkingDirectory)
	if len(inv.Command) == 0 {
		p.add("command", "must have one text at least; kinds that have none are given [\"unused\"]")
	}
	if s := inv.TimeoutSeconds; s != nil && *s <= 0 {
		p.add("timeout_seconds", "%d is not more than 0; null is no bound", *s)
	}
	return p.err()
}

// Validate says what is wrong with a result of RxP.
func (r RxPResult) Validate() error {
	var p problems
	p.contract(r.SchemaVersion, r.ContractKind, ContractResult)
	p.filled("invocation_id", r.ID)
	p.filled("runtime_name", r.Name)
	p.token("runtime_kind", string(r.Kind))
	if !slices.Contains(RxPStatuses(), r.Status) {
		p.add("status", "%s is not a status: %v are", quote(string(r.Status)), RxPStatuses())
	}
	p.present("started_at", r.StartedAt)
	p.present("finished_at", r.FinishedAt)
	for i, a := range r.Artifacts {
		p.descriptor(fmt.Sprintf("artifacts[%d].", i), a)
	}
	return p.err()
}

// Validate says what is wrong with the description of an artifact.
func (a RxPArtifact) Validate() error {
	var p problems
	p.descriptor("", a)
	return p.err()
}

func (p *problems) descriptor(prefix string, a RxPArtifact) {
	if a.SchemaVersion != RxPVersion || a.ContractKind != ContractArtifact {
		p.add(prefix+"contract_kind", "is %s of version %s, not %s of %s", quote(a.ContractKind), quote(a.SchemaVersion), ContractArtifact, RxPVersion)
	}
	p.filled(prefix+"artifact_id", a.ID)
	p.filled(prefix+"path", a.Path)
	p.filled(prefix+"kind", a.Kind)
}

func (p *problems) contract(version, kind, want string) {
	if version != RxPVersion {
		p.add("schema_version", "%s is not %q", quote(version), RxPVersion)
	}
	if kind != want {
		p.add("contract_kind", "%s is not %q", quote(kind), want)
	}
}

func (p *problems) filled(field, s string) {
	if s == "" {
		p.add(field, "must not be empty")
	}
}

// withDefaults names what may be left out.
func (inv RxPInvocation) withDefaults() RxPInvocation {
	inv.SchemaVersion, inv.ContractKind = cmp.Or(inv.SchemaVersion, RxPVersion), cmp.Or(inv.ContractKind, ContractInvocation)
	return inv
}

func (r RxPResult) withDefaults() RxPResult {
	r.SchemaVersion, r.ContractKind = cmp.Or(r.SchemaVersion, RxPVersion), cmp.Or(r.ContractKind, ContractResult)
	r.Artifacts = slices.Clone(r.Artifacts)
	for i := range r.Artifacts {
		r.Artifacts[i] = r.Artifacts[i].withDefaults()
	}
	return r
}

func (a RxPArtifact) withDefaults() RxPArtifact {
	a.SchemaVersion, a.ContractKind = cmp.Or(a.SchemaVersion, RxPVersion), cmp.Or(a.ContractKind, ContractArtifact)
	return a
}

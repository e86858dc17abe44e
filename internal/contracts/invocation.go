package contracts

// Invocation is the ask: what to run, with what, and under which limits.
// Its digest (see Digest) decides whether two submissions under one id are the same.
type Invocation struct {
	// ID names the invocation within its tenant: [A-Za-z0-9][A-Za-z0-9_-]{0,127}. `submit` makes one where none is given.
	ID string `json:"invocation_id"`
	// Name says what the work is, for people: free text up to 256 bytes, "" allowed. For kind manual
	// it names the responders that are asked: [a-z0-9_-]{1,64}.
	Name string `json:"runtime_name,omitempty"`
	// Kind says which runner it needs.
	Kind Kind `json:"runtime_kind"`
	// Tenant says whose it is; "" is "default".
	Tenant string `json:"tenant,omitempty"`
	// Pool names the set of workers that may take it; "" is "default".
	Pool string `json:"pool,omitempty"`
	// Lane is high, normal or low; "" is normal.
	Lane Lane `json:"lane,omitempty"`
	// Command is the argument vector of subprocess and container. No shell is added.
	Command []string `json:"command,omitempty"`
	// Environment is set for the work, over what the worker passes on. A value may be empty.
	Environment map[string]string `json:"environment,omitempty"`
	// EnvironmentPass adds globs of names that the worker passes on from its own environment, if its policy lets it.
	EnvironmentPass []string `json:"environment_pass,omitempty"`
	// EnvironmentDeny takes names (globs) away again, after passing and before Environment.
	EnvironmentDeny []string `json:"environment_deny,omitempty"`
	// WorkingDirectory is where the work starts: "" is the workspace; relative is inside it, created if missing;
	// absolute is a directory of the worker that its policy must allow (E13), and for kind container one of the container.
	WorkingDirectory string `json:"working_directory,omitempty"`
	// Stdin is what the work reads on its standard input; nil is an empty one.
	Stdin *Input `json:"stdin,omitempty"`
	// TimeoutSeconds bounds one run; 0 is no bound. Fractions are taken.
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
	// QueueTimeoutSeconds bounds the wait before the first run starts; 0 is the retention of results.
	QueueTimeoutSeconds float64 `json:"queue_timeout_seconds,omitempty"`
	// Stop says how the work is ended when it must be; nil is TERM, 5 s, KILL.
	Stop *Stop `json:"stop,omitempty"`
	// OutputLimitBytes bounds what is stored of the output; 0 is the worker's default. The work is never ended for it.
	OutputLimitBytes int64 `json:"output_limit_bytes,omitempty"`
	// KeepLog keeps the whole of both streams, whatever the limit, as the artifacts .runnel/stdout.log and .runnel/stderr.log.
	KeepLog bool `json:"keep_log,omitempty"`
	// ArtifactGlobs name files and directories of the workspace that are kept beside what the work leaves in RUNNEL_ARTIFACTS:
	// relative, `*` within an element, `**` across them, `{a,b}`; at most 32 of up to 1024 bytes.
	ArtifactGlobs []string `json:"artifact_globs,omitempty"`
	// Retry says whether the work's own failures are tried again; nil is once.
	Retry *Retry `json:"retry,omitempty"`
	// Labels are for finding it again: at most 32, keys and values up to 64 bytes.
	Labels map[string]string `json:"labels,omitempty"`
	// Container says in what kind container runs; nil for every other kind.
	Container *Container `json:"container,omitempty"`
	// Metadata is handed to the runner; http and manual read their settings from it (E26, E32).
	Metadata map[string]string `json:"metadata,omitempty"`
}

// Input is bytes that travel with an invocation: in it, or by reference to the tenant's input bucket.
// Exactly one of Data and Blob is set; an empty input has neither.
type Input struct {
	Data   []byte `json:"data,omitempty"`
	Blob   string `json:"blob,omitempty"`   // object name, "<epoch>.<sha256>"
	Size   int64  `json:"size,omitempty"`   // bytes, with Blob
	SHA256 string `json:"sha256,omitempty"` // lower-case hex, with Blob
}

// Stop is the order in which the work is ended: interrupt (if its wait is set), terminate, kill.
type Stop struct {
	// InterruptSeconds is the wait after SIGINT before SIGTERM; 0 leaves the interrupt out.
	InterruptSeconds float64 `json:"interrupt_seconds,omitempty"`
	// GraceSeconds is the wait after SIGTERM before SIGKILL; nil is 5, 0 kills at once (E19, T14).
	GraceSeconds *float64 `json:"grace_seconds,omitempty"`
}

// Retry says which of the work's own failures are tried again, and when. Failures of
// Runnel's (a lost worker, a drain) are always tried again and are not counted.
type Retry struct {
	// Attempts is how many runs may end by the work's own doing; at least 1.
	Attempts int `json:"attempts"`
	// DelaySeconds is the wait before the second attempt; it doubles with each further one. 0 is 1 s.
	DelaySeconds float64 `json:"delay_seconds,omitempty"`
	// MaxDelaySeconds caps the wait; 0 is 60 s.
	MaxDelaySeconds float64 `json:"max_delay_seconds,omitempty"`
	// On lists the statuses that are tried again: failed, timed_out. Empty is failed (T28).
	On []Status `json:"on,omitempty"`
}

package contracts_test

import (
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// The documents that goldens, seeds and benchmarks are made of.

const (
	helloSHA256 = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4" // of "hi\n"
	someDigest  = "3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea"
	blobName    = "1871." + helloSHA256
)

func at(seconds int) time.Time {
	return time.Date(2026, 3, 4, 5, 6, seconds, 789_000_000, time.UTC)
}

func ptr[T any](v T) *T { return &v }

func minimalInvocation() contracts.Invocation {
	return contracts.Invocation{ID: "a2b3c4d5e6f7a2b3", Kind: contracts.KindSubprocess, Command: []string{"true"}}
}

func fullInvocation() contracts.Invocation {
	return contracts.Invocation{
		ID: "Build_2026-03-04", Name: "unit tests", Kind: contracts.KindSubprocess,
		Tenant: "acme", Pool: "linux", Lane: contracts.LaneHigh,
		Command:             []string{"sh", "-c", "cat; echo \u00e9 >&2; exit 3", ""},
		Environment:         map[string]string{"CI": "true", "EMPTY": "", "LANG": "C.UTF-8"},
		EnvironmentPass:     []string{"GO*"},
		EnvironmentDeny:     []string{"GOPRIVATE"},
		WorkingDirectory:    "src/app",
		Stdin:               &contracts.Input{Data: []byte{'h', 'i', 0, 0xff}},
		TimeoutSeconds:      90.5,
		QueueTimeoutSeconds: 3600,
		Stop:                &contracts.Stop{InterruptSeconds: 0.3, GraceSeconds: ptr(0.0)},
		OutputLimitBytes:    1 << 30,
		KeepLog:             true,
		ArtifactGlobs:       []string{"build/*.tar", "**/{junit,cover}*.xml"},
		Retry: &contracts.Retry{
			Attempts: 3, DelaySeconds: 0.5, MaxDelaySeconds: 30,
			On: []contracts.Status{contracts.StatusFailed, contracts.StatusTimedOut},
		},
		Labels:   map[string]string{"team": "core", "change": "1234"},
		Metadata: map[string]string{"http.url": "http://127.0.0.1/"},
	}
}

func blobInvocation() contracts.Invocation {
	inv := minimalInvocation()
	inv.Stdin = &contracts.Input{Blob: blobName, Size: 3, SHA256: helloSHA256}
	return inv
}

func stateChunk() contracts.Chunk {
	return contracts.Chunk{N: 1, At: at(10), State: []byte(`{"run":"17"}`), StateBytes: 1 << 33}
}

func containerInvocation() contracts.Invocation {
	inv := minimalInvocation()
	inv.Kind = contracts.KindContainer
	inv.Container = &contracts.Container{
		Image: "registry.example:5000/team/tool:1.2", Entrypoint: []string{"/bin/tool", "--"}, User: "1000:1000",
		Network: "bridge", Ports: []string{"8080", "53/udp"}, MemoryBytes: 512 << 20, CPUs: 1.5, PIDs: 256, DiskBytes: 1 << 30, WritableRoot: true,
		Tmpfs:    []contracts.Tmpfs{{Path: "/tmp", SizeBytes: 64 << 20}, {Path: "/run"}},
		Mounts:   []contracts.Mount{{Source: "/srv/data", Target: "/data"}, {Source: "/srv/data", Target: "/cache", Writable: true}},
		Platform: "linux/arm64/v8", Pull: contracts.PullAlways, NoInit: true, Warm: true,
		Setup: &contracts.Setup{
			Command: []string{"sh", "-ec", "pip install numpy"}, Environment: map[string]string{"PIP_NO_CACHE_DIR": "1"},
			User: "0:0", Network: "bridge", TimeoutSeconds: 300,
		},
	}
	return inv
}

func fullChunk() contracts.Chunk {
	return contracts.Chunk{N: 7, At: at(10), Pieces: []contracts.Piece{
		{Stream: contracts.Stdout, Data: []byte("line\n")},
		{Stream: contracts.Stderr, Phase: contracts.PhaseSetup, Data: []byte{0, 0xfe, 0xff}},
		{Stream: contracts.Stdout, Cut: 4096},
	}}
}

func fullStart() contracts.Start {
	return contracts.Start{Run: "abcd2345", Attempt: 2, Worker: "w1", Host: "node-1", At: at(1), Digest: someDigest}
}

func minimalEnd() contracts.End {
	return contracts.End{Run: "abcd2345", Attempt: 1, Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, At: at(11)}
}

func fullEnd() contracts.End {
	return contracts.End{
		Run: "abcd2345", Attempt: 2, Counted: true, Status: contracts.StatusFailed, Reason: contracts.ReasonSignal,
		ExitCode: ptr(-11), Error: "ended by SIGSEGV", Killed: "3 processes (TERM, then KILL)", Worker: "w1", At: at(11),
		NotBefore: at(13), Chunks: 7, Tail: []contracts.Piece{{Stream: contracts.Stderr, Data: []byte("oops\n")}},
	}
}

// result has what every result has.
func result(status contracts.Status, reason contracts.Reason) contracts.Result {
	return contracts.Result{
		ID: "a2b3c4d5e6f7a2b3", Kind: contracts.KindSubprocess, Tenant: "default", Pool: "default", Lane: contracts.LaneNormal,
		Digest: someDigest, Status: status, Reason: reason, SubmittedAt: at(0), FinishedAt: at(12),
	}
}

// ran adds what a result has if something ran.
func ran(r contracts.Result) contracts.Result {
	r.Run, r.Attempt, r.Worker, r.Host, r.StartedAt = "abcd2345", 1, "w1", "node-1", at(1)
	return r
}

func succeededResult() contracts.Result {
	r := ran(result(contracts.StatusSucceeded, ""))
	r.ExitCode = ptr(0)
	r.Tail = []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("hi\n")}}
	r.StdoutBytes = 3
	return r
}

// fullResult has every field.
func fullResult() contracts.Result {
	r := ran(result(contracts.StatusFailed, contracts.ReasonExit))
	r.Name, r.Labels = "unit tests", map[string]string{"team": "core", "change": "1234"}
	r.ExitCode, r.Error, r.Killed = ptr(3), "exit status 3", "1 process (TERM)"
	r.Attempt, r.Chunks = 2, 7
	r.Tail = []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("last\n")}, {Stream: contracts.Stderr, Phase: contracts.PhaseCleanup, Cut: 12}}
	r.StdoutBytes, r.StderrBytes, r.CutBytes = 1<<33, 12, 12
	r.Artifacts = []contracts.Artifact{artifact()}
	r.ArtifactCount, r.Manifest = 51, blobName
	r.Warnings = []string{`artifact "pipe" is a FIFO: left out`}
	r.Metadata = map[string]string{"http.status": "503"}
	return r
}

func artifact() contracts.Artifact {
	return contracts.Artifact{
		Path: "out/\uFFFD.txt", PathBytes: []byte("out/\xff.txt"), Mode: 0o755, Size: 3, SHA256: helloSHA256,
		Segments: []contracts.Segment{{Blob: blobName, Offset: 512, Length: 3}},
	}
}

func resultsByStatus() map[string]contracts.Result {
	timedOut := ran(result(contracts.StatusTimedOut, contracts.ReasonTimeout))
	timedOut.ExitCode, timedOut.Error = ptr(-9), "process exceeded timeout of 1 seconds"
	cancelled := result(contracts.StatusCancelled, contracts.ReasonCancelled)
	rejected := result(contracts.StatusRejected, contracts.ReasonNoRunner)
	rejected.Kind, rejected.Error = contracts.KindContainer, "no runner registered for runtime_kind='container'" // E10
	return map[string]contracts.Result{
		"succeeded": succeededResult(),
		"failed":    fullResult(),
		"timed_out": timedOut,
		"cancelled": cancelled,
		"rejected":  rejected,
	}
}

func fullDead() contracts.Dead {
	return contracts.Dead{
		Reason: contracts.ReasonPoison, Error: "5 runs began and none ended", At: at(59),
		Subject: "runnel.invoke.subprocess.default.normal.0.default.a2b3c4d5e6f7a2b3", Body: []byte{0x81, 0xa0, 0xff},
	}
}

func fullPresence() contracts.Presence {
	return contracts.Presence{
		Name: "w1", Host: "node-1", PID: 4711, Version: "0.1.0", Pool: "default",
		Kinds:  []contracts.Kind{contracts.KindNoop, contracts.KindSubprocess},
		Labels: map[string]string{"zone": "b"}, Slots: 16, Busy: 1, Runs: []string{"abcd2345"},
		Capabilities: map[string]string{"subprocess.kill": "cgroup"}, StartedAt: at(0), Draining: true,
		Blocked: "disk",
	}
}

func fullManifest() contracts.Manifest {
	return contracts.Manifest{Artifacts: []contracts.Artifact{
		artifact(), {Path: "empty", Mode: 0o644, SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	}}
}

func manualInvocation() contracts.Invocation {
	return contracts.Invocation{
		ID: "a2b3c4d5e6f7a2b3", Name: "greet", Kind: contracts.KindManual, Tenant: "default", Pool: "default", Lane: contracts.LaneNormal,
		Command: []string{"hello", "world"}, Stdin: &contracts.Input{Data: []byte("hi\n")}, TimeoutSeconds: 60,
		Metadata: map[string]string{"manual.no_responder": "reject"},
	}
}

func manualRequest() contracts.ManualRequest {
	return contracts.ManualRequest{
		Invocation: manualInvocation(), Run: "abcd2345", Attempt: 1, HeartbeatSeconds: 10, SecondsLeft: 59.5, Window: contracts.ManualWindow,
	}
}

// manualReplies has a reply of every type, the outcome with every field.
func manualReplies() map[string]contracts.ManualReply {
	reply := func(t contracts.ManualType) contracts.ManualReply {
		return contracts.ManualReply{Type: t, ID: "a2b3c4d5e6f7a2b3", Run: "abcd2345", Responder: "greeter-1"}
	}
	output, progress, declined, outcome := reply(contracts.ManualOutput), reply(contracts.ManualProgress), reply(contracts.ManualDeclined), reply(contracts.ManualEnded)
	output.N, output.Pieces = 1, []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("hello\n")}}
	progress.Fraction, progress.Text = ptr(0.5), "one of two"
	declined.Text = "busy"
	outcome.N, outcome.Outcome = 1, &contracts.ManualOutcome{
		Status: contracts.StatusFailed, ExitCode: ptr(3), Error: "no such planet", Metadata: map[string]string{"planet": "vulcan"},
		Tail: []contracts.Piece{{Stream: contracts.Stderr, Data: []byte("oops\n")}},
	}
	minimal := contracts.ManualReply{Type: contracts.ManualEnded, ID: "a2b3c4d5e6f7a2b3", Run: "abcd2345", Outcome: &contracts.ManualOutcome{Status: contracts.StatusSucceeded}}
	return map[string]contracts.ManualReply{
		"accepted": reply(contracts.ManualAccepted), "output": output, "progress": progress, "heartbeat": reply(contracts.ManualHeartbeat),
		"declined": declined, "outcome": outcome, "minimal": minimal,
	}
}

func manualStop() contracts.ManualControl {
	return contracts.ManualControl{Type: contracts.ManualStop, ID: "a2b3c4d5e6f7a2b3", Run: "abcd2345", Reason: contracts.ReasonCancelled, GraceSeconds: 5}
}

func manualAnswer() contracts.ManualAnswer {
	return contracts.ManualAnswer{
		ID: "a2b3c4d5e6f7a2b3", Answer: "zyxwvutsrqponmlk",
		Outcome: contracts.ManualOutcome{Status: contracts.StatusSucceeded, Tail: []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("approved\n")}}},
	}
}

func sandboxInvocation() contracts.Invocation {
	inv := minimalInvocation()
	inv.Kind, inv.Command, inv.TimeoutSeconds = contracts.KindContainer, nil, 3600
	inv.Container = &contracts.Container{Image: "python:3.13", Sandbox: &contracts.Sandbox{IdleSeconds: 300, WaitSeconds: 2.5}}
	return inv
}

const someExec = "abcdefgh234567ab"

// sandboxCalls has a call of every type, the exec with every field.
func sandboxCalls() map[string]contracts.SandboxCall {
	call := func(t contracts.SandboxCallType) contracts.SandboxCall {
		return contracts.SandboxCall{Type: t, ID: "a2b3c4d5e6f7a2b3", Exec: someExec}
	}
	full, minimal := call(contracts.SandboxExec), call(contracts.SandboxExec)
	full.Command, full.Environment, full.WorkingDirectory = []string{"sh", "-c", "cat > in"}, map[string]string{"CI": "true"}, "src"
	full.TimeoutSeconds, full.Stop, full.HeartbeatSeconds, full.Window = 60, &contracts.Stop{GraceSeconds: ptr(1.0)}, 2, contracts.SandboxWindow
	full.Data, full.More = []byte("hi\n"), true
	minimal.Command, minimal.HeartbeatSeconds, minimal.Window = []string{"true"}, 2, contracts.SandboxWindow
	stdin, ack, heartbeat := call(contracts.SandboxStdin), call(contracts.SandboxAck), call(contracts.SandboxHeartbeat)
	stdin.N, stdin.Data, ack.N, heartbeat.N = 1, []byte("more\n"), 1, 1
	return map[string]contracts.SandboxCall{
		"full": full, "minimal": minimal, "stdin": stdin, "ack": ack, "heartbeat": heartbeat,
		"stop": call(contracts.SandboxStop), "end": call(contracts.SandboxEnd),
		"ping":  {Type: contracts.SandboxPing, ID: "a2b3c4d5e6f7a2b3"},
		"close": {Type: contracts.SandboxClose, ID: "a2b3c4d5e6f7a2b3"},
	}
}

// sandboxReplies has a reply of every type, the outcome with every field.
func sandboxReplies() map[string]contracts.SandboxReply {
	reply := func(t contracts.SandboxReplyType, n int) contracts.SandboxReply {
		return contracts.SandboxReply{Type: t, ID: "a2b3c4d5e6f7a2b3", Exec: someExec, N: n}
	}
	output, outcome, busy := reply(contracts.SandboxSaysOutput, 1), reply(contracts.SandboxSaysOutcome, 1), reply(contracts.SandboxSaysOutcome, 0)
	output.Pieces = []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("hello\n")}}
	outcome.Outcome = &contracts.SandboxOutcome{
		Status: contracts.StatusTimedOut, Reason: contracts.ReasonTimeout, ExitCode: ptr(-15), Error: "exceeded timeout of 60 seconds",
		Killed: "2 processes (TERM)", Tail: []contracts.Piece{{Stream: contracts.Stderr, Data: []byte("oops\n")}},
	}
	busy.Outcome = &contracts.SandboxOutcome{Status: contracts.StatusRejected, Reason: contracts.ReasonBusy, Error: "another command has been running for 3m12s"}
	return map[string]contracts.SandboxReply{
		"output": output, "ack": reply(contracts.SandboxSaysAck, 1), "heartbeat": reply(contracts.SandboxSaysHeartbeat, 1), "outcome": outcome, "busy": busy,
	}
}

func long(n int) string { return strings.Repeat("x", n) }

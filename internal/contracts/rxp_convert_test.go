package contracts_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/contracts"
)

func TestRxPToInvocation(t *testing.T) {
	inv, paths := rxpInvocation().Invocation()
	want := contracts.Invocation{
		ID: "a2b3c4d5e6f7a2b3", Name: "unit tests", Kind: contracts.KindSubprocess, WorkingDirectory: "src",
		Command: []string{"sh", "-c", "exit 3"}, Environment: map[string]string{"EMPTY": ""}, TimeoutSeconds: 60,
		Metadata: map[string]string{"k": "v"},
	}
	if diff := cmp.Diff(want, inv); diff != "" {
		t.Errorf("Invocation() (-want +got):\n%s", diff)
	}
	if want := (contracts.RxPPaths{InputPayload: "in", OutputResult: "out.json", ArtifactDirectory: "kept"}); paths != want {
		t.Errorf("paths = %+v, want %+v", paths, want)
	}
	if err := inv.Validate(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(rxpInvocation(), inv.RxP(paths)); diff != "" {
		t.Errorf("and back (-want +got):\n%s", diff)
	}
	null := rxpInvocation()
	null.TimeoutSeconds, null.InputPayloadPath, null.OutputResultPath, null.ArtifactDirectory = nil, nil, nil, nil
	inv, paths = null.Invocation()
	if inv.TimeoutSeconds != 0 || paths != (contracts.RxPPaths{}) {
		t.Errorf("of nulls there are %v s and %+v", inv.TimeoutSeconds, paths)
	}
}

// An id that RxP takes and that would lead out of a directory is not one of ours (E14).
func TestRxPIDsAreChecked(t *testing.T) {
	for _, id := range []string{"../../x", "a/b", "..", "a.b", "", "-x", "a b"} {
		r := rxpInvocation()
		r.ID = id
		inv, _ := r.Invocation()
		if err := inv.Validate(); err == nil || !strings.Contains(err.Error(), "invocation_id") {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// RxP knows whole seconds only (E2), asks for a command and a working directory, and for a name.
func TestInvocationToRxP(t *testing.T) {
	for timeout, want := range map[float64]int64{0.001: 1, 1: 1, 1.2: 2, 90.5: 91, 1e9: 1e9} {
		inv := minimalInvocation()
		inv.TimeoutSeconds = timeout
		if got := inv.RxP(contracts.RxPPaths{}).TimeoutSeconds; got == nil || *got != want {
			t.Errorf("timeout %v s = %v, want %d", timeout, got, want)
		}
	}
	for name, inv := range map[string]contracts.Invocation{
		"minimal": minimalInvocation(), "full": fullInvocation(), "blob": blobInvocation(),
		"noop": {ID: "a", Kind: contracts.KindNoop}, "container": containerInvocation(),
	} {
		got := inv.RxP(contracts.RxPPaths{})
		if err := fits(t, compiled(t, "runtime_invocation"), must(contracts.EncodeRxP(got))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := contracts.Invocation{ID: "a", Kind: contracts.KindNoop}.RxP(contracts.RxPPaths{})
	if got.Name != "noop" || got.WorkingDirectory != "." || !cmp.Equal(got.Command, []string{"unused"}) || got.TimeoutSeconds != nil {
		t.Errorf("RxP() = %+v", got)
	}
}

// RxP has the kind container and no field for its image.
func TestRxPContainer(t *testing.T) {
	inv, paths := containerInvocation().RxP(contracts.RxPPaths{}).Invocation()
	if want := (&contracts.Container{Image: containerInvocation().Container.Image}); paths != (contracts.RxPPaths{}) || !cmp.Equal(inv.Container, want) {
		t.Errorf("there and back the container is %+v, want %+v", inv.Container, want)
	}
	if other := rxpInvocation(); other.Kind == contracts.KindContainer {
		t.Error("the sample is a container")
	} else if inv, _ := other.Invocation(); inv.Container != nil {
		t.Errorf("kind %s has a container", inv.Kind)
	}
}

// kept is what a submitter that keeps the outputs says.
var kept = contracts.RxPCapture{Stdout: "/kept/id/stdout.txt", Stderr: "/kept/id/stderr.txt"}

func TestResultToRxP(t *testing.T) {
	results := resultsByStatus()
	signal := ran(result(contracts.StatusFailed, contracts.ReasonSignal))
	signal.ExitCode = ptr(-11)
	missing := ran(result(contracts.StatusFailed, contracts.ReasonNotFound))
	missing.ExitCode, missing.Error = ptr(127), "command not found: nope: looked for in PATH /bin"
	denied := ran(result(contracts.StatusFailed, contracts.ReasonNotExecutable))
	denied.ExitCode, denied.Error = ptr(126), "cannot execute /etc/passwd: permission denied"
	workdir := ran(result(contracts.StatusRejected, contracts.ReasonBadInvocation))
	workdir.Error = "working directory does not exist: /nope"
	answered := ran(result(contracts.StatusFailed, contracts.ReasonExit))
	answered.Kind, answered.ExitCode, answered.Metadata, answered.Error = contracts.KindHTTP, ptr(1), map[string]string{"http.status": "503"}, "HTTP 503: no"
	plain := ran(result(contracts.StatusFailed, contracts.ReasonExit))
	plain.ExitCode = ptr(2)

	tests := map[string]struct {
		result    contracts.Result
		status    string
		code      *int64
		summary   string // "" is null
		artifacts int
	}{
		"succeeded (E17)":                    {results["succeeded"], "succeeded", new(int64(0)), "", 2},
		"exit code, no summary (E17)":        {plain, "failed", new(int64(2)), "", 2},
		"signal (E17)":                       {signal, "failed", new(int64(-11)), "", 2},
		"timed out (E19)":                    {results["timed_out"], "timed_out", new(int64(-9)), "process exceeded timeout of 1 seconds", 2},
		"no runner (E10)":                    {results["rejected"], "rejected", nil, "no runner registered for runtime_kind='container'", 0},
		"no working directory (E13)":         {workdir, "rejected", nil, "working directory does not exist: /nope", 0},
		"command not found (E22)":            {missing, "failed", new(int64(127)), missing.Error, 2},
		"command not executable (E22)":       {denied, "failed", new(int64(126)), denied.Error, 2},
		"http keeps its number (E29)":        {answered, "failed", new(int64(503)), "HTTP 503: no", 2},
		"failed, with all a result can have": {results["failed"], "failed", new(int64(3)), "exit status 3", 2},
	}
	schema := compiled(t, contracts.ContractResult)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := test.result.RxP(kept)
			if string(got.Status) != test.status || !cmp.Equal(got.ExitCode, test.code) {
				t.Errorf("RxP() = %s %v, want %s %v", got.Status, got.ExitCode, test.status, test.code)
			}
			if (got.ErrorSummary == nil) != (test.summary == "") || got.ErrorSummary != nil && *got.ErrorSummary != test.summary {
				t.Errorf("error_summary = %v, want %q", got.ErrorSummary, test.summary)
			}
			if len(got.Artifacts) != test.artifacts || (got.StdoutPath == nil) != (test.artifacts == 0) || (got.StderrPath == nil) != (test.artifacts == 0) {
				t.Errorf("RxP() = %+v, want %d artifacts", got, test.artifacts)
			}
			if got.StartedAt.IsZero() || got.StartedAt.After(got.FinishedAt) {
				t.Errorf("started %v, finished %v", got.StartedAt, got.FinishedAt)
			}
			text, err := contracts.EncodeRxP(got)
			if err != nil {
				t.Fatal(err)
			}
			if err := fits(t, schema, text); err != nil {
				t.Error(err)
			}
		})
	}
	rejected := results["rejected"].RxP(kept)
	if !rejected.StartedAt.Equal(rejected.FinishedAt) {
		t.Errorf("rejected: started %v, finished %v, want one time (E10)", rejected.StartedAt, rejected.FinishedAt)
	}
	if got := results["cancelled"].RxP(contracts.RxPCapture{}); got.StdoutPath != nil || len(got.Artifacts) != 0 || !got.StartedAt.Equal(got.FinishedAt) {
		t.Errorf("cancelled before it ran: %+v", got)
	}
}

// The two outputs come first and are always two; what the work left follows (E20).
func TestRxPArtifacts(t *testing.T) {
	c := kept
	c.Artifacts = []contracts.RxPArtifact{artifact().RxP("/kept/id/artifacts/out/x.txt")}
	got := succeededResult().RxP(c)
	want := []contracts.RxPArtifact{
		{SchemaVersion: "0.1", ContractKind: "artifact_descriptor", ID: "stdout", Path: c.Stdout, Kind: "log_excerpt", Description: "captured stdout", Metadata: map[string]string{}},
		{SchemaVersion: "0.1", ContractKind: "artifact_descriptor", ID: "stderr", Path: c.Stderr, Kind: "log_excerpt", Description: "captured stderr", Metadata: map[string]string{}},
		{
			SchemaVersion: "0.1", ContractKind: "artifact_descriptor", ID: "file:out/\uFFFD.txt", Path: "/kept/id/artifacts/out/x.txt", Kind: "file",
			Metadata: map[string]string{"sha256": helloSHA256, "size": "3", "mode": "755"},
		},
	}
	if diff := cmp.Diff(want, got.Artifacts); diff != "" {
		t.Errorf("artifacts (-want +got):\n%s", diff)
	}
	if *got.StdoutPath != c.Stdout || *got.StderrPath != c.Stderr {
		t.Errorf("paths are %q and %q", *got.StdoutPath, *got.StderrPath)
	}
}

// What RxP has no field for is in the metadata, beside the runner's own.
func TestRxPMetadata(t *testing.T) {
	want := map[string]string{
		"http.status": "503", "runnel.reason": "exit", "runnel.run": "abcd2345", "runnel.attempt": "2", "runnel.worker": "w1",
		"runnel.killed": "1 process (TERM)", "runnel.cut_bytes": "12", "runnel.warnings": `artifact "pipe" is a FIFO: left out`,
	}
	r := fullResult()
	if diff := cmp.Diff(want, r.RxP(kept).Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"http.status": "503"}, r.Metadata); diff != "" {
		t.Errorf("the result's own was changed (-want +got):\n%s", diff)
	}
}

// What was never handed in is rejected as a result, not as an error (E10).
func TestRxPReject(t *testing.T) {
	inv := rxpInvocation()
	inv.Kind = contracts.KindContainer
	got := inv.Reject(contracts.ReasonNoRunner, "no runner registered for runtime_kind='container'", time.Date(2026, 3, 4, 6, 6, 7, 1999, time.FixedZone("", 3600)))
	text := string(must(contracts.EncodeRxP(got)))
	for _, want := range []string{
		`"status": "rejected"`, `"exit_code": null`, `"started_at": "2026-03-04T05:06:07.000001Z"`, `"finished_at": "2026-03-04T05:06:07.000001Z"`,
		`"stdout_path": null`, `"stderr_path": null`, `"artifacts": []`, `"error_summary": "no runner registered for runtime_kind='container'"`, `"runnel.reason": "no_runner"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("rejected without %s:\n%s", want, text)
		}
	}
	if err := fits(t, compiled(t, contracts.ContractResult), []byte(text)); err != nil {
		t.Error(err)
	}
}

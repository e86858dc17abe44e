package contracts_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

func TestValidateNamesEveryBrokenRule(t *testing.T) {
	tests := map[string]struct {
		change func(*contracts.Invocation)
		want   []string // the whole text of every problem
	}{
		"minimal":   {func(*contracts.Invocation) {}, nil},
		"full":      {func(inv *contracts.Invocation) { *inv = fullInvocation() }, nil},
		"blob":      {func(inv *contracts.Invocation) { *inv = blobInvocation() }, nil},
		"container": {func(inv *contracts.Invocation) { *inv = containerInvocation() }, nil},
		"path as id": {func(inv *contracts.Invocation) { inv.ID = "../x" }, // E14
			[]string{`invocation_id: "../x" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"flag as id":      {func(inv *contracts.Invocation) { inv.ID = "-x" }, []string{`invocation_id: "-x" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"id of Runnel's":  {func(inv *contracts.Invocation) { inv.ID = "cron~1" }, []string{`invocation_id: "cron~1" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"id of two words": {func(inv *contracts.Invocation) { inv.ID = "a.b" }, []string{`invocation_id: "a.b" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"id of 10 KB": {func(inv *contracts.Invocation) { inv.ID = long(10_000) },
			[]string{`invocation_id: "` + long(48) + `"... (10000 bytes) is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"no id":          {func(inv *contracts.Invocation) { inv.ID = "" }, []string{`invocation_id: "" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`}},
		"long name":      {func(inv *contracts.Invocation) { inv.Name = long(257) }, []string{"runtime_name: is 257 bytes, more than 256"}},
		"no kind":        {func(inv *contracts.Invocation) { inv.Kind = "" }, []string{"runtime_kind: must not be empty"}},
		"wildcard kind":  {func(inv *contracts.Invocation) { inv.Kind = "*" }, []string{`runtime_kind: "*" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`}},
		"open kinds":     {func(inv *contracts.Invocation) { inv.Kind, inv.Command = "wasm-1", nil }, nil},
		"upper tenant":   {func(inv *contracts.Invocation) { inv.Tenant = "Acme" }, []string{`tenant: "Acme" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`}},
		"dotted pool":    {func(inv *contracts.Invocation) { inv.Pool = "a.b" }, []string{`pool: "a.b" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`}},
		"unknown lane":   {func(inv *contracts.Invocation) { inv.Lane = "urgent" }, []string{`lane: "urgent" is not high, normal or low`}},
		"no command":     {func(inv *contracts.Invocation) { inv.Command = nil }, []string{"command: must not be empty for kind subprocess"}},
		"empty command":  {func(inv *contracts.Invocation) { inv.Command = []string{"", "x"} }, []string{"command[0]: must not be empty: it names the program"}},
		"empty argument": {func(inv *contracts.Invocation) { inv.Command = []string{"echo", ""} }, nil},
		"NUL in command": {func(inv *contracts.Invocation) { inv.Command = []string{"echo", "a\x00b"} }, []string{`command[1]: "a\x00b" contains a NUL byte`}},
		"command bytes":  {func(inv *contracts.Invocation) { inv.Command = []string{"echo", "a\xff"} }, []string{`command[1]: "a\xff" is not UTF-8`}},
		"image's own command": {func(inv *contracts.Invocation) {
			*inv = containerInvocation()
			inv.Command = nil
		}, nil},
		"request": {func(inv *contracts.Invocation) { inv.Kind, inv.Command = contracts.KindHTTP, nil }, []string{`metadata["http.url"]: is missing`}},
		"environment": {func(inv *contracts.Invocation) {
			inv.Environment = map[string]string{"": "1", "A=B": "2", "RUNNEL_ATTEMPT": "3", "NUL\x00": "4", "V": "\x00", "OK": ""}
		}, []string{
			`environment[""]: the name must not be empty`, `environment["A=B"]: the name must not contain '='`,
			`environment["NUL\x00"]: the name "NUL\x00" contains a NUL byte`,
			`environment["RUNNEL_ATTEMPT"]: names that begin with RUNNEL_ are reserved`,
			`environment["V"]: "\x00" contains a NUL byte`,
		}},
		"globs": {func(inv *contracts.Invocation) {
			inv.EnvironmentPass, inv.EnvironmentDeny = []string{"GO*", "", "[a"}, []string{"A=*"}
		}, []string{
			"environment_pass[1]: must not be empty", `environment_pass[2]: "[a" is not a pattern of names`,
			`environment_deny[0]: "A=*" contains '=', which no name does`,
		}},
		"directory above":     {func(inv *contracts.Invocation) { inv.WorkingDirectory = "a/../../b" }, []string{`working_directory: "a/../../b" leads out of the workspace`}},
		"directory within":    {func(inv *contracts.Invocation) { inv.WorkingDirectory = "a/../b" }, nil},
		"directory of worker": {func(inv *contracts.Invocation) { inv.WorkingDirectory = "/srv" }, nil},
		"directory with NUL":  {func(inv *contracts.Invocation) { inv.WorkingDirectory = "/\x00" }, []string{`working_directory: "/\x00" contains a NUL byte`}},
		"stdin twice": {func(inv *contracts.Invocation) {
			inv.Stdin = &contracts.Input{Data: []byte("x"), Blob: blobName, SHA256: helloSHA256}
		}, []string{"stdin: must have one of data and blob, not both"}},
		"stdin size without blob": {func(inv *contracts.Invocation) { inv.Stdin = &contracts.Input{Size: 1, SHA256: "x"} },
			[]string{"stdin.size: goes with blob only", "stdin.sha256: goes with blob only"}},
		"stdin elsewhere": {func(inv *contracts.Invocation) { inv.Stdin = &contracts.Input{Blob: "../etc/passwd", Size: -1} }, []string{
			`stdin.blob: "../etc/passwd" is not <epoch>.<sha256>`, "stdin.size: -1 is negative", `stdin.sha256: "" is not a SHA-256 in lower-case hex`}},
		"empty stdin": {func(inv *contracts.Invocation) { inv.Stdin = &contracts.Input{} }, nil},
		"seconds": {func(inv *contracts.Invocation) {
			inv.TimeoutSeconds, inv.QueueTimeoutSeconds = -1, math.NaN()
			inv.Stop = &contracts.Stop{InterruptSeconds: math.Inf(1), GraceSeconds: ptr(1e10)}
		}, []string{
			"timeout_seconds: -1 is negative", "queue_timeout_seconds: NaN is not a number of seconds",
			"stop.interrupt_seconds: +Inf is not a number of seconds", "stop.grace_seconds: 1e+10 is more than 1000000000",
		}},
		"output limit": {func(inv *contracts.Invocation) { inv.OutputLimitBytes = -1 }, []string{"output_limit_bytes: -1 is negative"}},
		"artifact globs": {func(inv *contracts.Invocation) {
			inv.ArtifactGlobs = []string{"a", "build/**/*.[ch]", "{a,b/{c,d}}/x", `\[a\]*`, "logs/", "caf\u00e9/[!x]"}
		}, nil},
		"bad artifact globs": {func(inv *contracts.Invocation) {
			inv.ArtifactGlobs = []string{"", "/etc/*", "../x", "a/../../b", "./a", "a//b", "[a", "{a", "a}", `a\`, "[!]", "a\x00", "\xff", long(1025), strings.Repeat("{,a}", 7)}
		}, []string{
			"artifact_globs[0]: must not be empty", `artifact_globs[1]: "/etc/*" is absolute: a pattern is relative to the workspace`,
			`artifact_globs[2]: "../x" has an element that is empty, "." or ".."`, `artifact_globs[3]: "a/../../b" has an element that is empty, "." or ".."`,
			`artifact_globs[4]: "./a" has an element that is empty, "." or ".."`, `artifact_globs[5]: "a//b" has an element that is empty, "." or ".."`,
			`artifact_globs[6]: "[a" is not a pattern: see to its brackets, braces and backslashes`,
			`artifact_globs[7]: "{a" is not a pattern: see to its brackets, braces and backslashes`,
			`artifact_globs[8]: "a}" is not a pattern: see to its brackets, braces and backslashes`,
			`artifact_globs[9]: "a\\" is not a pattern: see to its brackets, braces and backslashes`,
			`artifact_globs[10]: "[!]" is not a pattern: see to its brackets, braces and backslashes`,
			`artifact_globs[11]: "a\x00" contains a NUL byte`, `artifact_globs[12]: "\xff" is not UTF-8`, "artifact_globs[13]: is 1025 bytes, more than 1024",
			`artifact_globs[14]: "{,a}{,a}{,a}{,a}{,a}{,a}{,a}" has braces for more than 64 patterns: give them one by one`,
		}},
		"33 artifact globs": {func(inv *contracts.Invocation) { inv.ArtifactGlobs = slices.Repeat([]string{"a"}, 33) }, []string{"artifact_globs: are 33, more than 32"}},
		"retry": {func(inv *contracts.Invocation) {
			inv.Retry = &contracts.Retry{DelaySeconds: -1, MaxDelaySeconds: -1, On: []contracts.Status{"failed", "succeeded", "failed"}}
		}, []string{
			"retry.attempts: 0 is not within 1 to 1000", "retry.delay_seconds: -1 is negative", "retry.max_delay_seconds: -1 is negative",
			`retry.on[1]: "succeeded" is not failed or timed_out`, `retry.on[2]: "failed" is there twice`,
		}},
		"labels": {func(inv *contracts.Invocation) { inv.Labels = map[string]string{"": "x", long(65): "x", "v": long(65)} }, []string{
			`labels[""]: the name must not be empty`, `labels["v"]: is 65 bytes, more than 64`,
			`labels["` + long(48) + `"... (65 bytes)]: the name is 65 bytes, more than 64`,
		}},
		"33 labels":        {func(inv *contracts.Invocation) { inv.Labels = numbered(33, "v") }, []string{"labels: are 33, more than 32"}},
		"32 labels":        {func(inv *contracts.Invocation) { inv.Labels = numbered(32, "v") }, nil},
		"257 metadata":     {func(inv *contracts.Invocation) { inv.Metadata = numbered(257, "v") }, []string{"metadata: has 257 entries, more than 256"}},
		"no metadata name": {func(inv *contracts.Invocation) { inv.Metadata = map[string]string{"": "x"} }, []string{`metadata[""]: the name must not be empty`}},
		"too large": {func(inv *contracts.Invocation) {
			inv.Stdin = &contracts.Input{Data: make([]byte, contracts.MaxMessageBytes)}
		}, []string{"the invocation is 524415 bytes, more than the 524288 of a message"}},
		"everything at once": {func(inv *contracts.Invocation) {
			*inv = contracts.Invocation{ID: "a b", Kind: "X", OutputLimitBytes: -5}
		}, []string{
			`invocation_id: "a b" is not an id: 1 to 128 letters, digits, '_' and '-', beginning with a letter or digit`,
			`runtime_kind: "X" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`, "output_limit_bytes: -5 is negative",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inv := minimalInvocation()
			tt.change(&inv)
			checkProblems(t, inv.Validate(), tt.want...)
		})
	}
}

// An invocation just within the cap of a message is none too large.
func TestValidateTakesTheLargestMessage(t *testing.T) {
	inv := minimalInvocation()
	inv.Stdin = &contracts.Input{Data: make([]byte, contracts.MaxMessageBytes)}
	over := len(must(contracts.Encode(inv.WithDefaults()))) - contracts.MaxMessageBytes
	inv.Stdin.Data = inv.Stdin.Data[over:]
	if err := inv.Validate(); err != nil {
		t.Errorf("Validate() = %v", err)
	}
	inv.Stdin.Data = append(inv.Stdin.Data, 0)
	if err := inv.Validate(); err == nil {
		t.Error("Validate() = nil for a byte more")
	}
}

func TestValidateListsSoManyProblems(t *testing.T) {
	inv := minimalInvocation()
	inv.Command = slices.Repeat([]string{"\x00"}, 100_000)
	err := inv.Validate()
	if err == nil || len(err.Error()) > 10_000 || !strings.HasSuffix(err.Error(), "; and 99950 more") {
		t.Errorf("Validate() = %.100v...", err)
	}
}

func TestValidateRunDocuments(t *testing.T) {
	tests := map[string]struct {
		doc  interface{ Validate() error }
		want []string
	}{
		"chunk": {contracts.Chunk{Pieces: []contracts.Piece{{Stream: "log", Phase: "P", Cut: -1}, {Stream: "stdout", Data: []byte("x"), Cut: 1}}}, []string{
			"n: 0 is not the number of a chunk: they begin at 1", "at: must not be zero", `pieces[0].stream: "log" is not stdout or stderr`,
			`pieces[0].phase: "P" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`, "pieces[0].cut: -1 is negative",
			"pieces[1]: must have one of data and cut, not both",
		}},
		"empty chunk": {contracts.Chunk{N: 1, At: at(0)}, []string{"pieces: must not be empty"}},
		"large state": {contracts.Chunk{N: 1, At: at(0), State: make([]byte, 4097), StateBytes: -1},
			[]string{"state: is 4097 bytes, more than 4096", "state_bytes: -1 is less than 0"}},
		"large chunk": {contracts.Chunk{N: 1, At: at(0), Pieces: []contracts.Piece{{Stream: "stdout", Data: make([]byte, 256<<10+1)}}},
			[]string{"pieces: have 262145 bytes of output, more than 262144"}},
		"start": {contracts.Start{Run: "../x", Worker: "w\x00"}, []string{
			`run: "../x" is not the name of a run: 8 of a-z and 2-7`, "attempt: 0 is less than 1", `worker: "w\x00" contains a NUL byte`,
			"at: must not be zero", `digest: "" is not a SHA-256 in lower-case hex`,
		}},
		"end": {contracts.End{Run: "abcd2345", Attempt: 1, Status: "running", Reason: "no way", Error: long(4097), Killed: long(513), At: at(0), Chunks: -1}, []string{
			`status: "running" is not a last word`, `reason: "no way" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`,
			"error_summary: is 4097 bytes, more than 4096", "killed: is 513 bytes, more than 512", "chunks: -1 is less than 0",
		}},
		"result of nothing": {contracts.Result{}, []string{
			`invocation_id: "" is not an id`, "runtime_kind: must not be empty", "tenant: must not be empty", "pool: must not be empty",
			`lane: "" is not high, normal or low`, `digest: "" is not a SHA-256 in lower-case hex`, `status: "" is not a last word`, "finished_at: must not be zero",
		}},
		"result": {func() contracts.Result {
			r := result(contracts.StatusPending, "")
			r.ID, r.Chunks, r.Attempt, r.StdoutBytes, r.CutBytes, r.Manifest = "cron~7", 1, -1, -1, -1, "x"
			r.Warnings = slices.Repeat([]string{"w"}, 33)
			r.Artifacts = slices.Repeat([]contracts.Artifact{artifact()}, 51)
			return r
		}(), append([]string{
			`status: "pending" is not a last word`, "chunks: 1 chunks without a run", "attempt: -1 is less than 0", "stdout_bytes: -1 is less than 0",
			"cut_bytes: -1 is less than 0", "artifacts: are 51, more than 50",
		}, append(twice(44), "and 8 more")...)},
		"dead": {contracts.Dead{}, []string{"reason: must not be empty", "at: must not be zero", "subject: must not be empty"}},
		"presence": {contracts.Presence{Kinds: []contracts.Kind{"noop", "*"}, Runs: []string{"1"}, Slots: -1}, []string{
			"name: must not be empty", "pool: must not be empty", `kinds[1]: "*" is not a name: 1 to 64 of a-z, 0-9, '_' and '-'`,
			"slots: -1 is less than 0", `runs[0]: "1" is not the name of a run`,
		}},
		"cancel reply": {contracts.CancelReply{State: "soon", Status: "running", Killed: long(513)}, []string{
			`state: "soon" is not killing, cancelled or ended`, `status: "running" is not a last word`, "killed: is 513 bytes, more than 512",
		}},
		"manifest": {contracts.Manifest{Artifacts: []contracts.Artifact{artifact(), {Path: "../x", SHA256: helloSHA256}}},
			[]string{`artifacts[1].path: "../x" is not a relative path without '.' and '..'`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { checkProblems(t, tt.doc.Validate(), tt.want...) })
	}
}

func twice(n int) (problems []string) {
	for i := range n {
		problems = append(problems, strings.ReplaceAll(`artifacts[#].path: "out/\xff.txt" is there twice`, "#", itoa(i+1)))
	}
	return problems
}

func TestValidateArtifact(t *testing.T) {
	segment := contracts.Segment{Blob: blobName, Length: 3}
	tests := map[string]struct {
		change func(*contracts.Artifact)
		want   []string
	}{
		"good":             {func(a *contracts.Artifact) {}, nil},
		"absolute":         {func(a *contracts.Artifact) { a.Path = "/etc/passwd" }, []string{`path: "/etc/passwd" is not a relative path without '.' and '..'`}},
		"above":            {func(a *contracts.Artifact) { a.Path = "a/../../b" }, []string{`path: "a/../../b" is not a relative path without '.' and '..'`}},
		"the root":         {func(a *contracts.Artifact) { a.Path = "." }, []string{`path: "." is not a relative path without '.' and '..'`}},
		"bytes above":      {func(a *contracts.Artifact) { a.PathBytes = []byte("../\xff") }, []string{`path_bytes: "../\xff" is not a relative path without '.' and '..'`}},
		"bytes with NUL":   {func(a *contracts.Artifact) { a.PathBytes = []byte("\x00") }, []string{`path_bytes: "\x00" is not a relative path without '.' and '..'`}},
		"setuid":           {func(a *contracts.Artifact) { a.Mode = 0o4755 }, []string{"mode: 04755 is more than 0777"}},
		"no sum":           {func(a *contracts.Artifact) { a.SHA256 = "" }, []string{`sha256: "" is not a SHA-256 in lower-case hex`}},
		"too short":        {func(a *contracts.Artifact) { a.Size = 4 }, []string{"size: 4 is not the sum of the segments"}},
		"too long":         {func(a *contracts.Artifact) { a.Segments = append(a.Segments, segment) }, []string{"segments[1]: offset 0 and length 3 do not lie within 3 bytes"}},
		"negative size":    {func(a *contracts.Artifact) { a.Size, a.Segments = -1, nil }, []string{"size: -1 is not the sum of the segments"}},
		"negative length":  {func(a *contracts.Artifact) { a.Segments = []contracts.Segment{{Blob: blobName, Length: -1}} }, []string{"segments[0]: offset 0 and length -1 do not lie within 3 bytes"}},
		"offset too large": {func(a *contracts.Artifact) { a.Segments[0].Offset = math.MaxInt64 }, []string{"segments[0]: offset 9223372036854775807 and length 3 do not lie within 3 bytes"}},
		"other object":     {func(a *contracts.Artifact) { a.Segments[0].Blob = "x" }, []string{`segments[0].blob: "x" is not <epoch>.<sha256>`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := artifact()
			tt.change(&a)
			checkProblems(t, a.Validate(), tt.want...)
		})
	}
}

// checkProblems compares the texts of all problems, in order.
func checkProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	var got []string
	if err != nil {
		var invalid *contracts.ValidationError
		if !errors.As(err, &invalid) {
			t.Fatalf("Validate() = %T %v, want a *ValidationError", err, err)
		}
		for i := range invalid.Fields {
			got = append(got, invalid.Fields[i].Error())
		}
		if err.Error() != strings.Join(got, "; ") {
			t.Errorf("Error() = %s", err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("Validate():\n got %q\nwant %q", got, want)
	}
}

func TestSecondsFitADuration(t *testing.T) {
	seconds := float64(contracts.MaxSeconds)
	if d := time.Duration(seconds * float64(time.Second)); d.Seconds() != seconds {
		t.Errorf("MaxSeconds as a duration is %v", d)
	}
}

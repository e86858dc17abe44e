//go:build unix

package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/internal/queue"
)

// strictResult is RxP v0.1's own schema of a result: all 14 fields there, and only the kinds and statuses that it names (E3–E5).
func strictResult(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := runnel.Schema("runtime_result")
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	doc := decoded.(map[string]any)
	doc["required"] = []any{
		"schema_version", "contract_kind", "invocation_id", "runtime_name", "runtime_kind", "status", "exit_code",
		"started_at", "finished_at", "stdout_path", "stderr_path", "artifacts", "error_summary", "metadata",
	}
	doc["properties"].(map[string]any)["runtime_kind"] = map[string]any{"enum": []any{"subprocess", "http", "http_async", "container", "manual", "unknown"}}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:strict", doc); err != nil {
		t.Fatal(err)
	}
	return c.MustCompile("urn:strict")
}

// asked is an invocation of RxP in the words of a test; what it does not say is what stands here.
type asked map[string]any

func (a asked) json(t *testing.T) string {
	t.Helper()
	doc := map[string]any{
		"schema_version": "0.1", "contract_kind": "runtime_invocation", "invocation_id": "job", "runtime_name": "a test", "runtime_kind": "subprocess",
		"working_directory": ".", "command": []string{"true"}, "environment": map[string]string{}, "timeout_seconds": nil,
		"input_payload_path": nil, "output_result_path": nil, "artifact_directory": nil, "metadata": map[string]string{},
	}
	for name, value := range a {
		doc[name] = value
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rxp sends an invocation of RxP and waits.
func (a *account) rxp(doc asked, args ...string) said {
	a.t.Helper()
	return a.feed(strings.NewReader(doc.json(a.t)), append([]string{"send", "--wait", "--rxp", "-f", "-"}, args...)...)
}

// result reads what send --rxp printed: one line, which the strict schema takes.
func (a *account) result(s said) runnel.RxPResult {
	a.t.Helper()
	if strings.Count(s.out, "\n") != 1 {
		a.t.Fatalf("%s: want one line", s)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(s.out))
	if err != nil {
		a.t.Fatalf("%s: %v", s, err)
	}
	if err := strictResult(a.t).Validate(doc); err != nil {
		a.t.Errorf("%s: %v", s, err)
	}
	r, err := runnel.ParseRxPResult([]byte(s.out))
	if err != nil {
		a.t.Fatalf("%s: %v", s, err)
	}
	return r
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// All five ways to end, against a server and a worker: each is a result that the schema of RxP v0.1 takes, on standard
// output and in the file that the invocation names, whose parents are made (E11; for rejected too: E10).
func TestRxPAllStatuses(t *testing.T) {
	a := newAccount(t)
	a.dir = a.home
	a.dev("127.0.0.1:0", "--allow-workdir", a.file("allowed"))
	if err := os.WriteFile(a.file("payload"), []byte("from the submitter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	hang := func() asked { return asked{"command": sh("touch begun; exec sleep 600"), "artifact_directory": "kept"} }
	tests := map[string]struct {
		doc     asked
		status  string
		code    any // exit_code of the result; nil is null
		summary string
		exits   int
		cancel  bool
	}{
		"succeeded (E17)": {doc: asked{"command": sh("cat; echo err >&2"), "input_payload_path": "payload"}, status: "succeeded", code: 0}, // E12
		"failed (E17)":    {doc: asked{"command": sh("exit 3")}, status: "failed", code: 3, exits: 3},
		"signal (E17)":    {doc: asked{"command": sh("kill -SEGV $$")}, status: "failed", code: -11, exits: 128 + 11},
		"timed out (E19)": {
			doc:    asked{"command": []string{"sleep", "600"}, "timeout_seconds": 1},
			status: "timed_out", code: -15, summary: "process exceeded timeout of 1 seconds", exits: 124,
		},
		"cancelled": {doc: hang(), status: "cancelled", code: -15, summary: "cancelled on request", exits: 130, cancel: true},
		"no runner (E10)": {
			doc:    asked{"runtime_kind": "container", "command": []string{"unused"}, "metadata": map[string]string{"container.image": "tool"}},
			status: "rejected", summary: "no runner registered for runtime_kind='container'", exits: 125,
		},
		"unknown kind (E3, E10)": {
			doc:    asked{"runtime_kind": "unknown"},
			status: "rejected", summary: "no runner registered for runtime_kind='unknown'", exits: 125,
		},
		"no working directory (E13)": {
			doc:    asked{"working_directory": a.file("allowed/missing")},
			status: "rejected", summary: "working directory does not exist: " + a.file("allowed/missing"), exits: 125,
		},
		"working directory not allowed (E13)": {
			doc:    asked{"working_directory": "/"},
			status: "rejected", summary: "working_directory /: this worker does not allow it", exits: 125,
		},
		"id that is a path (E14)": {
			doc:    asked{"invocation_id": "../../x", "artifact_directory": "deep/in/kept"},
			status: "rejected", summary: `invocation_id: "../../x" is not an id`, exits: 125,
		},
		"no input payload (E12)": {
			doc:    asked{"input_payload_path": "nowhere/payload"},
			status: "rejected", summary: "input payload cannot be read: stat nowhere/payload: no such file or directory", exits: 125,
		},
		"input payload is a directory (E12)": {
			doc:    asked{"input_payload_path": "."},
			status: "rejected", summary: "input payload cannot be read: . is a directory", exits: 125,
		},
		"command not found (E22)": {
			doc:    asked{"command": []string{"no-such-command"}},
			status: "failed", code: 127, summary: "command not found: no-such-command", exits: 127,
		},
		"command not executable (E22)": {
			doc:    asked{"command": []string{"/etc/passwd"}},
			status: "failed", code: 126, summary: "/etc/passwd", exits: 126,
		},
	}
	if err := os.Mkdir(a.file("allowed"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, test := range tests {
		n++
		id := "job-" + string(rune('a'+n))
		t.Run(name, func(t *testing.T) {
			a := &account{t: t, home: a.home, dir: a.dir, env: a.env}
			if _, ok := test.doc["invocation_id"]; !ok {
				test.doc["invocation_id"] = id
			}
			file := filepath.Join("results", id, "deep", "result.json")
			test.doc["output_result_path"] = file
			var got said
			if test.cancel {
				doc := a.file(id + ".json")
				test.doc["working_directory"] = a.file("allowed")
				if err := os.WriteFile(doc, []byte(test.doc.json(t)), 0o600); err != nil {
					t.Fatal(err)
				}
				p := a.start("submit", "send", "--rxp", "--wait", "-f", doc)
				eventually(t, "the job runs", func() bool { return exists(a.file("allowed/begun")) })
				a.want(0, "cancel", id)
				got.out = p.line() + "\n"
				got.code = p.code()
				got.err = p.log.String()
			} else {
				got = a.rxp(test.doc)
			}
			if got.code != test.exits {
				t.Errorf("%s; want exit code %d", got, test.exits)
			}
			r := a.result(got)
			if string(r.Status) != test.status || r.ID != test.doc["invocation_id"] || r.Name != "a test" {
				t.Errorf("the result is %+v, want %s", r, test.status)
			}
			if want, ok := test.code.(int); ok != (r.ExitCode != nil) || ok && *r.ExitCode != int64(want) {
				t.Errorf("exit_code is %v, want %v", r.ExitCode, test.code)
			}
			switch {
			case test.summary == "" && r.ErrorSummary != nil:
				t.Errorf("error_summary is %q, want null", *r.ErrorSummary)
			case test.summary != "" && (r.ErrorSummary == nil || !strings.Contains(*r.ErrorSummary, test.summary)):
				t.Errorf("%s: want error_summary %q", got, test.summary)
			}
			// E20: two artifacts also of what failed, none of what was rejected (E10, E13).
			artifacts := 2
			if test.status == "rejected" {
				artifacts = 0
				if !r.StartedAt.Equal(r.FinishedAt) {
					t.Errorf("started %v, finished %v: want one time", r.StartedAt, r.FinishedAt)
				}
			}
			if len(r.Artifacts) != artifacts || (r.StdoutPath == nil) != (artifacts == 0) || (r.StderrPath == nil) != (artifacts == 0) {
				t.Errorf("%s: want %d artifacts", got, artifacts)
			}
			if artifacts == 0 && (exists(a.file(".executor_runtime/"+id)) || exists(a.file("deep")) || exists(a.file("x"))) {
				t.Error("what was rejected left a directory")
			}
			if strings.HasPrefix(name, "succeeded") {
				if out, err := content(t, *r.StdoutPath), content(t, *r.StderrPath); out != "from the submitter\n" || err != "err\n" {
					t.Errorf("kept are %q and %q", out, err)
				}
			}
			a.sameInFile(filepath.Join(a.dir, file), got.out)
		})
	}
}

// sameInFile holds that a file has what was printed, indented by two, and that nothing else is beside it (E11).
func (a *account) sameInFile(file, printed string) {
	a.t.Helper()
	var want bytes.Buffer
	if err := json.Indent(&want, []byte(strings.TrimSpace(printed)), "", "  "); err != nil {
		a.t.Fatal(err)
	}
	if got := content(a.t, file); got != want.String()+"\n" {
		a.t.Errorf("%s holds\n%s\nwant\n%s", file, got, &want)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		a.t.Errorf("beside the result there are %v, %v", entries, err)
	}
}

// Ctrl-C cancels, waits, and the result says so.
func TestRxPInterrupted(t *testing.T) {
	a := newAccount(t)
	a.dir = a.home
	doc := asked{"invocation_id": "interrupted", "command": []string{"sh", "-c", "echo begun; exec sleep 600"}, "output_result_path": "r.json"}
	if err := os.WriteFile(a.file("doc"), []byte(doc.json(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := a.start("submit", "send", "--embedded", "--rxp", "--wait", "-f", "doc")
	// The output is there to be followed while it runs.
	eventually(t, "the output is kept as it comes", func() bool {
		data, _ := os.ReadFile(a.file(".executor_runtime/interrupted/stdout.txt"))
		return string(data) == "begun\n"
	})
	p.signal(syscall.SIGINT)
	r := a.result(said{out: p.line() + "\n"})
	if code := p.code(); code != 130 || r.Status != runnel.StatusCancelled {
		t.Errorf("exit code %d, %+v; want 130 and cancelled", code, r)
	}
	if written, err := runnel.ParseRxPResult([]byte(content(t, a.file("r.json")))); err != nil || written.Status != runnel.StatusCancelled {
		t.Errorf("the file says %+v, %v", written, err)
	}
	empty(t, a.file("tmp"))
}

// Output is kept as raw bytes under the id, over what was there; files that the work left come too (E14, E20).
func TestRxPKeepsOutputAndFiles(t *testing.T) {
	a := newAccount(t)
	a.dir = a.home
	a.dev("127.0.0.1:0")
	kept := a.file("deep/kept/bytes")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stdout.txt", "stderr.txt"} {
		if err := os.WriteFile(filepath.Join(kept, name), bytes.Repeat([]byte("old "), 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doc := asked{
		"invocation_id": "bytes", "artifact_directory": "deep/kept",
		"command": []string{"sh", "-c", `printf 'a\000\377\r\n'; mkdir "$RUNNEL_ARTIFACTS/sub"; echo mine > "$RUNNEL_ARTIFACTS/stdout.txt"; echo "$GREETING" > "$RUNNEL_ARTIFACTS/sub/report"`},
		// E15: what the invocation sets is there.
		"environment": map[string]string{"GREETING": "hello"},
	}
	first := a.rxp(doc)
	r := a.result(first)
	if first.code != 0 || *r.StdoutPath != filepath.Join(kept, "stdout.txt") || *r.StderrPath != filepath.Join(kept, "stderr.txt") {
		t.Fatalf("%s", first)
	}
	if out, err := content(t, *r.StdoutPath), content(t, *r.StderrPath); out != "a\x00\xff\r\n" || err != "" {
		t.Errorf("kept are %q and %q", out, err)
	}
	want := []struct{ id, path, kind, description, holds string }{
		{"stdout", "stdout.txt", "log_excerpt", "captured stdout", "a\x00\xff\r\n"},
		{"stderr", "stderr.txt", "log_excerpt", "captured stderr", ""},
		{"file:stdout.txt", "artifacts/stdout.txt", "file", "", "mine\n"},
		{"file:sub/report", "artifacts/sub/report", "file", "", "hello\n"},
	}
	if len(r.Artifacts) != len(want) {
		t.Fatalf("artifacts are %+v", r.Artifacts)
	}
	for i, w := range want {
		got := r.Artifacts[i]
		if got.ID != w.id || got.Path != filepath.Join(kept, w.path) || got.Kind != w.kind || got.Description != w.description {
			t.Errorf("artifact %d is %+v, want %+v", i, got, w)
		}
		if text := content(t, got.Path); text != w.holds {
			t.Errorf("%s holds %q, want %q", got.Path, text, w.holds)
		}
	}
	// The same invocation again is the same one: it does not run twice, and all of it is had again.
	if err := os.RemoveAll(kept); err != nil {
		t.Fatal(err)
	}
	second := a.rxp(doc)
	if second.code != 0 || second.out != first.out {
		t.Errorf("again: %s\nwant %s", second, first)
	}
	if out := content(t, *r.StdoutPath); out != "a\x00\xff\r\n" {
		t.Errorf("again: kept is %q", out)
	}
}

// A payload beyond what a message holds travels too (E12).
func TestRxPLargePayload(t *testing.T) {
	a := newAccount(t)
	a.dir = a.home
	payload := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	if err := os.WriteFile(a.file("payload"), payload, 0o600); err != nil {
		t.Fatal(err)
	}
	got := a.rxp(asked{"command": []string{"cat"}, "input_payload_path": a.file("payload")}, "--embedded")
	r := a.result(got)
	if got.code != 0 || content(t, *r.StdoutPath) != string(payload) {
		t.Errorf("%s: %d bytes are kept, want %d", got, len(content(t, *r.StdoutPath)), len(payload))
	}
	// E14: where nothing is said, as RxP's own runtime calls it.
	if want := a.file(".executor_runtime/job/stdout.txt"); *r.StdoutPath != want {
		t.Errorf("stdout is kept in %s, want %s", *r.StdoutPath, want)
	}
}

// What cannot be written is said, and the result is not lost (E11); what has no place is said before anything runs.
func TestRxPResultPathFails(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.dir = o.home
	o.worker()
	touch(t, o.file("file"))
	got := o.rxp(asked{"output_result_path": "file/below/r.json"})
	if got.code != 125 || got.out != "" || !strings.Contains(got.err, "output_result_path") || o.traces() != 0 {
		t.Errorf("no such parent: %s, %d messages", got, o.traces())
	}
	if err := os.MkdirAll(o.file("taken/by/others"), 0o700); err != nil {
		t.Fatal(err)
	}
	got = o.rxp(asked{"output_result_path": "taken/by"})
	if got.code != 125 || !strings.Contains(got.err, "output_result_path") || !strings.Contains(got.err, "job has ended (succeeded)") {
		t.Errorf("a directory in the way: %s", got)
	}
	if r := o.result(got); r.Status != runnel.StatusSucceeded {
		t.Errorf("the result is %+v", r)
	}
	if entries, err := os.ReadDir(o.file("taken")); err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
	// Output that cannot be kept does not end the work.
	got = o.rxp(asked{"invocation_id": "unkept", "artifact_directory": "file", "command": []string{"echo", "out"}, "output_result_path": "r.json"})
	if got.code != 125 || !strings.Contains(got.err, "unkept has ended (succeeded)") || !strings.Contains(got.err, "file/unkept") {
		t.Errorf("no place for the output: %s", got)
	}
	if r := o.result(got); r.Status != runnel.StatusSucceeded || r.StdoutPath != nil || len(r.Artifacts) != 0 {
		t.Errorf("the result is %+v", r)
	}
}

// Without a worker it waits, unless it is not to; what is taken back leaves nothing in the queue.
func TestRxPWithoutWorkers(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.dir = o.home
	got := o.rxp(asked{"output_result_path": "r.json"}, "--no-wait-worker")
	r := o.result(got)
	if got.code != 125 || r.Status != runnel.StatusRejected || r.Metadata["runnel.reason"] != "no_runner" || o.traces() != 0 {
		t.Errorf("%s; %d messages are stored", got, o.traces())
	}
	if written, err := runnel.ParseRxPResult([]byte(content(t, o.file("r.json")))); err != nil || written.Status != runnel.StatusRejected {
		t.Errorf("the file says %+v, %v", written, err)
	}
	if err := os.WriteFile(o.file("doc"), []byte(asked{"invocation_id": "waits"}.json(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := o.start("submit", "send", "--rxp", "--wait", "-f", "doc")
	eventually(t, "it says that it waits", func() bool { return strings.Contains(p.log.String(), "no worker serves kind") })
	o.worker()
	if r := o.result(said{out: p.line() + "\n"}); r.Status != runnel.StatusSucceeded || p.code() != 0 {
		t.Errorf("the result is %+v", r)
	}
}

func TestRxPRefuses(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.dir = o.home
	good := asked{"output_result_path": "r.json"}.json(t)
	tests := map[string]struct {
		doc  string
		args []string
		says string
	}{
		"no --wait":               {good, []string{"send", "--rxp", "-f", "-"}, "add --wait"},
		"no file":                 {good, []string{"send", "--rxp", "--wait"}, "-f FILE"},
		"no such file":            {good, []string{"send", "--rxp", "--wait", "-f", "nowhere"}, "nowhere"},
		"extra field (E2)":        {strings.Replace(good, "command", "argv", 1), nil, `unknown field "argv"`},
		"fraction (E2)":           {asked{"timeout_seconds": 1.5}.json(t), nil, "timeout_seconds: 1.5 is not a whole number"},
		"newer version (E7)":      {asked{"schema_version": "0.2"}.json(t), nil, `schema_version: "0.2" is not known`},
		"another kind (E7)":       {asked{"contract_kind": "runtime_result"}.json(t), nil, "contract_kind"},
		"one of ours":             {`{"runtime_kind":"noop"}`, nil, "invocation_id: must not be empty"},
		"RxP, and --rxp not said": {good, []string{"send", "--wait", "-f", "-"}, `unknown field`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.args == nil {
				test.args = []string{"send", "--rxp", "--wait", "-f", "-"}
			}
			got := o.feed(strings.NewReader(test.doc), test.args...)
			if got.code != 125 || got.out != "" || !strings.Contains(got.err, test.says) {
				t.Errorf("%s; want %q", got, test.says)
			}
		})
	}
	if n := o.traces(); n != 0 || exists(o.file("r.json")) {
		t.Errorf("%d messages are stored, and the result is there: %v", n, exists(o.file("r.json")))
	}
}

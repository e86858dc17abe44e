package contracts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/contracts"
)

// examples returns the six shapes of E8 by the names of their files.
func examples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/rxp/*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("%q, %v: want six examples", files, err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		out[strings.TrimSuffix(filepath.Base(file), ".json")] = read(t, file)
	}
	return out
}

// The six shapes are valid, and are written again as they were read (E8, E1, E5, E6: names, order, nothing left out).
func TestRxPExamples(t *testing.T) {
	for name, data := range examples(t) {
		t.Run(name, func(t *testing.T) {
			if err := contracts.ValidateRxP(data); err != nil {
				t.Errorf("ValidateRxP() = %v", err)
			}
			again := rewriteInvocation
			if strings.HasPrefix(name, "result") {
				again = rewriteResult
			}
			if got := again(t, data); !bytes.Equal(got, data) {
				t.Errorf("written again (-want +got):\n%s", cmp.Diff(string(data), string(got)))
			}
		})
	}
}

// What docs/rxp.md shows is valid.
func TestRxPDocsAreValid(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(read(t, "../../docs/rxp.md")), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d examples found, want 2", len(blocks))
	}
	for _, b := range blocks {
		if err := contracts.ValidateRxP([]byte(b[1])); err != nil {
			t.Errorf("%v in\n%s", err, b[1])
		}
	}
}

func rewriteInvocation(t *testing.T, data []byte) []byte {
	return must(contracts.EncodeRxP(must(contracts.DecodeRxP[contracts.RxPInvocation](data))))
}

func rewriteResult(t *testing.T, data []byte) []byte {
	return must(contracts.EncodeRxP(must(contracts.DecodeRxP[contracts.RxPResult](data))))
}

func TestRxPFields(t *testing.T) {
	fields := func(doc any) (names []string) {
		d := json.NewDecoder(bytes.NewReader(must(json.Marshal(doc))))
		for depth := 0; ; {
			token, err := d.Token()
			if err != nil {
				return names
			}
			switch token {
			case json.Delim('{'), json.Delim('['):
				depth++
			case json.Delim('}'), json.Delim(']'):
				depth--
			default:
				if name, ok := token.(string); ok && depth == 1 && d.More() {
					names = append(names, name)
					var skipped json.RawMessage
					if err := d.Decode(&skipped); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	tests := map[string]struct {
		doc  any
		want string
	}{
		"E1": {contracts.RxPInvocation{}, "schema_version contract_kind invocation_id runtime_name runtime_kind working_directory command environment " +
			"timeout_seconds input_payload_path output_result_path artifact_directory metadata"},
		"E5": {contracts.RxPResult{}, "schema_version contract_kind invocation_id runtime_name runtime_kind status exit_code started_at finished_at " +
			"stdout_path stderr_path artifacts error_summary metadata"},
		"E6": {contracts.RxPArtifact{}, "schema_version contract_kind artifact_id path kind description metadata"},
	}
	for name, test := range tests {
		if got := strings.Join(fields(test.doc), " "); got != test.want {
			t.Errorf("%s: fields are %s\nwant %s", name, got, test.want)
		}
	}
}

// E3, E4
func TestRxPVocabulary(t *testing.T) {
	kinds := []contracts.Kind{"subprocess", "http", "http_async", "container", "manual", "unknown"}
	if got := contracts.RxPKinds(); !slices.Equal(got, kinds) {
		t.Errorf("RxPKinds() = %q, want %q", got, kinds)
	}
	statuses := []contracts.Status{"pending", "running", "succeeded", "failed", "timed_out", "cancelled", "rejected"}
	if got := contracts.RxPStatuses(); !slices.Equal(got, statuses) {
		t.Errorf("RxPStatuses() = %q, want %q", got, statuses)
	}
	for _, kind := range append(kinds, contracts.KindHTTPSSE, contracts.KindNoop, "of-our-own") {
		inv := rxpInvocation()
		inv.Kind = kind
		if err := inv.Validate(); err != nil {
			t.Errorf("kind %q: %v", kind, err)
		}
	}
	for _, status := range statuses {
		r := rxpResult()
		r.Status = status
		if err := r.Validate(); err != nil {
			t.Errorf("status %q: %v", status, err)
		}
	}
}

// What may be left out stands for what its description says; all of it, and each alone (E2).
func TestRxPDefaults(t *testing.T) {
	least := `{"invocation_id":"a","runtime_name":"b","runtime_kind":"noop","working_directory":".","command":["c"]}`
	got, err := contracts.DecodeRxP[contracts.RxPInvocation]([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	want := contracts.RxPInvocation{
		SchemaVersion: "0.1", ContractKind: "runtime_invocation", ID: "a", Name: "b", Kind: "noop", WorkingDirectory: ".", Command: []string{"c"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DecodeRxP() (-want +got):\n%s", diff)
	}
	written := string(must(contracts.EncodeRxP(got)))
	for _, text := range []string{`"environment": {}`, `"timeout_seconds": null`, `"input_payload_path": null`, `"output_result_path": null`, `"artifact_directory": null`, `"metadata": {}`} {
		if !strings.Contains(written, text) {
			t.Errorf("written without %s:\n%s", text, written)
		}
	}
	result := `{"invocation_id":"a","runtime_name":"b","runtime_kind":"noop","status":"rejected","started_at":"2026-03-04T05:06:07+01:00","finished_at":"2026-03-04T04:06:07Z"}`
	r, err := contracts.DecodeRxP[contracts.RxPResult]([]byte(result))
	if err != nil {
		t.Fatal(err)
	}
	if !r.StartedAt.Equal(r.FinishedAt) || r.StartedAt.Location() != time.UTC {
		t.Errorf("times are %v and %v, want one in UTC", r.StartedAt, r.FinishedAt)
	}
	if text := string(must(contracts.EncodeRxP(r))); !strings.Contains(text, `"artifacts": []`) || !strings.Contains(text, `"exit_code": null`) {
		t.Errorf("written as\n%s", text)
	}
}

func TestRxPRefuses(t *testing.T) {
	with := func(name, value string) string {
		doc := map[string]json.RawMessage{}
		if err := json.Unmarshal(must(contracts.EncodeRxP(rxpInvocation())), &doc); err != nil {
			t.Fatal(err)
		}
		doc[name] = json.RawMessage(value)
		return string(must(json.Marshal(doc)))
	}
	without := func(name string) string {
		doc := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte(with(name, "null")), &doc); err != nil {
			t.Fatal(err)
		}
		delete(doc, name)
		return string(must(json.Marshal(doc)))
	}
	tests := map[string]struct{ doc, says string }{
		"empty id (E2)":               {with("invocation_id", `""`), "invocation_id: must not be empty"},
		"no id (E2)":                  {without("invocation_id"), "invocation_id: must not be empty"},
		"empty name (E2)":             {with("runtime_name", `""`), "runtime_name: must not be empty"},
		"empty working dir (E2)":      {with("working_directory", `""`), "working_directory: must not be empty"},
		"no command (E2)":             {without("command"), "command: must have one text"},
		"empty command (E2)":          {with("command", `[]`), "command: must have one text"},
		"null command (E2)":           {with("command", `null`), "command: is null, wants a list"},
		"number in command (E2)":      {with("command", `["a",1]`), "command[1]: is a number, wants text"},
		"timeout 0 (E2)":              {with("timeout_seconds", `0`), "timeout_seconds: 0 is not more than 0"},
		"timeout -1 (E2)":             {with("timeout_seconds", `-1`), "timeout_seconds: -1 is not more than 0"},
		"fraction (E2)":               {with("timeout_seconds", `1.5`), "timeout_seconds: 1.5 is not a whole number"},
		"timeout as text (E2)":        {with("timeout_seconds", `"60"`), "timeout_seconds: is text, wants an integer"},
		"timeout without end (E2)":    {with("timeout_seconds", `1e40`), "timeout_seconds: 1e40 is not a whole number"},
		"number in environment (E2)":  {with("environment", `{"A":1}`), `environment["A"]: is a number, wants text`},
		"null environment (E2)":       {with("environment", `null`), "environment: is null, wants a map"},
		"null in metadata (E2)":       {with("metadata", `{"A":null}`), `metadata["A"]: is null, wants text`},
		"extra field (E2)":            {with("argv", `["true"]`), `unknown field "argv"`},
		"a field of Runnel's (E2)":    {with("stdin", `{}`), `unknown field "stdin"`},
		"wrong case (E2)":             {with("Command", `["true"]`), `unknown field "Command": did you mean "command"?`},
		"duplicate field (E2)":        {strings.Replace(with("metadata", `{}`), `{`, `{"metadata":{},`, 1), `duplicate field "metadata"`},
		"duplicate in a map (E2)":     {with("metadata", `{"a":"1","a":"2"}`), `metadata["a"]: is there twice`},
		"kind that is no token (E3)":  {with("runtime_kind", `"Sub Process"`), "runtime_kind: \"Sub Process\" is not a name"},
		"newer version (E7)":          {with("schema_version", `"0.2"`), `schema_version: "0.2" is not known: this program reads "0.1"`},
		"version as a number (E7)":    {with("schema_version", `0.1`), `schema_version: 0.1 is not known`},
		"unknown contract kind (E7)":  {with("contract_kind", `"runtime_plan"`), `contract_kind: "runtime_plan" is not known: it is runtime_invocation, runtime_result or artifact_descriptor`},
		"empty contract kind (E7)":    {with("contract_kind", `""`), `contract_kind: "" is not known`},
		"null contract kind (E7)":     {with("contract_kind", `null`), `contract_kind: null is not known`},
		"another contract kind (E7)":  {with("contract_kind", `"runtime_result"`), `contract_kind: "runtime_result" is not "runtime_invocation"`},
		"version before fields (E7)":  {strings.Replace(with("schema_version", `"9"`), "command", "cmdline", 1), `schema_version: "9" is not known`},
		"no JSON":                     {`argv: ["true"]`, "is not JSON"},
		"nothing":                     {``, "is not JSON: nothing there"},
		"a list":                      {`[]`, "is a list, wants a map of fields"},
		"something after the end":     {with("metadata", `{}`) + `{}`, "something follows the end"},
		"text that is not UTF-8":      {with("runtime_name", "\"\xff\""), "is not JSON"},
		"several at once, each named": {with("command", `[]`)[:1] + `"working_directory":"",` + without("working_directory")[1:], "working_directory: must not be empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := contracts.DecodeRxP[contracts.RxPInvocation]([]byte(test.doc))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("DecodeRxP(%s) = %v, want %q", test.doc, err, test.says)
			}
		})
	}
}

func TestRxPWholeNumbers(t *testing.T) {
	for text, want := range map[string]int64{"300": 300, "300.0": 300, "3e2": 300, "1": 1, "9007199254740991": 1<<53 - 1} {
		doc := strings.Replace(string(must(contracts.EncodeRxP(rxpInvocation()))), `"timeout_seconds": 60`, `"timeout_seconds": `+text, 1)
		inv, err := contracts.DecodeRxP[contracts.RxPInvocation]([]byte(doc))
		if err != nil || inv.TimeoutSeconds == nil || *inv.TimeoutSeconds != want {
			t.Errorf("timeout_seconds %s = %v, %v, want %d", text, inv.TimeoutSeconds, err, want)
		}
	}
}

// ValidateRxP goes by contract_kind and schema_version (E7).
func TestValidateRxPPicksByKind(t *testing.T) {
	artifact := must(contracts.EncodeRxP(contracts.RxPArtifact{ID: "a", Path: "p", Kind: "test_report"}))
	tests := map[string]struct{ doc, says string }{
		"artifact":            {string(artifact), ""},
		"default version":     {strings.Replace(string(artifact), `"schema_version": "0.1",`, "", 1), ""},
		"artifact with flaws": {strings.Replace(string(artifact), `"path": "p"`, `"path": ""`, 1), "artifact_descriptor: path: must not be empty"},
		"no kind":             {strings.Replace(string(artifact), `"contract_kind": "artifact_descriptor",`, "", 1), "contract_kind: is missing: is it runtime_invocation, runtime_result or artifact_descriptor?"},
		"another kind":        {strings.Replace(string(artifact), "artifact_descriptor", "runtime_result", 1), `runtime_result: unknown field "artifact_id"`},
		"unknown kind":        {`{"contract_kind":"plan"}`, `contract_kind: "plan" is not known`},
		"unknown version":     {`{"contract_kind":"runtime_result","schema_version":"1.0"}`, `schema_version: "1.0" is not known`},
		"no document":         {`nonsense`, "is not JSON"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := contracts.ValidateRxP([]byte(test.doc))
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("ValidateRxP(%s) = %v, want %q", test.doc, err, test.says)
			}
			var field *contracts.FieldError
			if strings.HasPrefix(name, "unknown") && (!errors.As(err, &field) || field.Field == "") {
				t.Errorf("ValidateRxP(%s) = %#v, want a FieldError that names the field", test.doc, err)
			}
		})
	}
}

func TestRxPResultRefuses(t *testing.T) {
	full := string(must(contracts.EncodeRxP(rxpResult())))
	tests := map[string]struct{ old, new, says string }{
		"status (E4)":                {`"status": "failed"`, `"status": "done"`, `status: "done" is not a status`},
		"no status (E4)":             {`"status": "failed",`, ``, `status: "" is not a status`},
		"no time (E5)":               {`"started_at": "2026-03-04T05:06:01.789Z",`, ``, "started_at: must not be zero"},
		"no time at all (E5)":        {`"2026-03-04T05:06:01.789Z"`, `"yesterday"`, "started_at: is not a time of RFC 3339"},
		"empty id (E5)":              {`"invocation_id": "a2b3c4d5e6f7a2b3"`, `"invocation_id": ""`, "invocation_id: must not be empty"},
		"exit code as text (E5)":     {`"exit_code": 3`, `"exit_code": "3"`, "exit_code: is text, wants an integer"},
		"artifact without id (E6)":   {`"artifact_id": "stdout",`, ``, "artifacts[0].artifact_id: is missing"},
		"artifact, empty kind (E6)":  {`"kind": "log_excerpt"`, `"kind": ""`, "artifacts[0].kind: must not be empty"},
		"artifact, extra field (E6)": {`"kind": "log_excerpt"`, `"kind": "x", "size": 1`, `artifacts[0]: unknown field "size"`},
		"artifact of a kind (E6)":    {`"contract_kind": "artifact_descriptor"`, `"contract_kind": "artifact"`, `artifacts[0].contract_kind: "artifact" is not "artifact_descriptor"`},
		"null artifacts (E5)":        {`"metadata": {}` + "\n}", `"metadata": null` + "\n}", "metadata: is null, wants a map"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			doc := strings.Replace(full, test.old, test.new, 1)
			if doc == full {
				t.Fatalf("%s is not in\n%s", test.old, full)
			}
			_, err := contracts.DecodeRxP[contracts.RxPResult]([]byte(doc))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("DecodeRxP() = %v, want %q", err, test.says)
			}
		})
	}
}

func FuzzDecodeRxP(f *testing.F) {
	for _, data := range examples(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = contracts.ValidateRxP(data)
		fuzzRxP[contracts.RxPInvocation](t, data)
		fuzzRxP[contracts.RxPResult](t, data)
		fuzzRxP[contracts.RxPArtifact](t, data)
	})
}

// fuzzRxP holds that what is taken is written, and read again as the same.
func fuzzRxP[T contracts.RxPDocument](t *testing.T, data []byte) {
	doc, err := contracts.DecodeRxP[T](data)
	if err != nil {
		return
	}
	text, err := contracts.EncodeRxP(doc)
	if err != nil {
		t.Fatalf("decoded, and does not encode: %v", err)
	}
	if err := contracts.ValidateRxP(text); err != nil {
		t.Fatalf("written as %s, and not valid: %v", text, err)
	}
	again, err := contracts.DecodeRxP[T](text)
	if err != nil {
		t.Fatalf("written as %s, and does not decode: %v", text, err)
	}
	if diff := cmp.Diff(doc, again); diff != "" {
		t.Fatalf("written as %s, decodes to something else (-want +got):\n%s", text, diff)
	}
}

func rxpInvocation() contracts.RxPInvocation {
	return contracts.RxPInvocation{
		SchemaVersion: "0.1", ContractKind: "runtime_invocation", ID: "a2b3c4d5e6f7a2b3", Name: "unit tests", Kind: contracts.KindSubprocess,
		WorkingDirectory: "src", Command: []string{"sh", "-c", "exit 3"}, Environment: map[string]string{"EMPTY": ""},
		TimeoutSeconds: new(int64(60)), InputPayloadPath: new("in"), OutputResultPath: new("out.json"), ArtifactDirectory: new("kept"),
		Metadata: map[string]string{"k": "v"},
	}
}

func rxpResult() contracts.RxPResult {
	return contracts.RxPResult{
		SchemaVersion: "0.1", ContractKind: "runtime_result", ID: "a2b3c4d5e6f7a2b3", Name: "unit tests", Kind: contracts.KindSubprocess,
		Status: contracts.StatusFailed, ExitCode: new(int64(3)), StartedAt: at(1), FinishedAt: at(2), StdoutPath: new("o"), StderrPath: new("e"),
		Artifacts: []contracts.RxPArtifact{{
			SchemaVersion: "0.1", ContractKind: "artifact_descriptor", ID: "stdout", Path: "o", Kind: "log_excerpt", Description: "captured stdout",
		}},
	}
}

package contracts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/runnel-project/runnel/internal/contracts"
)

// compiled returns the schema of a document, which must be one of draft 2020-12.
func compiled(t testing.TB, name string) *jsonschema.Schema {
	t.Helper()
	text, err := contracts.Schema(name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:"+name, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:" + name)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.DraftVersion; got != 2020 {
		t.Fatalf("schema of %s is of draft %d", name, got)
	}
	return s
}

// fits validates JSON against a schema.
func fits(t testing.TB, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s.Validate(doc)
}

// Every golden is what the schema of its document says.
func TestGoldensFitTheSchemas(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".json"), "-")
			if name == "cancelreply" {
				name = "cancel_reply"
			}
			if err := fits(t, compiled(t, name), read(t, file)); err != nil {
				t.Error(err)
			}
		})
	}
	events := compiled(t, "event")
	start, end, result := fullStart(), fullEnd(), fullResult()
	for _, e := range []contracts.Event{
		{Type: contracts.EventStarted, Run: "abcd2345", At: at(1), Start: &start},
		{Type: contracts.EventOutput, Run: "abcd2345", N: 1, Output: &fullChunk().Pieces[0]},
		{Type: contracts.EventEnded, Run: "abcd2345", End: &end},
		{Type: contracts.EventGap, Gap: &contracts.Gap{From: 1, To: 2}},
		{Type: contracts.EventResult, Result: &result},
	} {
		if err := fits(t, events, must(contracts.EncodeJSON(e))); err != nil {
			t.Errorf("event %s: %v", e.Type, err)
		}
	}
	if err := fits(t, events, []byte(`{"type":"over"}`)); err == nil {
		t.Error("an event of an unknown type fits")
	}
}

// The six shapes are what the schemas of RxP say (E8).
func TestRxPExamplesFitTheSchemas(t *testing.T) {
	for name, text := range examples(t) {
		kind, _, _ := strings.Cut(name, "-")
		if err := fits(t, compiled(t, "runtime_"+kind), text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// odd values that every field is given in turn.
var odd = []string{
	`null`, `true`, `""`, `"x"`, `"X y"`, `"0.1"`, `"0.2"`, `"failed"`, `"2026-03-04T05:06:07Z"`, `0`, `1`, `-1`, `1.5`, `60.0`, `1e300`, `9007199254740993`,
	`[]`, `[""]`, `["a"]`, `[1]`, `[null]`, `[{}]`, `{}`, `{"a":"b"}`, `{"a":""}`, `{"a":1}`, `{"a":null}`, `{"":"b"}`,
	`"runtime_invocation"`, `"runtime_result"`, `"artifact_descriptor"`,
}

// mutants returns text with each of its fields left out, and with each odd value in its place,
// with a field more, and the same of what is in its fields. The key says what was done.
func mutants(t testing.TB, text []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	put := func(what, name string, value json.RawMessage) {
		changed := maps.Clone(doc)
		if value == nil {
			delete(changed, name)
		} else {
			changed[name] = value
		}
		out[what] = string(must(json.Marshal(changed)))
	}
	put("one field more", "extra_field", []byte(`1`))
	for name, value := range doc {
		put("without "+name, name, nil)
		for _, v := range odd {
			put(name+" = "+v, name, []byte(v))
		}
		put(strings.ToUpper(name), strings.ToUpper(name), value)
		switch {
		case value[0] == '{':
			for what, inner := range mutants(t, value) {
				put(name+": "+what, name, []byte(inner))
			}
		case bytes.HasPrefix(value, []byte(`[{`)):
			var list []json.RawMessage
			if err := json.Unmarshal(value, &list); err != nil {
				t.Fatal(err)
			}
			for what, inner := range mutants(t, list[0]) {
				put(name+"[0]: "+what, name, must(json.Marshal(append([]json.RawMessage{[]byte(inner)}, list[1:]...))))
			}
		}
	}
	return out
}

// The schema and the reader are one contract: neither takes what the other refuses (E2).
func TestRxPSchemasAgreeWithTheReader(t *testing.T) {
	tests := map[string]struct {
		text []byte
		read func([]byte) error
	}{
		"runtime_invocation":  {must(contracts.EncodeRxP(rxpInvocation())), readRxP[contracts.RxPInvocation]},
		"runtime_result":      {must(contracts.EncodeRxP(rxpResult())), readRxP[contracts.RxPResult]},
		"artifact_descriptor": {must(contracts.EncodeRxP(rxpResult().Artifacts[0])), readRxP[contracts.RxPArtifact]},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			schema := compiled(t, name)
			taken := 0
			for what, text := range mutants(t, test.text) {
				bySchema, byReader := fits(t, schema, []byte(text)), test.read([]byte(text))
				if (bySchema == nil) != (byReader == nil) {
					t.Errorf("%s: the schema says %v, the reader %v", what, bySchema, byReader)
				}
				if byReader == nil {
					taken++
				}
			}
			if taken < 20 {
				t.Errorf("%d of the mutants are taken: too few to tell", taken)
			}
		})
	}
}

func readRxP[T contracts.RxPDocument](data []byte) error {
	_, err := contracts.DecodeRxP[T](data)
	return err
}

// What the reader and Validate take of our own documents the schema takes too, but for other ways to say
// that a field is left out; and of unknown fields it takes none.
func TestSchemasTakeWhatIsValid(t *testing.T) {
	tests := map[string]struct {
		text []byte
		read func([]byte) error
	}{
		"invocation":         {must(contracts.EncodeJSON(fullInvocation())), readOurs[contracts.Invocation]},
		"invocation sandbox": {must(contracts.EncodeJSON(sandboxInvocation())), readOurs[contracts.Invocation]},
		"result":             {must(contracts.EncodeJSON(fullResult())), readOurs[contracts.Result]},
		"chunk":              {must(contracts.EncodeJSON(fullChunk())), readOurs[contracts.Chunk]},
		"start":              {must(contracts.EncodeJSON(fullStart())), readOurs[contracts.Start]},
		"end":                {must(contracts.EncodeJSON(fullEnd())), readOurs[contracts.End]},
		"manifest":           {must(contracts.EncodeJSON(fullManifest())), readOurs[contracts.Manifest]},
		"presence":           {must(contracts.EncodeJSON(fullPresence())), readOurs[contracts.Presence]},
		"dead":               {must(contracts.EncodeJSON(fullDead())), readOurs[contracts.Dead]},

		"manual_request": {must(contracts.EncodeJSON(manualRequest())), readOurs[contracts.ManualRequest]},
		"manual_control": {must(contracts.EncodeJSON(manualStop())), readOurs[contracts.ManualControl]},
		"manual_answer":  {must(contracts.EncodeJSON(manualAnswer())), readOurs[contracts.ManualAnswer]},
	}
	for name, r := range manualReplies() {
		tests["manual_reply "+name] = struct {
			text []byte
			read func([]byte) error
		}{must(contracts.EncodeJSON(r)), readOurs[contracts.ManualReply]}
	}
	for name, c := range sandboxCalls() {
		tests["sandbox_call "+name] = struct {
			text []byte
			read func([]byte) error
		}{must(contracts.EncodeJSON(c)), readOurs[contracts.SandboxCall]}
	}
	for name, r := range sandboxReplies() {
		tests["sandbox_reply "+name] = struct {
			text []byte
			read func([]byte) error
		}{must(contracts.EncodeJSON(r)), readOurs[contracts.SandboxReply]}
	}
	leftOut := []string{"null", `""`, "[]", "{}"}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			document, _, _ := strings.Cut(name, " ")
			schema := compiled(t, document)
			taken := 0
			for what, text := range mutants(t, test.text) {
				err := fits(t, schema, []byte(text))
				if strings.HasSuffix(what, "one field more") && err == nil && !strings.Contains(what, "labels") && !strings.Contains(what, "environment") &&
					!strings.Contains(what, "metadata") && !strings.Contains(what, "capabilities") {
					t.Errorf("%s: the schema takes it", what)
				}
				_, value, _ := strings.Cut(what, " = ")
				// What Encode always writes the schema wants; a reader takes the zero value for it.
				if test.read([]byte(text)) != nil || slices.Contains(leftOut, value) || strings.HasPrefix(what, "without ") {
					continue
				}
				taken++
				if err != nil {
					t.Errorf("%s: valid, and the schema says %v", what, err)
				}
			}
			if taken < 3 {
				t.Errorf("%d of the mutants are valid: too few to tell", taken)
			}
		})
	}
}

func readOurs[T contracts.Document](data []byte) error {
	doc, err := contracts.Decode[T](data, contracts.Meta{})
	if err != nil {
		return err
	}
	v, ok := any(doc).(interface{ Validate() error })
	if !ok {
		return fmt.Errorf("%T has no Validate", doc)
	}
	return v.Validate()
}

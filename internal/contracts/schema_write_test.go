package contracts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// documents are what there are schemas of.
var documents = map[string]struct {
	id     string
	sample any
}{
	"invocation":   {"urn:runnel:1:invocation", contracts.Invocation{}},
	"chunk":        {"urn:runnel:1:chunk", contracts.Chunk{}},
	"start":        {"urn:runnel:1:start", contracts.Start{}},
	"end":          {"urn:runnel:1:end", contracts.End{}},
	"result":       {"urn:runnel:1:result", contracts.Result{}},
	"event":        {"urn:runnel:1:event", contracts.Event{}},
	"manifest":     {"urn:runnel:1:manifest", contracts.Manifest{}},
	"dead":         {"urn:runnel:1:dead", contracts.Dead{}},
	"presence":     {"urn:runnel:1:presence", contracts.Presence{}},
	"cancel_reply": {"urn:runnel:1:cancel_reply", contracts.CancelReply{}},

	"manual_request": {"urn:runnel:1:manual_request", contracts.ManualRequest{}},
	"manual_reply":   {"urn:runnel:1:manual_reply", contracts.ManualReply{}},
	"manual_control": {"urn:runnel:1:manual_control", contracts.ManualControl{}},
	"manual_answer":  {"urn:runnel:1:manual_answer", contracts.ManualAnswer{}},
	"manual_receipt": {"urn:runnel:1:manual_receipt", contracts.ManualReceipt{}},

	"sandbox_call":  {"urn:runnel:1:sandbox_call", contracts.SandboxCall{}},
	"sandbox_reply": {"urn:runnel:1:sandbox_reply", contracts.SandboxReply{}},

	contracts.ContractInvocation: {"urn:runnel:rxp:0.1:runtime_invocation", contracts.RxPInvocation{}},
	contracts.ContractResult:     {"urn:runnel:rxp:0.1:runtime_result", contracts.RxPResult{}},
	contracts.ContractArtifact:   {"urn:runnel:rxp:0.1:artifact_descriptor", contracts.RxPArtifact{}},
}

const (
	tokenPattern  = "^[a-z0-9_-]{1,64}$"
	idPattern     = "^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"
	storedPattern = "^~?[A-Za-z0-9][A-Za-z0-9_-]{0,127}$" // Runnel's own ids begin with ~
	runPattern    = "^[a-z2-7]{8}$"
	shaPattern    = "^[0-9a-f]{64}$"
	blobPattern   = `^(0|[1-9][0-9]{0,11})\.[0-9a-f]{64}$`
)

// byType says what values of a type are, beside their shape.
var byType = map[reflect.Type]object{
	reflect.TypeFor[contracts.Kind]():        {{"pattern", tokenPattern}},
	reflect.TypeFor[contracts.Reason]():      {{"pattern", tokenPattern}},
	reflect.TypeFor[contracts.Phase]():       {{"pattern", "^[a-z0-9_-]{0,64}$"}},
	reflect.TypeFor[contracts.Lane]():        {{"enum", contracts.Lanes()}},
	reflect.TypeFor[contracts.Pull]():        {{"enum", contracts.Pulls()}},
	reflect.TypeFor[contracts.Status]():      {{"enum", contracts.RxPStatuses()[2:]}},
	reflect.TypeFor[contracts.Stream]():      {{"enum", []contracts.Stream{contracts.Stdout, contracts.Stderr}}},
	reflect.TypeFor[contracts.CancelState](): {{"enum", []contracts.CancelState{contracts.CancelKilling, contracts.CancelDone, contracts.CancelEnded}}},
	reflect.TypeFor[contracts.ManualType](): {{"enum", []contracts.ManualType{
		contracts.ManualAccepted, contracts.ManualOutput, contracts.ManualProgress, contracts.ManualHeartbeat, contracts.ManualDeclined, contracts.ManualEnded,
	}}},
	reflect.TypeFor[contracts.ManualControlType](): {{"enum", []contracts.ManualControlType{contracts.ManualAck, contracts.ManualStop, contracts.ManualEnd}}},
	reflect.TypeFor[contracts.SandboxCallType]():   {{"enum", contracts.SandboxCallTypes()}},
	reflect.TypeFor[contracts.SandboxReplyType]():  {{"enum", contracts.SandboxReplyTypes()}},
	reflect.TypeFor[contracts.EventType](): {{"enum", []contracts.EventType{
		contracts.EventStarted, contracts.EventOutput, contracts.EventEnded, contracts.EventRestarted, contracts.EventGap, contracts.EventResult,
	}}},
}

// byField says what values of a field are: by type and wire name, or by the wire name alone.
var byField = map[string]object{
	"invocation_id":           {{"pattern", idPattern}},
	"Result.invocation_id":    {{"pattern", storedPattern}},
	"tenant":                  {{"pattern", tokenPattern}},
	"pool":                    {{"pattern", tokenPattern}},
	"digest":                  {{"pattern", shaPattern}},
	"sha256":                  {{"pattern", shaPattern}},
	"run":                     {{"pattern", runPattern}},
	"blob":                    {{"pattern", blobPattern}},
	"manifest":                {{"pattern", blobPattern}},
	"n":                       {{"minimum", 1}},
	"Event.n":                 {{"minimum", 0}},
	"ManualReply.n":           {{"minimum", 0}},
	"ManualControl.n":         {{"minimum", 0}},
	"ManualReply.responder":   {{"pattern", "^([A-Za-z0-9][A-Za-z0-9_-]{0,127})?$"}},
	"ManualOutcome.status":    {{"enum", []contracts.Status{contracts.StatusSucceeded, contracts.StatusFailed, contracts.StatusRejected}}},
	"answer":                  {{"pattern", "^[a-z2-7]{16}$"}},
	"ManualReceipt.answer":    {{"pattern", "^([a-z2-7]{16})?$"}},
	"heartbeat_seconds":       {{"exclusiveMinimum", 0}, {"maximum", contracts.MaxSeconds}},
	"window":                  {{"minimum", 1}},
	"fraction":                {{"minimum", 0}, {"maximum", 1}},
	"attempt":                 {{"minimum", 1}},
	"Result.attempt":          {{"minimum", 0}},
	"attempts":                {{"minimum", 1}, {"maximum", contracts.MaxAttempts}},
	"timeout_seconds":         {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"queue_timeout_seconds":   {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"interrupt_seconds":       {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"grace_seconds":           {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"delay_seconds":           {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"max_delay_seconds":       {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"output_limit_bytes":      {{"minimum", 0}},
	"stdout_bytes":            {{"minimum", 0}},
	"stderr_bytes":            {{"minimum", 0}},
	"cut_bytes":               {{"minimum", 0}},
	"artifact_count":          {{"minimum", 0}},
	"chunks":                  {{"minimum", 0}},
	"cut":                     {{"minimum", 0}},
	"size":                    {{"minimum", 0}},
	"offset":                  {{"minimum", 0}},
	"length":                  {{"minimum", 0}},
	"slots":                   {{"minimum", 0}},
	"busy":                    {{"minimum", 0}},
	"mode":                    {{"minimum", 0}, {"maximum", 0o777}},
	"labels":                  {{"maxProperties", contracts.MaxLabels}},
	"Invocation.metadata":     {{"maxProperties", contracts.MaxMetadataCount}},
	"Result.artifacts":        {{"maxItems", contracts.MaxInlineArtifacts}},
	"pieces":                  {{"minItems", 1}},
	"Retry.on":                {{"items", object{{"enum", []contracts.Status{contracts.StatusFailed, contracts.StatusTimedOut}}}}, {"uniqueItems", true}},
	"image":                   {{"minLength", 1}, {"maxLength", contracts.MaxImageBytes}},
	"memory_bytes":            {{"minimum", 0}},
	"disk_bytes":              {{"minimum", 0}},
	"cpus":                    {{"minimum", 0}, {"maximum", contracts.MaxCPUs}},
	"pids":                    {{"minimum", 0}, {"maximum", contracts.MaxPIDs}},
	"size_bytes":              {{"minimum", 0}},
	"Container.ports":         {{"maxItems", contracts.MaxContainerItems}},
	"Container.tmpfs":         {{"maxItems", contracts.MaxContainerItems}},
	"Container.mounts":        {{"maxItems", contracts.MaxContainerItems}},
	"Setup.command":           {{"minItems", 1}},
	"Setup.environment":       {{"propertyNames", object{{"pattern", "^[^=]+$"}}}},
	"Presence.name":           {{"minLength", 1}},
	"subject":                 {{"minLength", 1}},
	"artifact_globs":          {{"maxItems", contracts.MaxArtifactGlobs}},
	"Result.warnings":         {{"maxItems", contracts.MaxWarnings}},
	"Invocation.environment":  {{"propertyNames", object{{"pattern", "^[^=]+$"}}}},
	"Invocation.runtime_name": {{"maxLength", contracts.MaxNameBytes}},

	"SandboxCall.n":                 {{"minimum", 0}},
	"SandboxReply.n":                {{"minimum", 0}},
	"SandboxCall.window":            {{"minimum", 0}},
	"SandboxCall.heartbeat_seconds": {{"minimum", 0}, {"maximum", 3600}},
	"exec":                          {{"pattern", "^([a-z2-7]{16})?$"}},
	"idle_seconds":                  {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},
	"wait_seconds":                  {{"minimum", 0}, {"maximum", contracts.MaxSeconds}},

	"RxPInvocation.runtime_kind":      {{"pattern", tokenPattern}, {"examples", contracts.RxPKinds()}}, // E3
	"RxPResult.runtime_kind":          {{"pattern", tokenPattern}, {"examples", contracts.RxPKinds()}},
	"RxPResult.status":                {{"enum", contracts.RxPStatuses()}}, // E4
	"RxPInvocation.invocation_id":     {{"minLength", 1}},
	"RxPResult.invocation_id":         {{"minLength", 1}},
	"RxPInvocation.runtime_name":      {{"minLength", 1}},
	"RxPResult.runtime_name":          {{"minLength", 1}},
	"RxPInvocation.working_directory": {{"minLength", 1}},
	"RxPInvocation.command":           {{"minItems", 1}},
	"RxPInvocation.timeout_seconds":   {{"exclusiveMinimum", 0}, {"maximum", 1<<53 - 1}},
	"RxPInvocation.environment":       {{"default", object{}}},
	"RxPInvocation.metadata":          {{"default", object{}}},
	"RxPResult.exit_code":             {{"minimum", 1 - 1<<53}, {"maximum", 1<<53 - 1}},
	"RxPResult.artifacts":             {{"default", []any{}}},
	"RxPResult.metadata":              {{"default", object{}}},
	"RxPArtifact.artifact_id":         {{"minLength", 1}},
	"RxPArtifact.path":                {{"minLength", 1}},
	"RxPArtifact.kind":                {{"minLength", 1}},
	"RxPArtifact.description":         {{"default", ""}},
	"RxPArtifact.metadata":            {{"default", object{}}},
}

// notRequired may be left out although Encode always writes it: `submit` makes one.
var notRequired = []string{"Invocation.invocation_id"}

// object is a JSON object in the order in which it is written.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// schemaWriter writes the schema of one document.
type schemaWriter struct {
	docs map[string]string // comments, by "Type" and "Type.Field"
	defs map[string]object
}

func writeSchema(t *testing.T, name string) []byte {
	t.Helper()
	d := documents[name]
	w := schemaWriter{docs: comments(t), defs: map[string]object{}}
	typ := reflect.TypeOf(d.sample)
	out := object{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"$id", d.id}, {"title", name}}
	out = append(out, w.structure(typ)...)
	if len(w.defs) > 0 {
		var defs object
		for _, name := range slices.Sorted(maps.Keys(w.defs)) {
			defs = append(defs, member{name, w.defs[name]})
		}
		out = append(out, member{"$defs", defs})
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

func (w schemaWriter) structure(t reflect.Type) object {
	var properties object
	required := []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		optional := strings.Contains(options, "omitempty")
		rules, rxp := f.Tag.Lookup("rxp")
		if rxp {
			optional = strings.Contains(rules, "optional")
		}
		if !optional && !slices.Contains(notRequired, t.Name()+"."+name) {
			required = append(required, name)
		}
		properties = append(properties, member{name, w.field(t.Name(), f, name, rules)})
	}
	out := object{{"description", w.docs[t.Name()]}, {"type", "object"}, {"additionalProperties", false}, {"properties", properties}}
	if len(required) > 0 {
		out = append(out, member{"required", required})
	}
	return out
}

func (w schemaWriter) field(owner string, f reflect.StructField, name, rules string) object {
	out := w.value(f.Type)
	if only, ok := strings.CutPrefix(rules, "optional,only="); ok {
		out = object{{"const", only}, {"default", only}}
	} else if extra, ok := byField[owner+"."+name]; ok {
		out = append(out[:1:1], extra...) // in place of what its type says
		out = append(out, w.value(f.Type)[1:].without(out)...)
	} else if !strings.HasPrefix(owner, "RxP") {
		out = append(out, byField[name]...)
	}
	if strings.Contains(rules, "null") {
		out[0].value = []any{out[0].value, "null"}
		out = append(out, member{"default", nil})
	}
	if text := w.docs[owner+"."+f.Name]; text != "" {
		if rest, ok := strings.CutPrefix(text, f.Name+" "); ok {
			text = name + " " + rest
		}
		out = append(out, member{"description", text})
	}
	return out
}

// without returns what of o is not in other.
func (o object) without(other object) (out object) {
	for _, m := range o {
		if !slices.ContainsFunc(other, func(n member) bool { return n.name == m.name }) {
			out = append(out, m)
		}
	}
	return out
}

// value returns the schema of a type; what it begins with is its type or a reference to it.
func (w schemaWriter) value(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{{"type", "string"}, {"format", "date-time"}}
	case t == reflect.TypeFor[[]byte]():
		return object{{"type", "string"}, {"contentEncoding", "base64"}}
	}
	switch k := t.Kind(); k {
	case reflect.Pointer:
		return w.value(t.Elem())
	case reflect.String:
		return append(object{{"type", "string"}}, byType[t]...)
	case reflect.Bool:
		return object{{"type", "boolean"}}
	case reflect.Float64:
		return object{{"type", "number"}}
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return object{{"type", "integer"}}
	case reflect.Slice:
		return object{{"type", "array"}, {"items", w.value(t.Elem())}}
	case reflect.Map:
		return object{{"type", "object"}, {"additionalProperties", w.value(t.Elem())}}
	case reflect.Struct:
		name := strings.ToLower(t.Name())
		if _, ok := w.defs[name]; !ok {
			w.defs[name] = nil // it may refer to itself
			w.defs[name] = w.structure(t)
		}
		return object{{"$ref", "#/$defs/" + name}}
	default:
		panic(fmt.Sprintf("%s has no schema", t))
	}
}

// comments returns what the source says of the types and their fields.
func comments(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			types, ok := decl.(*ast.GenDecl)
			if !ok || types.Tok != token.TYPE {
				continue
			}
			for _, spec := range types.Specs {
				spec := spec.(*ast.TypeSpec)
				fields, ok := spec.Type.(*ast.StructType)
				if !ok {
					continue
				}
				doc := spec.Doc
				if doc == nil {
					doc = types.Doc
				}
				out[spec.Name.Name] = oneLine(doc)
				for _, f := range fields.Fields.List {
					text := oneLine(f.Doc)
					if text == "" {
						text = oneLine(f.Comment)
					}
					for _, name := range f.Names {
						out[spec.Name.Name+"."+name.Name] = text
					}
				}
			}
		}
	}
	return out
}

func oneLine(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

// The schemas are what the types say: -update writes them.
func TestSchemas(t *testing.T) {
	var names []string
	for name := range documents {
		names = append(names, name)
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("schemas", name+".schema.json")
			want := writeSchema(t, name)
			if *update {
				write(t, file, want)
			}
			if got := read(t, file); !bytes.Equal(got, want) {
				t.Errorf("%s is not what the types say: go test -run TestSchemas -update", file)
			}
			if *update {
				return
			}
			got, err := contracts.Schema(name)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("Schema(%q) = %d bytes, %v; want %s", name, len(got), err, file)
			}
		})
	}
	slices.Sort(names)
	entries, err := os.ReadDir("schemas")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Errorf("%d files in schemas, want %d", len(entries), len(names))
	}
	if !*update && !slices.Equal(contracts.SchemaNames(), names) {
		t.Errorf("SchemaNames() = %q, want %q", contracts.SchemaNames(), names)
	}
	if _, err := contracts.Schema("../doc.go"); err == nil {
		t.Error("Schema(../doc.go) is no error")
	}
}

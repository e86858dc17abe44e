package contracts_test

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/runnel-project/runnel/internal/contracts"
)

// pairs writes a map as a stranger would, field by field, so that it can repeat and misspell them.
type pairs []any

func (p pairs) EncodeMsgpack(e *msgpack.Encoder) error {
	if err := e.EncodeMapLen(len(p) / 2); err != nil {
		return err
	}
	for _, v := range p {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// invocationWith packs a good invocation and then more fields.
func invocationWith(more ...any) []byte {
	data, err := msgpack.Marshal(append(pairs{"invocation_id", "a1", "runtime_kind", "subprocess"}, more...))
	if err != nil {
		panic(err)
	}
	return data
}

func TestDecodeRefusesMsgpackByName(t *testing.T) {
	nested := func(depth int) any {
		var v any = "x"
		for range depth {
			v = []any{v}
		}
		return v
	}
	tests := map[string]struct {
		data    []byte
		version string
		want    string
	}{
		"nothing":                    {data: nil, want: "decode invocation: the message ends within it: 1 bytes wanted, 0 left"},
		"a number":                   {data: []byte{7}, want: "decode invocation: is an integer, wants a map of fields"},
		"a list of all fields":       {data: []byte{0x91, 0xa1, 'a'}, want: "decode invocation: is a list, wants a map of fields"},
		"nil":                        {data: []byte{0xc0}, want: "decode invocation: is nil, wants a map of fields"},
		"the byte of no value":       {data: []byte{0xc1}, want: "byte 0xc1 begins no msgpack value"},
		"a byte after the end":       {data: append(invocationWith(), 0), want: "decode invocation: 1 bytes follow the end of the document"},
		"half":                       {data: invocationWith()[:20], want: "decode invocation: claims a length of 12, and only 1 bytes are left"},
		"unknown field":              {data: invocationWith("argv", []string{"true"}), want: `decode invocation: unknown field "argv"`},
		"wrong-case field":           {data: invocationWith("Command", []string{"true"}), want: `unknown field "Command": did you mean "command"?`},
		"field in camel case":        {data: invocationWith("timeoutSeconds", 1), want: `unknown field "timeoutSeconds": did you mean "timeout_seconds"?`},
		"mistyped field":             {data: invocationWith("comand", []string{"true"}), want: `unknown field "comand": did you mean "command"?`},
		"unknown field of 10 KB":     {data: invocationWith(long(10_000), 1), want: `(10000 bytes)`},
		"nested unknown field":       {data: invocationWith("stop", pairs{"grace", 1}), want: `stop: unknown field "grace"`},
		"nested wrong-case field":    {data: invocationWith("stdin", pairs{"Data", []byte("x")}), want: `stdin: unknown field "Data": did you mean "data"?`},
		"duplicate field":            {data: invocationWith("invocation_id", "b1"), want: `decode invocation: duplicate field "invocation_id"`},
		"nested duplicate field":     {data: invocationWith("retry", pairs{"attempts", 1, "attempts", 2}), want: `retry: duplicate field "attempts"`},
		"duplicate key":              {data: invocationWith("environment", pairs{"A", "1", "A", "2"}), want: `environment["A"]: is there twice`},
		"duplicate key, not beside":  {data: invocationWith("labels", pairs{"b", "1", "a", "2", "c", "3", "b", "4"}), want: `labels["b"]: is there twice`},
		"duplicate key after sorted": {data: invocationWith("labels", pairs{"a", "1", "b", "2", "a", "3"}), want: `labels["a"]: is there twice`},
		"field name not text":        {data: invocationWith(7, 7), want: "has a key that is an integer, wants text"},
		"map key not text":           {data: invocationWith("environment", pairs{[]byte("A"), "1"}), want: "environment: has a key that is binary, wants text"},
		"integer for text":           {data: invocationWith("runtime_name", 7), want: "runtime_name: is an integer, wants text"},
		"text for a list":            {data: invocationWith("command", "true"), want: "command: is text, wants a list"},
		"integer in a list":          {data: invocationWith("command", []any{"echo", "a", 7}), want: "command[2]: is an integer, wants text"},
		"nil in a list":              {data: invocationWith("command", []any{"echo", nil}), want: "command[1]: is nil, wants text"},
		"nil in a map":               {data: invocationWith("environment", pairs{"A", nil}), want: `environment["A"]: is nil, wants text`},
		"nil for a required field":   {data: invocationWith("retry", pairs{"attempts", nil}), want: "retry.attempts: is nil, wants an integer"},
		"missing nested field":       {data: invocationWith("retry", pairs{"delay_seconds", 1}), want: "retry.attempts: is missing"},
		"text for binary":            {data: invocationWith("stdin", pairs{"data", "hi"}), want: "stdin.data: is text, wants binary"},
		"binary for text":            {data: invocationWith("runtime_name", []byte("hi")), want: "runtime_name: is binary, wants text"},
		"float for an integer":       {data: invocationWith("output_limit_bytes", 1.0), want: "output_limit_bytes: is a float, wants an integer"},
		"integer too large":          {data: invocationWith("output_limit_bytes", uint64(math.MaxUint64)), want: "output_limit_bytes: is not within -9223372036854775808 to 9223372036854775807"},
		"seconds too large":          {data: invocationWith("timeout_seconds", uint64(math.MaxUint64)), want: "timeout_seconds: is too large"},
		"seconds as text":            {data: invocationWith("timeout_seconds", "60"), want: "timeout_seconds: is text, wants a number"},
		"not a number":               {data: invocationWith("timeout_seconds", math.NaN()), want: "timeout_seconds: NaN is not a number"},
		"infinity":                   {data: invocationWith("stop", pairs{"grace_seconds", math.Inf(1)}), want: "stop.grace_seconds: +Inf is not a number"},
		"text not UTF-8":             {data: invocationWith("command", []string{"a\xff"}), want: `command[0]: "a\xff" is not UTF-8`},
		"claimed list":               {data: invocationWith("command", msgpack.RawMessage{0xdd, 0x7f, 0xff, 0xff, 0xff}), want: "command: claims a length of 2147483647, and only 0 bytes are left"},
		"claimed map":                {data: invocationWith("labels", msgpack.RawMessage{0xdf, 0xff, 0xff, 0xff, 0xff}), want: "labels: claims a length of 4294967295, and only 0 bytes are left"},
		"claimed text":               {data: invocationWith("runtime_name", msgpack.RawMessage{0xdb, 0xff, 0xff, 0xff, 0xff}), want: "runtime_name: claims a length of 4294967295, and only 0 bytes are left"},
		"claimed binary":             {data: invocationWith("stdin", pairs{"data", msgpack.RawMessage{0xc6, 0x10, 0, 0, 0}}), want: "stdin.data: claims a length of 268435456, and only 0 bytes are left"},
		"extension for text":         {data: invocationWith("runtime_name", msgpack.RawMessage{0xd4, 5, 0}), want: "runtime_name: is an extension, wants text"},
		"too large":                  {data: append(invocationWith(), make([]byte, contracts.MaxMessageBytes)...), want: "more than 524288"},
		"newer minor, nested deep":   {data: invocationWith("soon", nested(40)), version: "1.9", want: `"soon": is nested deeper than 32`},
		"newer minor, known field":   {data: invocationWith("soon", 1, "command", 2), version: "1.9", want: "command: is an integer, wants a list"},
		"version of one number":      {data: invocationWith(), version: "1", want: `header Runnel-Version: "1" is not major.minor`},
		"version of three numbers":   {data: invocationWith(), version: "1.0.0", want: `header Runnel-Version: "1.0.0" is not major.minor`},
		"version with a zero before": {data: invocationWith(), version: "01.0", want: `header Runnel-Version: "01.0" is not major.minor`},
		"version negative":           {data: invocationWith(), version: "1.-1", want: `header Runnel-Version: "1.-1" is not major.minor`},
		"older major":                {data: invocationWith(), version: "0.9", want: "header Runnel-Version: version 0.9 is older than this program reads (1.0)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := contracts.Decode[contracts.Invocation](tt.data, contracts.Meta{Version: tt.version})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode() = %v, want %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("Decode() = an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestDecodeRefusesJSONByName(t *testing.T) {
	tests := map[string]struct {
		more    string
		version string
		want    string
	}{
		"unknown field":           {more: `"argv":[]`, want: `decode invocation: unknown field "argv"`},
		"wrong-case field":        {more: `"Command":["true"]`, want: `unknown field "Command": did you mean "command"?`},
		"nested wrong-case field": {more: `"stdin":{"Data":""}`, want: `stdin: unknown field "Data": did you mean "data"?`},
		"duplicate field":         {more: `"invocation_id":"b"`, want: `decode invocation: duplicate field "invocation_id"`},
		"duplicate key":           {more: `"environment":{"A":"1","A":"2"}`, want: `environment["A"]: is there twice`},
		"integer for text":        {more: `"runtime_name":7`, want: "runtime_name: is a number, wants text"},
		"integer in a list":       {more: `"command":["a",7]`, want: "command[1]: is a number, wants text"},
		"null in a list":          {more: `"command":["a",null]`, want: "command[1]: is null, wants text"},
		"null in a map":           {more: `"labels":{"a":null}`, want: `labels["a"]: is null, wants text`},
		"null for required":       {more: `"retry":{"attempts":null}`, want: "retry.attempts: is null, wants an integer"},
		"missing nested field":    {more: `"retry":{}`, want: "retry.attempts: is missing"},
		"fraction":                {more: `"output_limit_bytes":1.5`, want: "output_limit_bytes: 1.5 is not within"},
		"integer too large":       {more: `"output_limit_bytes":9223372036854775808`, want: "output_limit_bytes: 9223372036854775808 is not within"},
		"number too large":        {more: `"timeout_seconds":1e999`, want: "timeout_seconds: 1e999 is not a number that can be kept"},
		"seconds as text":         {more: `"timeout_seconds":"60"`, want: "timeout_seconds: is text, wants a number"},
		"not base64":              {more: `"stdin":{"data":"%%%"}`, want: `stdin.data: is not base64`},
		"number for binary":       {more: `"stdin":{"data":1}`, want: "stdin.data: is a number, wants text in base64"},
		"cut off":                 {more: `"command":["a"`, want: "is not JSON: "},
		"no value":                {more: `"command":`, want: "is not JSON: "},
		"not UTF-8":               {more: "\"command\":[\"\xff\"]", want: "command[0]: is not JSON: invalid UTF-8"},
		"newer minor, deep":       {more: `"soon":` + strings.Repeat("[", 40) + strings.Repeat("]", 40), version: "1.9", want: `"soon": is nested deeper than 32`},
		"newer minor, known":      {more: `"soon":{},"command":2`, version: "1.9", want: "command: is a number, wants a list"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			data := `{"invocation_id":"a1","runtime_kind":"subprocess",` + tt.more + "}"
			_, err := contracts.Decode[contracts.Invocation]([]byte(data), contracts.Meta{Version: tt.version})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode(%s) = %v, want %q", data, err, tt.want)
			}
		})
	}
	if _, err := contracts.Decode[contracts.End]([]byte(`{"not_before":null}`), contracts.Meta{}); err == nil || !strings.Contains(err.Error(), "not_before: is null, wants a time") {
		t.Errorf("Decode() = %v for a time of null", err)
	}
	for data, want := range map[string]string{
		"":                                   "is not JSON: nothing there",
		"[]":                                 "is a list, wants a map of fields",
		"null":                               "is null, wants a map of fields",
		`{} {}`:                              "something follows the end of the document",
		"{}x":                                "something follows the end of the document",
		"{\"n\" 1}":                          "is not JSON: ",
		"nonsense":                           "is not JSON: ",
		`{"at":"x"}`:                         `at: is not a time of RFC 3339 in the years 0 to 9999`,
		`{"at":"0000-01-01T00:00:00+23:59"}`: "at: ",
		`{"at":7}`:                           "at: is a number, wants a time",
		`{"pieces":[{}]}`:                    "pieces[0].stream: is missing",
		`{"pieces":[null]}`:                  "pieces[0]: is null, wants a map of fields",
	} {
		_, err := contracts.Decode[contracts.Chunk]([]byte(data), contracts.Meta{ContentType: "application/json; charset=utf-8"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%s) = %v, want %q", data, err, want)
		}
	}
}

func TestDecodeRefusesTimes(t *testing.T) {
	tests := map[string]struct {
		at   msgpack.RawMessage
		want string
	}{
		"text":             {append(msgpack.RawMessage{0xb4}, "2026-01-01T00:00:00Z"...), "at: is text, wants a time"},
		"extension 13":     {msgpack.RawMessage{0xd6, 13, 0, 0, 0, 1}, "at: is an extension, wants a time"},
		"of 1 byte":        {msgpack.RawMessage{0xd4, 0xff, 0}, "at: is a timestamp of 1 bytes, wants 4, 8 or 12"},
		"a long second":    {msgpack.RawMessage{0xd7, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, "at: is a time with more than a second of nanoseconds"},
		"the far future":   {msgpack.RawMessage{0xc7, 12, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "at: is a time outside of the years 0 to 9999"},
		"before the years": {msgpack.RawMessage{0xc7, 12, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0}, "at: is a time outside of the years 0 to 9999"},
		"nil":              {msgpack.RawMessage{0xc0}, "at: is nil, wants a time"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			data, err := msgpack.Marshal(pairs{"n", 1, "at", tt.at})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := contracts.Decode[contracts.Chunk](data, contracts.Meta{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode() = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDecodeTakesWhatStrangersMaySend(t *testing.T) {
	tests := map[string]struct {
		data []byte
		meta contracts.Meta
	}{
		"fields in another order":    {data: []byte(`{"runtime_kind":"noop","timeout_seconds":60,"invocation_id":"a1"}`)},
		"white space before JSON":    {data: []byte(" \r\n\t{\"timeout_seconds\":60,\"invocation_id\":\"a1\",\"runtime_kind\":\"noop\"}\n")},
		"integers for seconds":       {data: must(msgpack.Marshal(pairs{"timeout_seconds", 60, "runtime_kind", "noop", "invocation_id", "a1"}))},
		"a small float":              {data: must(msgpack.Marshal(pairs{"invocation_id", "a1", "runtime_kind", "noop", "timeout_seconds", float32(60)}))},
		"nil for optional":           {data: must(msgpack.Marshal(pairs{"invocation_id", "a1", "runtime_kind", "noop", "timeout_seconds", 60, "stop", nil, "labels", nil, "tenant", nil, "queue_timeout_seconds", nil, "output_limit_bytes", nil}))},
		"null for optional":          {data: []byte(`{"invocation_id":"a1","runtime_kind":"noop","timeout_seconds":60,"stop":null,"labels":null,"tenant":null,"queue_timeout_seconds":null,"output_limit_bytes":null}`)},
		"empty for optional":         {data: []byte(`{"invocation_id":"a1","runtime_kind":"noop","timeout_seconds":60,"labels":{},"command":[],"tenant":""}`)},
		"the longest forms":          {data: append([]byte{0xdf, 0, 0, 0, 3, 0xdb, 0, 0, 0, 13}, must(msgpack.Marshal(msgpack.RawMessage("invocation_id\xda\x00\x02a1\xd9\x0cruntime_kind\xa4noop\xaftimeout_seconds\xd3\x00\x00\x00\x00\x00\x00\x00\x3c")))...)},
		"unknown of a newer minor":   {data: must(msgpack.Marshal(pairs{"soon", pairs{"x", []int{1}}, "invocation_id", "a1", "runtime_kind", "noop", "timeout_seconds", 60})), meta: contracts.Meta{Version: "1.1"}},
		"the same in JSON":           {data: []byte(`{"soon":{"x":[1]},"invocation_id":"a1","runtime_kind":"noop","timeout_seconds":60}`), meta: contracts.Meta{Version: "1.65535"}},
		"named as msgpack":           {data: must(msgpack.Marshal(pairs{"invocation_id", "a1", "runtime_kind", "noop", "timeout_seconds", 60})), meta: contracts.Meta{ContentType: "application/x-msgpack", Version: "1.0"}},
		"named as JSON, other cases": {data: []byte(`{"invocation_id":"a1","runtime_kind":"noop","timeout_seconds":60}`), meta: contracts.Meta{ContentType: "Application/JSON ; charset=utf-8"}},
	}
	want := string(must(contracts.Encode(contracts.Invocation{ID: "a1", Kind: contracts.KindNoop, TimeoutSeconds: 60})))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := contracts.Decode[contracts.Invocation](tt.data, tt.meta)
			if err != nil {
				t.Fatal(err)
			}
			if data := must(contracts.Encode(got)); string(data) != want {
				t.Errorf("Decode() = %+v", got)
			}
		})
	}
}

func TestDecodeHandsBackANewerMajor(t *testing.T) {
	for _, version := range []string{"2.0", "65535.3"} {
		_, err := contracts.Decode[contracts.Result]([]byte("whatever it may be"), contracts.Meta{Version: version})
		if !errors.Is(err, contracts.ErrNewerMajor) {
			t.Errorf("Decode(version %s) = %v, want ErrNewerMajor", version, err)
		}
	}
}

func TestDecodeNamesTheField(t *testing.T) {
	_, err := contracts.Decode[contracts.Invocation](invocationWith("stop", pairs{"grace_seconds", "5"}), contracts.Meta{})
	var field *contracts.FieldError
	if !errors.As(err, &field) || field.Field != "stop.grace_seconds" {
		t.Errorf("Decode() = %#v, want a FieldError of stop.grace_seconds", err)
	}
}

func TestDecodeRefusesAnUnknownContentType(t *testing.T) {
	_, err := contracts.Decode[contracts.Invocation](invocationWith(), contracts.Meta{ContentType: "text/plain"})
	if err == nil || !strings.Contains(err.Error(), `header Content-Type: "text/plain" is not known: send application/msgpack or application/json`) {
		t.Errorf("Decode() = %v", err)
	}
}

// The msgpack decoder panics on nil for a time: a stranger's 14 bytes would end every reader.
func TestDecodeRefusesNilForAnOptionalTime(t *testing.T) {
	_, err := contracts.Decode[contracts.End](must(msgpack.Marshal(pairs{"run", "abcd2345", "not_before", nil})), contracts.Meta{})
	if err == nil || err.Error() != "decode end: not_before: is nil, wants a time" {
		t.Errorf("Decode() = %v", err)
	}
}

// A full message of the emptiest elements is what costs a decoder most.
func TestDecodeAllocatesInProportion(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty pieces":     append(must(msgpack.Marshal(msgpack.RawMessage("\x81\xa6pieces\xdd\x00\x07\xff\x00"))), bytes.Repeat([]byte{0x80}, 0x7ff00)...),
		"smallest pieces":  append([]byte("\x81\xa6pieces\xdc\xe0\x00"), bytes.Repeat([]byte("\x81\xa6stream\xa0"), 0xe000)...),
		"nested in pieces": append([]byte("\x81\xa6pieces\x91"), bytes.Repeat([]byte{0x91}, 0x7ff00)...),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _ = contracts.Decode[contracts.Chunk](data, contracts.Meta{})
			runtime.ReadMemStats(&after)
			if cost := after.TotalAlloc - before.TotalAlloc; cost > 32*contracts.MaxMessageBytes {
				t.Errorf("Decode of %d bytes allocated %d", len(data), cost)
			}
		})
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	for want, doc := range map[string]any{
		`error_summary: "a\xff" is not UTF-8`:   contracts.Result{Error: "a\xff"},
		"timeout_seconds: NaN is not a number":  contracts.Invocation{TimeoutSeconds: math.NaN()},
		"at: is a time outside of the years":    contracts.Chunk{At: at(0).AddDate(8000, 0, 0)},
		"chan int has no form on the wire":      make(chan int),
		"encode nothing: nil is not a document": nil,
		"map[string]int has no form on the wire": struct {
			X map[string]int `json:"x"`
		}{},
		".x has no name on the wire": struct{ x int }{},
	} {
		if _, err := contracts.Encode(doc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Encode(%v) = %v, want %q", doc, err, want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

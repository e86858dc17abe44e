package contracts_test

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// What docs/protocol.md shows is what the goldens are.
func TestProtocolExamples(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(json|hex) golden=([a-z_-]+)\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) < 10 {
		t.Fatalf("%d examples found, want 10 at least", len(blocks))
	}
	for _, b := range blocks {
		t.Run(b[2]+" "+b[1], func(t *testing.T) {
			file := "testdata/" + b[2] + ".json"
			if b[1] == "hex" {
				file = "testdata/" + b[2] + ".msgpack.hex"
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b[1] == "hex" {
				if strings.TrimSpace(b[3]) != strings.TrimSpace(string(golden)) {
					t.Errorf("the example is not %s", file)
				}
				return
			}
			var shown, want any
			if err := json.Unmarshal([]byte(b[3]), &shown); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(golden, &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(shown, want) {
				t.Errorf("the example is not %s", file)
			}
		})
	}
}

// A client can be written from the page alone: it names every field of every document, and every word of the fixed vocabularies.
func TestProtocolIsComplete(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			look(typ.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[typ] || typ == reflect.TypeFor[time.Time]() {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`"`) {
				t.Errorf("field %s of %s is nowhere in docs/protocol.md", name, typ.Name())
			}
			look(typ.Field(i).Type)
		}
	}
	for name, d := range documents {
		if !strings.HasPrefix(d.id, "urn:runnel:rxp") && name != "event" { // what a Go client shows, and RxP's own
			look(reflect.TypeOf(d.sample))
		}
	}
	for typ, rules := range byType {
		for _, rule := range rules {
			if rule.name != "enum" || typ == reflect.TypeFor[contracts.EventType]() {
				continue
			}
			words := reflect.ValueOf(rule.value)
			for i := range words.Len() {
				if word := words.Index(i).String(); !strings.Contains(text, "`"+word+"`") && !strings.Contains(text, `"`+word+`"`) {
					t.Errorf("%s %q is nowhere in docs/protocol.md", typ.Name(), word)
				}
			}
		}
	}
}

package contracts_test

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
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

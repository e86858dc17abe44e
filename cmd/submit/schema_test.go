//go:build unix

package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSchema(t *testing.T) {
	a := newAccount(t)
	names := strings.Fields(a.want(0, "schema"))
	if len(names) < 10 {
		t.Fatalf("schema lists %q", names)
	}
	for _, name := range names {
		var doc struct {
			Schema string `json:"$schema"`
			Title  string `json:"title"`
		}
		if err := json.Unmarshal([]byte(a.want(0, "schema", name)), &doc); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
		if doc.Schema != "https://json-schema.org/draft/2020-12/schema" || doc.Title != name {
			t.Errorf("schema %s is of %q, title %q", name, doc.Schema, doc.Title)
		}
	}
	var listed []string
	if err := json.Unmarshal([]byte(a.want(0, "schema", "--json")), &listed); err != nil || len(listed) != len(names) {
		t.Errorf("schema --json lists %q, %v", listed, err)
	}
	got := a.submit("schema", "invoice")
	if got.code != 125 || got.out != "" || !strings.Contains(got.err, `no schema of "invoice"`) || !strings.Contains(got.err, "runtime_result") {
		t.Errorf("schema invoice: %s", got)
	}
}

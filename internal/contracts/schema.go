package contracts

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// The files are written from the types of this package: go test -run TestSchemas -update.
//
//go:embed schemas
var schemas embed.FS

const schemaSuffix = ".schema.json"

// SchemaNames returns the documents that Schema knows, sorted.
func SchemaNames() []string {
	files, err := schemas.ReadDir("schemas")
	if err != nil {
		panic(err) // embedded: it is there or nothing is
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), schemaSuffix))
	}
	slices.Sort(names)
	return names
}

// Schema returns the JSON Schema (draft 2020-12) of a document: of ours in JSON, or of one of RxP v0.1.
func Schema(name string) ([]byte, error) {
	if !slices.Contains(SchemaNames(), name) {
		return nil, fmt.Errorf("no schema of %s: there are %s", quote(name), strings.Join(SchemaNames(), ", "))
	}
	return schemas.ReadFile("schemas/" + name + schemaSuffix)
}

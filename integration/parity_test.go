package integration_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every item of RxP and its runtime, E1 to E47, has a test that cites it.
func TestParityIsCited(t *testing.T) {
	cited := map[string]bool{}
	item := regexp.MustCompile(`\bE[0-9]+\b`)
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") || entry.Name() == "parity_test.go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range item.FindAllString(string(text), -1) {
			cited[name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 47; n++ {
		if name := fmt.Sprintf("E%d", n); !cited[name] {
			t.Errorf("no test cites %s", name)
		}
	}
}

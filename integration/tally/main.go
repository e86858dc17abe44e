// Command tally reads the output of go test -json and prints what a reader of a
// build wants to know: one line per package, every failure in full, the figures
// that tests measured (T.Attr("figure", …)), and at the end how many tests ran and
// which were skipped, with the reason. It exits with 1 if anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if !tally(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is a line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output, Key, Value string
	FailedBuild                                           string
	Elapsed                                               float64
}

// note is something said about a test, in the order in which it was said.
type note struct{ pkg, test, text string }

// tally prints in's events to out and reports whether everything passed.
func tally(in io.Reader, out io.Writer) bool {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	said := map[[2]string][]string{}
	var passed, failed, packages int
	var skipped, figures []note
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // go itself speaks: a broken go.mod, a missing package
			failed++
			continue
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "output":
			said[key] = append(said[key], e.Output)
		case "attr":
			if e.Key == "figure" {
				figures = append(figures, note{e.Package, e.Test, e.Value})
			}
		case "pass", "fail", "skip":
			switch {
			case e.Test == "" && e.Action == "fail":
				packages++
				failed++
				fmt.Fprint(out, strings.Join(said[key], ""))
			case e.Test == "":
				packages++
				if closing := closingLine(said[key]); closing != "" {
					fmt.Fprint(out, closing)
				}
			case e.Action == "pass":
				passed++
			case e.Action == "fail":
				failed++
				fmt.Fprint(out, strings.Join(said[key], ""))
			case e.Action == "skip":
				skipped = append(skipped, note{e.Package, e.Test, reason(said[key])})
			}
			delete(said, key)
		}
	}
	// A test without a last word died with its process: say what it had said.
	for key, text := range said {
		failed++
		fmt.Fprintf(out, "%s %s did not end:\n%s", key[0], key[1], strings.Join(text, ""))
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintf(out, "read the test events: %v\n", err)
		failed++
	}
	for _, f := range figures {
		fmt.Fprintf(out, "figure %s: %s\n", f.test, f.text)
	}
	for _, s := range skipped {
		fmt.Fprintf(out, "skip %s %s: %s\n", s.pkg, s.test, s.text)
	}
	fmt.Fprintf(out, "%d tests passed, %d failed, %d skipped in %d packages\n", passed, failed, len(skipped), packages)
	return failed == 0 && passed > 0
}

// closingLine returns the runner's own line on a package: "ok  pkg 1.2s".
func closingLine(said []string) string {
	for _, line := range slices.Backward(said) {
		if strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "ok\t") || strings.HasPrefix(line, "FAIL") {
			return line
		}
	}
	return ""
}

// reason returns what a skipped test said, without the runner's own lines.
func reason(said []string) string {
	var kept []string
	for _, line := range said {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, " ")
}

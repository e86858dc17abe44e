package contracts

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// ReservedArtifacts is the directory among the artifacts of a run that is Runnel's own. What
// the work leaves under the name is left out.
const ReservedArtifacts = ".runnel"

// LogPath is the artifact in which the whole of a stream is kept (Invocation.KeepLog).
func LogPath(stream Stream) string { return ReservedArtifacts + "/" + string(stream) + ".log" }

// artifactGlobs checks patterns as doublestar matches them: all that passes here is valid there.
func (p *problems) artifactGlobs(globs []string) {
	if len(globs) > MaxArtifactGlobs {
		p.add("artifact_globs", "are %d, more than %d", len(globs), MaxArtifactGlobs)
	}
	for i, glob := range globs {
		problem := textProblem(glob, MaxGlobBytes)
		if problem == "" {
			problem = globProblem(glob)
		}
		if problem != "" {
			p.add(fmt.Sprintf("artifact_globs[%d]", i), "%s", problem)
		}
	}
}

func globProblem(glob string) string {
	elements := strings.Split(strings.TrimSuffix(glob, "/"), "/")
	switch _, err := path.Match(glob, ""); {
	case glob == "":
		return "must not be empty"
	case strings.HasPrefix(glob, "/"):
		return quote(glob) + " is absolute: a pattern is relative to the workspace"
	case slices.Contains(elements, ".."), slices.Contains(elements, "."), slices.Contains(elements, ""):
		return quote(glob) + " has an element that is empty, \".\" or \"..\""
	case err != nil || !balanced(glob):
		return quote(glob) + " is not a pattern: see to its brackets, braces and backslashes"
	}
	return ""
}

// balanced reports whether every brace that opens is closed, and the other way round. path.Match
// has checked brackets and backslashes.
func balanced(glob string) bool {
	depth, class := 0, false
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case strings.HasPrefix(glob[i:], "[!]"): // empty to some, and "!" to others
			return false
		case c == '[':
			class = true
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth < 0 {
				return false
			}
		}
	}
	return depth == 0
}

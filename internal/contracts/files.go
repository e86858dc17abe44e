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

// maxAlternatives bounds what a glob costs: each brace multiplies the time that a match takes by its alternatives.
const maxAlternatives = 64

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
	if glob == "" {
		return "must not be empty"
	}
	trimmed := strings.TrimSuffix(glob, "/") // a directory may be named as one
	elements := strings.Split(trimmed, "/")
	switch _, err := path.Match(trimmed, ""); {
	case strings.HasPrefix(glob, "/"):
		return quote(glob) + " is absolute: a pattern is relative to the workspace"
	case slices.Contains(elements, ".."), slices.Contains(elements, "."), slices.Contains(elements, ""):
		return quote(glob) + " has an element that is empty, \".\" or \"..\""
	case err != nil || alternatives(glob) == 0:
		return quote(glob) + " is not a pattern: see to its brackets, braces and backslashes"
	case alternatives(glob) > maxAlternatives:
		return fmt.Sprintf("%s has braces for more than %d patterns: give them one by one", quote(glob), maxAlternatives)
	}
	return ""
}

// alternatives is how many patterns the braces of a glob stand for, or somewhat more; 0 is that they are not well
// formed. path.Match has checked brackets and backslashes.
func alternatives(glob string) int {
	all, class := 1, false
	var groups []int // that are open, and how many alternatives each has so far
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case strings.HasPrefix(glob[i:], "[!]"): // empty to some, and "!" to others
			return 0
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '{':
			groups = append(groups, 1)
		case c == ',' && len(groups) > 0:
			groups[len(groups)-1]++
		case c == '}' && len(groups) == 0:
			return 0
		case c == '}':
			all = min(all*groups[len(groups)-1], maxAlternatives+1)
			groups = groups[:len(groups)-1]
		}
	}
	if len(groups) > 0 {
		return 0
	}
	return all
}

package artifacts

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/runnel-project/runnel/internal/contracts"
)

// maxNameBytes bounds the path of an artifact, as PATH_MAX does.
const maxNameBytes = 4096

// setName names a after a path, whatever its bytes are.
func setName(a *contracts.Artifact, name string) {
	a.Path = name
	if !utf8.ValidString(name) {
		a.Path, a.PathBytes = shown(name), []byte(name)
	}
}

// shown is a path as people see it: U+FFFD for every byte that is not UTF-8.
func shown(name string) string {
	var b strings.Builder
	for _, r := range name { // a byte that is no part of a character ranges as U+FFFD
		b.WriteRune(r)
	}
	return b.String()
}

// nameOf is the path of an artifact, byte for byte.
func nameOf(a contracts.Artifact) string {
	if len(a.PathBytes) > 0 {
		return string(a.PathBytes)
	}
	return a.Path
}

// checkName says why a name cannot be that of an artifact; "" is that it can.
func checkName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > maxNameBytes:
		return fmt.Sprintf("is %d bytes, more than %d", len(name), maxNameBytes)
	case strings.IndexByte(name, 0) >= 0:
		return "contains a NUL byte"
	case name[0] == '/':
		return "is absolute"
	}
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "":
			return "has an empty element"
		case ".", "..":
			return fmt.Sprintf("has an element %q", part)
		}
	}
	return ""
}

// quote shows a name in a sentence, shortened in its middle if it is long.
func quote(name string) string {
	const most = 96
	if len(name) <= most {
		return fmt.Sprintf("%q", name)
	}
	return fmt.Sprintf("%q...%q (%d bytes)", name[:most/2], name[len(name)-most/2:], len(name))
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

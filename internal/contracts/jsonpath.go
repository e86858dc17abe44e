package contracts

import "strings"

// JSONPath leads to a value in a JSON document, one element for each object's field or list's index.
type JSONPath []string

// maxPathElements bounds a path; nobody's answer is nested that deep.
const maxPathElements = 64

// ParseJSONPath reads a path: a JSON pointer (RFC 6901) if it begins with a slash, else names with dots between, of which
// empty ones count for nothing (E36). why says what is wrong with it; "" is nothing.
func ParseJSONPath(text string) (p JSONPath, why string) {
	if rest, ok := strings.CutPrefix(text, "/"); ok {
		for part := range strings.SplitSeq(rest, "/") {
			for i := range len(part) {
				if part[i] == '~' && (i+1 == len(part) || part[i+1] != '0' && part[i+1] != '1') {
					return nil, quote(text) + " has a ~ that is not ~0 or ~1"
				}
			}
			p = append(p, strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~"))
		}
	} else {
		for part := range strings.SplitSeq(text, ".") {
			if part != "" {
				p = append(p, part)
			}
		}
	}
	switch {
	case len(p) == 0:
		return nil, quote(text) + " names nothing: as data.items.0.id or /data/items/0/id"
	case len(p) > maxPathElements:
		return nil, "has too many elements"
	}
	return p, ""
}

// String returns the path with dots.
func (p JSONPath) String() string { return strings.Join(p, ".") }

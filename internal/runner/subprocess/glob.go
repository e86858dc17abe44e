package subprocess

import (
	"strings"
	"unicode/utf8"
)

// Glob reports whether the whole name matches the pattern, by the rules of fnmatch (T24): * is any text, ? one
// character, [abc], [a-z] and [!abc] one character of a set. A [ that is never closed is itself.
func Glob(pattern, name string) bool {
	// Where to go on after a mismatch: the last * takes one character more. Earlier ones
	// need not be tried again, so this is at most pattern × name steps.
	star, retry := "", ""
	haveStar := false
	for {
		if rest, ok := strings.CutPrefix(pattern, "*"); ok {
			pattern, star, retry, haveStar = rest, rest, name, true
			continue
		}
		if name == "" && pattern == "" {
			return true
		}
		if patternRest, nameRest, ok := globOne(pattern, name); ok {
			pattern, name = patternRest, nameRest
			continue
		}
		if !haveStar || retry == "" {
			return false
		}
		_, size := utf8.DecodeRuneInString(retry)
		retry = retry[size:]
		pattern, name = star, retry
	}
}

// globOne matches the first element of pattern, not a *, with the first character of name.
func globOne(pattern, name string) (patternRest, nameRest string, ok bool) {
	if pattern == "" || name == "" {
		return "", "", false
	}
	char, size := utf8.DecodeRuneInString(name)
	nameRest = name[size:]
	if pattern[0] == '?' {
		return pattern[1:], nameRest, true
	}
	if pattern[0] == '[' {
		if set, rest, closed := cutSet(pattern[1:]); closed {
			return rest, nameRest, inSet(set, char)
		}
	}
	want, wantSize := utf8.DecodeRuneInString(pattern)
	// Bytes that are not UTF-8 decode to the same character: they are compared as bytes.
	return pattern[wantSize:], nameRest, want == char && pattern[:wantSize] == name[:size]
}

// cutSet cuts what stands before the closing bracket. One that comes first, or after the !, is of the set.
func cutSet(s string) (set, rest string, closed bool) {
	from := 0
	if strings.HasPrefix(s, "!") {
		from = 1
	}
	if len(s) > from {
		from++
	}
	end := strings.IndexByte(s[from:], ']')
	if end < 0 {
		return "", "", false
	}
	return s[:from+end], s[from+end+1:], true
}

func inSet(set string, char rune) bool {
	set, not := strings.CutPrefix(set, "!")
	in := false
	for set != "" {
		low, size := utf8.DecodeRuneInString(set)
		set = set[size:]
		high := low
		if len(set) > 1 && set[0] == '-' {
			var size int
			high, size = utf8.DecodeRuneInString(set[1:])
			set = set[1+size:]
		}
		if low <= char && char <= high {
			in = true
		}
	}
	return in != not
}

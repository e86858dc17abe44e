package subprocess_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func TestGlob(t *testing.T) { // T24: fnmatch
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "abc", true},
		{"lc_*", "lc_all", true}, {"lc_*", "lc_", true}, {"lc_*", "xlc_all", false}, {"*_proxy", "http_proxy", true},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "axxcyyb", false}, {"a*bc", "abbc", true}, {"**a", "a", true},
		{"?", "a", true}, {"?", "", false}, {"?", "ü", true}, {"??", "ü", false}, {"a?c", "a/c", true},
		{"[abc]", "b", true}, {"[abc]", "d", false}, {"[a-c]", "b", true}, {"[a-c]", "d", false}, {"[!a-c]", "d", true},
		{"[!a]", "a", false}, {"[]]", "]", true}, {"[!]]", "]", false}, {"[!]]", "x", true}, {"[a-]", "-", true},
		{"[", "[", true}, {"[a", "[a", true}, {"[a", "a", false}, {"[!", "[!", true}, {"x[", "x[", true}, {"[]", "[]", true},
		{"a.b", "axb", false}, {`\*`, `\*`, true}, {`\*`, "*", false}, {"[ü-ÿ]", "ý", true},
	}
	for _, test := range tests {
		if got := subprocess.Glob(test.pattern, test.name); got != test.want {
			t.Errorf("Glob(%q, %q) = %v, want %v", test.pattern, test.name, got, test.want)
		}
	}
	// Linear in each star, where backtracking would take years.
	if subprocess.Glob(strings.Repeat("*a", 40)+"b", strings.Repeat("a", 10_000)) {
		t.Error("Glob() matches what does not end in b")
	}
}

// FuzzGlob compares with a regular expression that says the same.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"a*[b-d]?", "axcy"}, {"[!]a]*", "b"}, {"[", "["}, {"[z-a]", "b"}, {"*[", "x["}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := subprocess.Glob(pattern, name)
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return // no regular expression for these; they must only not panic
		}
		re, err := regexp.Compile(`(?s)\A(?:` + globToRegexp(pattern) + `)\z`)
		if err != nil {
			t.Skip(err)
		}
		if want := re.MatchString(name); got != want {
			t.Errorf("Glob(%q, %q) = %v, and %s says %v", pattern, name, got, re, want)
		}
	})
}

func globToRegexp(pattern string) string {
	var re strings.Builder
	runes := []rune(pattern)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; c {
		case '*':
			re.WriteString(".*")
		case '?':
			re.WriteString(".")
		case '[':
			end := i + 1
			if end < len(runes) && runes[end] == '!' {
				end++
			}
			if end < len(runes) {
				end++ // a bracket in the first place is of the set
			}
			for end < len(runes) && runes[end] != ']' {
				end++
			}
			if end >= len(runes) {
				re.WriteString(`\[`)
				continue
			}
			re.WriteString(setToRegexp(runes[i+1 : end]))
			i = end
		default:
			re.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return re.String()
}

func setToRegexp(set []rune) string {
	open, none := "[", `[^\x{0}-\x{10FFFF}]`
	if len(set) > 0 && set[0] == '!' {
		open, none, set = "[^", "(?s:.)", set[1:]
	}
	var parts []string
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			if set[i] <= set[i+2] {
				parts = append(parts, quote(set[i])+"-"+quote(set[i+2]))
			}
			i += 2
			continue
		}
		parts = append(parts, quote(set[i]))
	}
	if len(parts) == 0 {
		return none // only ranges that are upside down
	}
	return open + strings.Join(parts, "") + "]"
}

func quote(c rune) string {
	if c == '-' {
		return `\-`
	}
	return regexp.QuoteMeta(string(c))
}

package contracts

import (
	"slices"
	"strings"
)

// A reference to a secret is a whole value, secret:NAME, or a part of one, {{secret:NAME}}.
const (
	secretPrefix = "secret:"
	secretOpen   = "{{" + secretPrefix
	secretClose  = "}}"
)

// ValidSecret reports whether s may name a secret: [A-Za-z0-9][A-Za-z0-9_.-]{0,127}, which is one path element
// and, behind a prefix, most of it the name of a variable.
func ValidSecret(s string) bool {
	return ValidID(strings.ReplaceAll(s, ".", "_")) && s[0] != '.'
}

func isSecretReference(value string) bool {
	return strings.HasPrefix(value, secretPrefix) || strings.Contains(value, secretOpen)
}

// SecretNames returns the secrets that a value of a setting refers to, each once. why says what is wrong with
// a reference; "" is nothing.
func SecretNames(value string) (names []string, why string) {
	_, why = ExpandSecrets(value, func(name string) string {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return ""
	})
	return names, why
}

// ExpandSecrets returns value with what reveal returns for each reference in it. why says what is wrong with a reference.
func ExpandSecrets(value string, reveal func(name string) string) (expanded, why string) {
	if name, ok := strings.CutPrefix(value, secretPrefix); ok {
		if !ValidSecret(name) {
			// Not quoted: it may be the secret itself.
			return "", "begins with secret: and goes on with what cannot be the name of a secret"
		}
		return reveal(name), ""
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(value, secretOpen)
		b.WriteString(before)
		if !ok {
			return b.String(), ""
		}
		name, after, closed := strings.Cut(rest, secretClose)
		if !closed || !ValidSecret(name) {
			return "", "has a " + secretOpen + " that does not go on as a name and " + secretClose
		}
		b.WriteString(reveal(name))
		value = after
	}
}

package contracts

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// FieldError says what is wrong with one field.
type FieldError struct {
	// Field is its path: "command[2]", "stop.grace_seconds", `environment["A=B"]`; "" is the document itself.
	Field string
	// Problem continues the sentence that Field begins: "must not be empty".
	Problem string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// in, key and at put the name of a field, the key of a map or the index in a list before the path.
func (e *FieldError) in(name string) *FieldError {
	if e.Field != "" && e.Field[0] != '[' {
		name += "."
	}
	e.Field = name + e.Field
	return e
}

func (e *FieldError) key(name string) *FieldError { return e.in(key("", name)) }

func (e *FieldError) at(i int) *FieldError { return e.in(fmt.Sprintf("[%d]", i)) }

// ValidationError lists every rule that a document breaks, in the order of its fields.
type ValidationError struct{ Fields []FieldError }

func (e *ValidationError) Error() string {
	texts := make([]string, len(e.Fields))
	for i := range e.Fields {
		texts[i] = e.Fields[i].Error()
	}
	return strings.Join(texts, "; ")
}

// maxProblems bounds a ValidationError: a message of half a megabyte can break a rule 100,000 times.
const maxProblems = 50

// problems collects broken rules.
type problems struct {
	list []FieldError
	more int
}

func (p *problems) add(field, format string, args ...any) {
	if len(p.list) == maxProblems {
		p.more++
		return
	}
	p.list = append(p.list, FieldError{field, fmt.Sprintf(format, args...)})
}

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	if p.more > 0 {
		p.list = append(p.list, FieldError{Problem: fmt.Sprintf("and %d more", p.more)})
	}
	return &ValidationError{p.list}
}

// quote shows s in an error, shortened if it is long: a name of 10 KB has no place in a log line.
func quote(s string) string {
	const most = 48
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes)", cutString(s, most), len(s))
}

// cutString returns the longest beginning of s of at most n bytes that does not end within a character.
func cutString(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// key is the path of a map's entry.
func key(field, name string) string { return field + "[" + quote(name) + "]" }

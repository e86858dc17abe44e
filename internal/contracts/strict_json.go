package contracts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decodeJSON decodes data along p; more reads what is spelled in ways of its own.
func decodeJSON(data []byte, p *plan, doc any, lenient bool, more ...*json.Unmarshalers) error {
	w := jsonWalker{Decoder: jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true)), lenient: lenient}
	if err := w.document(p); err != nil {
		return err
	}
	readers := jsonTimes
	if len(more) > 0 {
		readers = json.WithUnmarshalers(json.JoinUnmarshalers(append(more, timeReader)...))
	}
	err := json.Unmarshal(data, doc, readers)
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return semanticError(semantic, p)
	}
	return err
}

// jsonTimes reads times that are in the years 0 to 9999 in UTC too, so that EncodeJSON can write them again.
var timeReader = json.UnmarshalFromFunc(func(d *jsontext.Decoder, t *time.Time) error {
	if d.PeekKind() != '"' {
		return errors.ErrUnsupported
	}
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	if err := t.UnmarshalText([]byte(token.String())); err != nil {
		return err
	}
	if s := t.Unix(); s < firstSecond || s >= endSecond {
		return errors.New("out of range")
	}
	return nil
})

var jsonTimes = json.WithUnmarshalers(timeReader)

// A jsonWalker is the walker of JSON: the same rules, with the same words. What it does not look into, the size
// of numbers and the spelling of times and base64, json.Unmarshal does.
type jsonWalker struct {
	*jsontext.Decoder
	lenient bool
}

func (w jsonWalker) document(p *plan) *FieldError {
	if kind := w.PeekKind(); kind != '{' {
		return w.mismatch(kind, p)
	}
	if _, err := w.object(p); err != nil {
		return err
	}
	if _, err := w.ReadToken(); err != io.EOF {
		return &FieldError{Problem: "something follows the end of the document"}
	}
	return nil
}

func (w jsonWalker) value(p *plan, mayBeNil bool) *FieldError {
	kind := w.PeekKind()
	switch {
	case kind == 'n' && mayBeNil:
		return w.skip()
	case kind == 'n':
	case p.shape == shapeText && p.only != "":
		if kind == '"' {
			return w.only(p.only)
		}
	case p.shape == shapeText, p.shape == shapeBinary, p.shape == shapeTime:
		if kind == '"' {
			return w.skip()
		}
	case p.shape == shapeInteger, p.shape == shapeNumber:
		if kind == '0' {
			return w.skip()
		}
	case p.shape == shapeBool:
		if kind == 't' || kind == 'f' {
			return w.skip()
		}
	case p.shape == shapeList:
		if kind == '[' {
			return w.list(p.elem)
		}
	case p.shape == shapeDict:
		if kind == '{' {
			return w.dict(p.elem)
		}
	case p.shape == shapeObject:
		if kind == '{' {
			seen, err := w.object(p)
			if err == nil {
				err = p.missing(seen)
			}
			return err
		}
	}
	return w.mismatch(kind, p)
}

func (w jsonWalker) mismatch(kind jsontext.Kind, p *plan) *FieldError {
	is := map[jsontext.Kind]string{
		'n': "null", 't': "true", 'f': "false", '"': "text", '0': "a number", '[': "a list", '{': "a map",
	}[kind]
	// The first byte tells the kind of a value, not that it is one: "nonsense" is no null.
	if _, err := w.take(); err != nil {
		return err
	}
	wants := p.shape.String()
	if p.shape == shapeBinary {
		wants = "text in base64"
	}
	return &FieldError{Problem: fmt.Sprintf("is %s, wants %s", is, wants)}
}

// skip takes any one value.
func (w jsonWalker) skip() *FieldError {
	value, err := w.ReadValue()
	if err != nil {
		return syntaxError(err)
	}
	if k := value.Kind(); k != '{' && k != '[' {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(value), jsontext.AllowDuplicateNames(true))
	for {
		if _, err := d.ReadToken(); err != nil {
			return nil
		}
		if d.StackDepth() > maxDepth {
			return &FieldError{Problem: fmt.Sprintf("is nested deeper than %d", maxDepth)}
		}
	}
}

// only takes the text that is the only one.
func (w jsonWalker) only(want string) *FieldError {
	token, err := w.take()
	if err == nil && token.String() != want {
		err = &FieldError{Problem: fmt.Sprintf("%s is not %q", quote(token.String()), want)}
	}
	return err
}

// take takes one token.
func (w jsonWalker) take() (jsontext.Token, *FieldError) {
	token, err := w.ReadToken()
	if err != nil {
		return token, syntaxError(err)
	}
	return token, nil
}

func (w jsonWalker) list(elem *plan) *FieldError {
	if _, err := w.take(); err != nil {
		return err
	}
	for i := 0; w.PeekKind() != ']'; i++ {
		if err := w.value(elem, false); err != nil {
			return err.at(i)
		}
	}
	_, err := w.take()
	return err
}

func (w jsonWalker) dict(elem *plan) *FieldError {
	if _, err := w.take(); err != nil {
		return err
	}
	seen := map[string]struct{}{}
	for w.PeekKind() != '}' {
		token, err := w.take()
		if err != nil {
			return err
		}
		name := token.String()
		if _, twice := seen[name]; twice {
			return (&FieldError{Problem: "is there twice"}).key(name)
		}
		seen[name] = struct{}{}
		if err := w.value(elem, false); err != nil {
			return err.key(name)
		}
	}
	_, err := w.take()
	return err
}

func (w jsonWalker) object(p *plan) (seen uint64, err *FieldError) {
	if _, err := w.take(); err != nil {
		return 0, err
	}
	for w.PeekKind() != '}' {
		token, err := w.take()
		if err != nil {
			return 0, err
		}
		name := token.String()
		i, known := p.byName[name]
		if !known {
			if !w.lenient {
				return 0, p.unknown(name)
			}
			if err := w.skip(); err != nil {
				return 0, err.in(quote(name))
			}
			continue
		}
		f := &p.fields[i]
		if seen&(1<<i) != 0 {
			return 0, &FieldError{Problem: fmt.Sprintf("duplicate field %q", name)}
		}
		seen |= 1 << i
		if err := w.value(f.plan, f.null); err != nil {
			return 0, err.in(name)
		}
	}
	_, err = w.take()
	return seen, err
}

func syntaxError(err error) *FieldError {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		return &FieldError{Problem: fmt.Sprintf("is not JSON: %v at byte %d", syntax.Err, syntax.ByteOffset)}
	case err == io.EOF:
		return &FieldError{Problem: "is not JSON: nothing there"}
	}
	return &FieldError{Problem: "is not JSON: " + err.Error()}
}

// semanticError says e in terms of fields: its pointer is "/command/2", ours "command[2]".
func semanticError(e *json.SemanticError, p *plan) *FieldError {
	problem := "wants " + p.shape.String()
	var path []func(*FieldError) *FieldError
	for token := range e.JSONPointer.Tokens() {
		i, isField := p.byName[token]
		switch {
		case p.shape == shapeObject && isField:
			path = append(path, func(e *FieldError) *FieldError { return e.in(token) })
			p = p.fields[i].plan
		case p.shape == shapeList:
			n, _ := strconv.Atoi(token)
			path = append(path, func(e *FieldError) *FieldError { return e.at(n) })
			p = p.elem
		case p.shape == shapeDict:
			path = append(path, func(e *FieldError) *FieldError { return e.key(token) })
			p = p.elem
		}
	}
	switch {
	case errors.Is(e.Err, errNotWhole):
		problem = e.Err.Error()
	case p.shape == shapeInteger:
		problem = checkInteger(code{over: true}, p).Problem
	case p.shape == shapeBinary:
		problem = "is not base64"
	case p.shape == shapeTime:
		problem = "is not a time of RFC 3339 in the years 0 to 9999"
	case p.shape == shapeNumber:
		problem = "is not a number that can be kept"
	case e.Err != nil:
		problem = e.Err.Error()
	}
	if len(e.JSONValue) > 0 {
		problem = shorten(string(e.JSONValue)) + " " + problem
	}
	found := &FieldError{Problem: problem}
	for i := len(path) - 1; i >= 0; i-- {
		found = path[i](found)
	}
	return found
}

// shorten cuts raw JSON for an error.
func shorten(s string) string {
	if s = strings.ToValidUTF8(s, "\uFFFD"); len(s) > 48 {
		return cutString(s, 48) + "..."
	}
	return s
}

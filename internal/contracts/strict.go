package contracts

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values that are skipped because a newer minor version may have them.
const maxDepth = 32

// checkMsgpack reads data along p without decoding it, and returns what is wrong with its form. What passes is
// exactly one value of p's form: the decoder that follows meets no surprise, and allocates no more than a
// small multiple of len(data). With lenient, unknown fields pass.
func checkMsgpack(data []byte, p *plan, lenient bool) error {
	w := walker{data: data, lenient: lenient}
	if err := w.document(p); err != nil {
		return err
	}
	if left := len(w.data) - w.pos; left > 0 {
		return &FieldError{Problem: fmt.Sprintf("%d bytes follow the end of the document", left)}
	}
	return nil
}

// document takes the outermost value. Fields that lack there are left to Validate, which names all that is wrong
// at once, and to clients that fill in an id. Within it they are part of the form: an element of
// a list that could be one byte would cost the decoder a hundred times as much.
func (w *walker) document(p *plan) *FieldError {
	if p.shape != shapeObject {
		return w.value(p, p.nilable())
	}
	c, err := w.head()
	if err != nil {
		return err
	}
	if c.family != isMap {
		return mismatch(c, p)
	}
	_, err = w.object(c.n, p)
	return err
}

// value takes a value of p's form; nil too if it may be nil.
func (w *walker) value(p *plan, mayBeNil bool) *FieldError {
	if w.pos < len(w.data) && p.shape == shapeText {
		// Most values are short texts.
		if c := w.data[w.pos]; c&0xe0 == 0xa0 && int(c&0x1f) < len(w.data)-w.pos {
			w.pos++
			return w.text(int(c & 0x1f))
		}
	}
	c, err := w.head()
	if err != nil {
		return err
	}
	if c.family == isNil {
		if mayBeNil {
			return nil
		}
		return mismatch(c, p)
	}
	switch p.shape {
	case shapeText:
		if c.family == isText {
			return w.text(c.n)
		}
	case shapeBinary:
		if c.family == isBinary {
			w.pos += c.n
			return nil
		}
	case shapeBool:
		if c.family == isBool {
			return nil
		}
	case shapeInteger:
		if c.family == isInteger {
			return checkInteger(c, p)
		}
	case shapeNumber:
		return checkNumber(c, p)
	case shapeTime:
		if c.family == isExtension && c.ext == -1 {
			return w.time(c.n)
		}
	case shapeList:
		if c.family == isList {
			return w.list(c.n, p.elem)
		}
	case shapeDict:
		if c.family == isMap {
			return w.dict(c.n, p.elem)
		}
	case shapeObject:
		if c.family == isMap {
			seen, err := w.object(c.n, p)
			if err == nil {
				err = p.missing(seen)
			}
			return err
		}
	}
	return mismatch(c, p)
}

func mismatch(c code, p *plan) *FieldError {
	return &FieldError{Problem: fmt.Sprintf("is %s, wants %s", c.family, p.shape)}
}

func checkInteger(c code, p *plan) *FieldError {
	low, high := int64(0), int64(math.MaxInt64)
	if p.signed {
		low = -1 << (p.bits - 1)
		high = 1<<(p.bits-1) - 1
	} else if p.bits < 64 {
		high = 1<<p.bits - 1
	}
	if c.over || c.int < low || c.int > high {
		return &FieldError{Problem: fmt.Sprintf("is not within %d to %d", low, high)}
	}
	return nil
}

func checkNumber(c code, p *plan) *FieldError {
	switch {
	case c.family == isInteger && !c.over:
		return nil
	case c.family == isInteger:
		return &FieldError{Problem: "is too large"}
	case c.family != isFloat:
		return mismatch(c, p)
	case math.IsNaN(c.float) || math.IsInf(c.float, 0):
		return &FieldError{Problem: fmt.Sprintf("%v is not a number", c.float)}
	}
	return nil
}

// text takes n bytes of UTF-8, which msgpack asks for and JSON cannot do without.
func (w *walker) text(n int) *FieldError {
	b := w.data[w.pos : w.pos+n]
	if !utf8.Valid(b) {
		return &FieldError{Problem: quote(string(b)) + " is not UTF-8"}
	}
	w.pos += n
	return nil
}

// Seconds since 1970 of the years 0 and 10000: what RFC 3339, and so JSON, can say.
const (
	firstSecond = -62167219200
	endSecond   = 253402300800
)

// time takes the n bytes of a timestamp extension.
func (w *walker) time(n int) *FieldError {
	seconds, nanos, ok := w.moment(n)
	switch {
	case !ok:
		return &FieldError{Problem: fmt.Sprintf("is a timestamp of %d bytes, wants 4, 8 or 12", n)}
	case nanos >= 1e9:
		return &FieldError{Problem: "is a time with more than a second of nanoseconds"}
	case seconds < firstSecond || seconds >= endSecond:
		return &FieldError{Problem: "is a time outside of the years 0 to 9999"}
	}
	return nil
}

// moment takes the n bytes of a timestamp extension, and returns what they say.
func (w *walker) moment(n int) (seconds int64, nanos uint32, ok bool) {
	b := w.data[w.pos : w.pos+n]
	w.pos += n
	switch n {
	case 4:
		seconds = int64(binary.BigEndian.Uint32(b))
	case 8:
		both := binary.BigEndian.Uint64(b)
		nanos, seconds = uint32(both>>34), int64(both&(1<<34-1))
	case 12:
		nanos, seconds = binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint64(b[4:]))
	default:
		return 0, 0, false
	}
	return seconds, nanos, true
}

func (w *walker) list(n int, elem *plan) *FieldError {
	for i := range n {
		if err := w.value(elem, false); err != nil {
			return err.at(i)
		}
	}
	return nil
}

// dict takes n pairs of text and a value. Canonical maps are sorted, so that comparing
// neighbours finds a duplicate; only others pay for a set.
func (w *walker) dict(n int, elem *plan) *FieldError {
	var last []byte
	var seen map[string]struct{}
	start := w.pos
	for i := range n {
		name, err := w.name()
		if err != nil {
			return err
		}
		if seen == nil && i > 0 && string(name) <= string(last) {
			seen = w.names(start, i)
		}
		if seen != nil {
			if _, twice := seen[string(name)]; twice {
				return (&FieldError{Problem: "is there twice"}).key(string(name))
			}
			seen[string(name)] = struct{}{}
		}
		last = name
		if err := w.value(elem, false); err != nil {
			return err.key(string(name))
		}
	}
	return nil
}

// names returns the keys of the first n pairs from start on, which have been walked already.
func (w *walker) names(start, n int) map[string]struct{} {
	again := walker{data: w.data, pos: start}
	seen := make(map[string]struct{}, n+1)
	for range n {
		name, _ := again.name()
		seen[string(name)] = struct{}{}
		again.skip(0)
	}
	return seen
}

// name takes the key of a pair.
func (w *walker) name() ([]byte, *FieldError) {
	c, err := w.head()
	if err != nil {
		return nil, err
	}
	if c.family != isText {
		return nil, &FieldError{Problem: fmt.Sprintf("has a key that is %s, wants text", c.family)}
	}
	start := w.pos
	err = w.text(c.n)
	return w.data[start:w.pos], err
}

// object takes n fields, and returns a bit for each that it saw.
func (w *walker) object(n int, p *plan) (seen uint64, err *FieldError) {
	next := 0
	for range n {
		i := w.expected(p, next)
		if i < 0 {
			name, err := w.name()
			if err != nil {
				return 0, err
			}
			known := false
			if i, known = p.byName[string(name)]; !known {
				if !w.lenient {
					return 0, p.unknown(string(name))
				}
				if err := w.skip(0); err != nil {
					return 0, err.in(quote(string(name)))
				}
				continue
			}
		}
		f := &p.fields[i]
		if seen&(1<<i) != 0 {
			return 0, &FieldError{Problem: fmt.Sprintf("duplicate field %q", f.name)}
		}
		seen |= 1 << i
		next = i + 1
		if err := w.value(f.plan, f.null); err != nil {
			return 0, err.in(f.name)
		}
	}
	return seen, nil
}

// expected takes the name of a field from next on, or takes nothing and returns -1. Fields mostly come in
// their order and in the shortest form, and comparing is faster than reading.
func (w *walker) expected(p *plan, next int) int {
	left := w.data[w.pos:]
	for i := next; i < len(p.fields); i++ {
		key := p.fields[i].key
		if len(left) >= len(key) && left[0] == key[0] && string(left[:len(key)]) == key {
			w.pos += len(key)
			return i
		}
	}
	return -1
}

// skip takes any one value.
func (w *walker) skip(depth int) *FieldError {
	if depth > maxDepth {
		return &FieldError{Problem: fmt.Sprintf("is nested deeper than %d", maxDepth)}
	}
	c, err := w.head()
	if err != nil {
		return err
	}
	return w.rest(c, depth)
}

// rest takes what follows the head of a value.
func (w *walker) rest(c code, depth int) *FieldError {
	switch c.family {
	case isText, isBinary, isExtension:
		w.pos += c.n
	case isList, isMap:
		if c.family == isMap {
			c.n *= 2
		}
		for range c.n {
			if err := w.skip(depth + 1); err != nil {
				return err
			}
		}
	}
	return nil
}

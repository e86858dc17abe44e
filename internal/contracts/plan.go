package contracts

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
)

// A plan is the form that a value of one Go type has on the wire. The strict readers of both
// encodings walk a message along it before anything is decoded.
type plan struct {
	shape  shape
	bits   int    // integer: its size
	signed bool   // integer
	elem   *plan  // list and dict: of each value
	only   string // text: the one value that it may have; "" is any

	fields   []planField // object, in the order in which Encode writes them
	byName   map[string]int
	required uint64 // object: a bit for each field that must be there
}

type planField struct {
	name     string
	key      string // name as Encode writes it
	plan     *plan
	optional bool // omitempty: may be left out
	null     bool // nil stands for one that is left out
}

type shape uint8

const (
	shapeText shape = iota
	shapeBinary
	shapeBool
	shapeInteger
	shapeNumber
	shapeTime
	shapeList
	shapeDict
	shapeObject
)

// String completes "wants ...".
func (s shape) String() string {
	return [...]string{"text", "binary", "true or false", "an integer", "a number", "a time", "a list", "a map", "a map of fields"}[s]
}

// nilable reports whether Encode writes nil for an empty value of this shape, even where it is required.
func (p *plan) nilable() bool {
	return p.shape == shapeList || p.shape == shapeDict || p.shape == shapeBinary
}

var timeType = reflect.TypeFor[time.Time]()

var plans sync.Map // reflect.Type to *plan

func planOf(t reflect.Type) (*plan, error) {
	if p, ok := plans.Load(t); ok {
		return p.(*plan), nil
	}
	p, err := makePlan(t)
	if err != nil {
		return nil, err
	}
	plans.Store(t, p)
	return p, nil
}

func makePlan(t reflect.Type) (*plan, error) {
	if t == nil {
		return nil, fmt.Errorf("nil is not a document")
	}
	switch k := t.Kind(); k {
	case reflect.Pointer:
		return makePlan(t.Elem())
	case reflect.String:
		return &plan{shape: shapeText}, nil
	case reflect.Bool:
		return &plan{shape: shapeBool}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &plan{shape: shapeInteger, bits: t.Bits(), signed: true}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &plan{shape: shapeInteger, bits: t.Bits()}, nil
	case reflect.Float32, reflect.Float64:
		return &plan{shape: shapeNumber}, nil
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &plan{shape: shapeBinary}, nil
		}
		elem, err := makePlan(t.Elem())
		return &plan{shape: shapeList, elem: elem}, err
	case reflect.Map:
		// The msgpack encoder sorts the keys of this type only.
		if t.Key() != reflect.TypeFor[string]() || t.Elem() != reflect.TypeFor[string]() {
			return nil, fmt.Errorf("%s has no form on the wire", t)
		}
		elem, err := makePlan(t.Elem())
		return &plan{shape: shapeDict, elem: elem}, err
	case reflect.Struct:
		if t == timeType {
			return &plan{shape: shapeTime}, nil
		}
		return makeObjectPlan(t)
	}
	return nil, fmt.Errorf("%s has no form on the wire", t)
}

func makeObjectPlan(t reflect.Type) (*plan, error) {
	p := &plan{shape: shapeObject, byName: map[string]int{}}
	if t.NumField() > 64 {
		return nil, fmt.Errorf("%s has more than 64 fields", t)
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || name == "" || name == "-" {
			return nil, fmt.Errorf("%s.%s has no name on the wire", t, f.Name)
		}
		elem, err := planOf(f.Type)
		if err != nil {
			return nil, err
		}
		optional := strings.Contains(options, "omitempty")
		// Not for a time: the msgpack decoder panics there.
		null := optional && elem.shape != shapeTime || elem.nilable()
		if rules, ok := f.Tag.Lookup(rxpTag); ok {
			elem, optional, null = rxpField(elem, rules)
		}
		if !optional {
			p.required |= 1 << i
		}
		p.byName[name] = i
		if len(name) > 31 {
			return nil, fmt.Errorf("%s.%s: its name on the wire is longer than 31 bytes", t, f.Name)
		}
		key := string([]byte{0xa0 | byte(len(name))}) + name
		p.fields = append(p.fields, planField{name, key, elem, optional, null})
	}
	return p, nil
}

// missing returns the first required field that seen lacks, or nil.
func (p *plan) missing(seen uint64) *FieldError {
	for i, f := range p.fields {
		if lacks := p.required &^ seen; lacks&(1<<i) != 0 {
			return &FieldError{f.name, "is missing"}
		}
	}
	return nil
}

// unknown is the error for a field that the plan does not have.
func (p *plan) unknown(name string) *FieldError {
	e := &FieldError{Problem: "unknown field " + quote(name)}
	folded := plain(name)
	best, distance := "", len(folded)/3+1 // a third of the characters may be wrong
	for _, f := range p.fields {
		if d := difference(folded, plain(f.name)); d < distance {
			best, distance = f.name, d
		}
	}
	if best != "" {
		e.Problem += fmt.Sprintf(": did you mean %q?", best)
	}
	return e
}

// plain folds what people vary in a name.
func plain(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "").Replace(cutString(name, MaxTokenBytes)))
}

// difference counts the characters to insert, delete or change from a to b.
func difference(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// normalize brings v, decoded along p, into one form, whichever encoding it came in: times in
// UTC, optional lists and maps that are empty nil, required ones not nil.
func (p *plan) normalize(v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		if !v.IsNil() {
			p.normalize(v.Elem())
		}
		return
	}
	switch p.shape {
	case shapeTime:
		t := v.Addr().Interface().(*time.Time)
		*t = t.UTC()
	case shapeList:
		if s := p.elem.shape; s == shapeObject || s == shapeTime {
			for i := range v.Len() {
				p.elem.normalize(v.Index(i))
			}
		}
	case shapeObject:
		for i := range p.fields {
			f, part := &p.fields[i], v.Field(i)
			switch {
			case !f.plan.nilable() || part.Len() > 0:
				if s := f.plan.shape; s >= shapeTime && s != shapeDict {
					f.plan.normalize(part)
				}
			case f.optional:
				part.SetZero()
			case part.Kind() == reflect.Map:
				part.Set(reflect.MakeMap(part.Type()))
			default:
				part.Set(reflect.MakeSlice(part.Type(), 0, 0))
			}
		}
	}
}

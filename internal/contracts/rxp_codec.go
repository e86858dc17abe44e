package contracts

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// rxpTag is the struct tag that says of a field of RxP's what `json` does not: "required" or "optional", "null"
// where null is as good as leaving it out, "only=" and the one text that it may have.
const rxpTag = "rxp"

func rxpField(elem *plan, rules string) (_ *plan, optional, null bool) {
	for rule := range strings.SplitSeq(rules, ",") {
		name, value, _ := strings.Cut(rule, "=")
		switch name {
		case "optional":
			optional = true
		case "null":
			null = true
		case "only":
			elem = &plan{shape: shapeText, only: value}
		}
	}
	return elem, optional, null
}

// DecodeRxP reads and checks a document of RxP, which is JSON. It is as strict as Decode, and calls Validate.
// A document of another kind or version is a *FieldError that names it (E7).
func DecodeRxP[T RxPDocument](data []byte) (T, error) {
	var none T
	want := contractOf(reflect.TypeFor[T]())
	kind, err := contractKind(data)
	if err == nil && kind != "" && kind != want {
		err = &FieldError{"contract_kind", fmt.Sprintf("%q is not %q", kind, want)}
	}
	if err != nil {
		return none, fmt.Errorf("decode %s: %w", want, err)
	}
	doc, err := decodeRxP[T](data)
	if err != nil {
		return none, fmt.Errorf("decode %s: %w", want, err)
	}
	return doc, nil
}

// ValidateRxP checks a document of RxP whose contract_kind says what it is (E7).
func ValidateRxP(data []byte) error {
	kind, err := contractKind(data)
	if err == nil {
		switch kind {
		case ContractInvocation:
			_, err = decodeRxP[RxPInvocation](data)
		case ContractResult:
			_, err = decodeRxP[RxPResult](data)
		case ContractArtifact:
			_, err = decodeRxP[RxPArtifact](data)
		default:
			return &FieldError{"contract_kind", "is missing: is it " + contractKinds + "?"}
		}
	}
	if err != nil && kind != "" {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return err
}

// EncodeRxP returns doc with every field, in RxP's order and indented by two (E11). What DecodeRxP would refuse is an error.
func EncodeRxP[T RxPDocument](doc T) ([]byte, error) {
	doc = any(doc).(interface{ withDefaults() T }).withDefaults()
	if err := any(doc).(interface{ Validate() error }).Validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", contractOf(reflect.TypeFor[T]()), err)
	}
	data, err := json.Marshal(doc, jsonOptions, jsontext.WithIndent("  "))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", contractOf(reflect.TypeFor[T]()), err)
	}
	return append(data, '\n'), nil
}

const contractKinds = ContractInvocation + ", " + ContractResult + " or " + ContractArtifact

func contractOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[RxPInvocation]():
		return ContractInvocation
	case reflect.TypeFor[RxPResult]():
		return ContractResult
	}
	return ContractArtifact
}

// contractKind returns the kind that a document says it is, "" if it says nothing. Kind and version are looked at before
// all else: of a document of another kind there is no use in naming the fields that this one does not have.
func contractKind(data []byte) (string, error) {
	var head struct {
		Version jsontext.Value `json:"schema_version"` // empty where there is none
		Kind    jsontext.Value `json:"contract_kind"`
	}
	if json.Unmarshal(data, &head, jsontext.AllowDuplicateNames(true)) != nil {
		return "", notADocument(data)
	}
	if v := head.Version; len(v) > 0 {
		if text, ok := textOf(v); !ok || text != RxPVersion {
			return "", &FieldError{"schema_version", fmt.Sprintf("%s is not known: this program reads %q", shorten(v.String()), RxPVersion)}
		}
	}
	if len(head.Kind) == 0 {
		return "", nil
	}
	switch kind, _ := textOf(head.Kind); kind {
	case ContractInvocation, ContractResult, ContractArtifact:
		return kind, nil
	}
	return "", &FieldError{"contract_kind", fmt.Sprintf("%s is not known: it is %s", shorten(head.Kind.String()), contractKinds)}
}

// notADocument says why data is none.
func notADocument(data []byte) error {
	w := jsonWalker{Decoder: jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true))}
	if kind := w.PeekKind(); kind != '{' {
		return w.mismatch(kind, &plan{shape: shapeObject})
	}
	if err := w.skip(); err != nil {
		return err
	}
	return &FieldError{Problem: "something follows the end of the document"}
}

func textOf(v jsontext.Value) (text string, ok bool) {
	return text, v.Kind() == '"' && json.Unmarshal(v, &text) == nil
}

func decodeRxP[T RxPDocument](data []byte) (T, error) {
	var doc T
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		return doc, err
	}
	if err := decodeJSON(data, p, &doc, false, wholeNumbers); err != nil {
		return doc, err
	}
	p.normalize(reflect.ValueOf(&doc).Elem())
	doc = any(doc).(interface{ withDefaults() T }).withDefaults()
	return doc, any(doc).(interface{ Validate() error }).Validate()
}

// wholeNumbers reads integers as JSON Schema understands them: 300, 300.0 and 3e2 are one number.
var wholeNumbers = json.UnmarshalFromFunc(func(d *jsontext.Decoder, n *int64) error {
	if d.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	var f float64
	if err := json.Unmarshal(value, &f); err != nil {
		return err
	}
	if f != math.Trunc(f) || math.Abs(f) > maxWhole {
		return fmt.Errorf("%s %w", shorten(value.String()), errNotWhole)
	}
	*n = int64(f)
	return nil
})

var errNotWhole = errors.New("is not a whole number below 2^53")

// maxWhole is the largest number up to which every reader of JSON tells the whole numbers apart.
const maxWhole = 1<<53 - 1

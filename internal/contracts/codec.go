package contracts

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/vmihailenco/msgpack/v5"
)

// Version is the version of the wire that this program speaks, "major.minor".
const Version = "1.0"

const (
	versionMajor = 1
	versionMinor = 0
)

// Headers of every message.
const (
	HeaderVersion     = "Runnel-Version" // Version
	HeaderDigest      = "Runnel-Digest"  // Invocation.Digest
	HeaderNew         = "Runnel-New"     // "1": the id was made for this publish and was never sent before
	HeaderContentType = "Content-Type"   // ContentMsgpack or ContentJSON; absent: told from the first byte
)

// Content types that Decode reads.
const (
	ContentJSON    = "application/json"
	ContentMsgpack = "application/msgpack"
)

// ErrNewerMajor is what Decode wraps for a message of a newer major version. It says nothing
// against the message: hand it back, a newer program reads it.
var ErrNewerMajor = errors.New("newer major version of the wire")

// Document is any message or object that is stored, and can be decoded.
type Document interface {
	Invocation | Chunk | Start | End | Result | Dead | Presence | Manifest | CancelReply |
		ManualRequest | ManualReply | ManualControl | ManualAnswer | ManualReceipt |
		SandboxCall | SandboxReply
}

// Meta is what a message's headers say of its body. The zero value is a body of this
// version whose first byte tells its encoding.
type Meta struct {
	ContentType string // HeaderContentType; "" is told from the first byte
	Version     string // HeaderVersion; "" is Version
}

// Encode returns v in the canonical msgpack: maps with the names of the `json` tags in the
// order of the fields, other maps sorted by key, empty omitempty and zero omitzero fields
// left out, the shortest form of every integer, times as timestamp extensions.
// Equal documents are equal bytes. What Decode would refuse to read back is an error.
func Encode(v any) ([]byte, error) {
	data, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", documentName(reflect.TypeOf(v)), err)
	}
	return data, nil
}

func encode(v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	defer e.release()
	if err := e.write(v); err != nil {
		return nil, err
	}
	return bytes.Clone(e.buf.Bytes()), nil
}

// EncodeInto is Encode into buf, whose content is lost, as far as there is room; where there is not, into new memory.
func EncodeInto(buf []byte, v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	defer e.release()
	own := e.buf
	defer func() { e.buf = own }()
	e.buf = *bytes.NewBuffer(buf[:0])
	if err := e.write(v); err != nil {
		return nil, fmt.Errorf("encode %s: %w", documentName(reflect.TypeOf(v)), err)
	}
	return e.buf.Bytes(), nil
}

// EncodeJSON returns v as JSON: the same names and omissions as Encode, bytes in base64
// (RFC 4648 with padding), times in RFC 3339 with nanoseconds and in UTC.
func EncodeJSON(v any) ([]byte, error) {
	data, err := json.Marshal(v, jsonOptions)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", documentName(reflect.TypeOf(v)), err)
	}
	return data, nil
}

// SpeaksJSON reports whether who wrote a message with this body is to be answered in JSON: it is JSON itself.
func SpeaksJSON(data []byte, m Meta) bool {
	is, err := sniffJSON(data, m.ContentType)
	return err == nil && is
}

// EncodeFor encodes v as JSON or in the canonical msgpack.
func EncodeFor(v any, asJSON bool) ([]byte, error) {
	if asJSON {
		return EncodeJSON(v)
	}
	return Encode(v)
}

// Decode reads a document of at most MaxMessageBytes strictly. A field that the document does not
// have, has twice or spells otherwise, a value of another type and bytes after the end
// are a *FieldError that names the field by its path. The binary of a Chunk in msgpack is part of data, not a copy. Unknown fields are ignored if m
// names a newer minor version; a newer major is ErrNewerMajor. Times come back in UTC.
//
// Decode judges the form alone; see the documents' Validate methods for the content.
func Decode[T Document](data []byte, m Meta) (T, error) {
	var doc T
	if err := decode(data, m, &doc); err != nil {
		var none T
		return none, fmt.Errorf("decode %s: %w", documentName(reflect.TypeFor[T]()), err)
	}
	return doc, nil
}

func decode(data []byte, m Meta, doc any) error {
	lenient, err := parseVersion(m.Version)
	if err != nil {
		return err
	}
	t := reflect.TypeOf(doc)
	if most := maxBytes(t); len(data) > most {
		return &FieldError{Problem: fmt.Sprintf("is %d bytes, more than %d", len(data), most)}
	}
	p, err := planOf(t)
	if err != nil {
		return err
	}
	isJSON, err := sniffJSON(data, m.ContentType)
	if err != nil {
		return err
	}
	if isJSON {
		err = decodeJSON(data, p, doc, lenient)
	} else {
		err = decodeMsgpack(data, p, doc, lenient)
	}
	if err != nil {
		return err
	}
	p.normalize(reflect.ValueOf(doc).Elem())
	return nil
}

// maxBytes is the cap of a document of type t.
func maxBytes(t reflect.Type) int {
	if t == reflect.TypeFor[*Manifest]() {
		return MaxManifestBytes
	}
	return MaxMessageBytes
}

// parseVersion reads "major.minor" and reports whether unknown fields are to be ignored.
func parseVersion(s string) (lenient bool, err error) {
	if s == "" || s == Version {
		return false, nil
	}
	major, minor, ok := strings.Cut(s, ".")
	a, errA := parseNumber(major)
	b, errB := parseNumber(minor)
	switch {
	case !ok || errA != nil || errB != nil:
		return false, fmt.Errorf("header %s: %s is not major.minor", HeaderVersion, quote(s))
	case a > versionMajor:
		return false, fmt.Errorf("%w: %s, this program speaks %s", ErrNewerMajor, s, Version)
	case a < versionMajor:
		return false, fmt.Errorf("header %s: version %s is older than this program reads (%d.0)", HeaderVersion, s, versionMajor)
	}
	return b > versionMinor, nil
}

func parseNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && s != strconv.FormatUint(n, 10) { // "01" is another spelling of the same version
		err = strconv.ErrSyntax
	}
	return int(n), err
}

// sniffJSON tells the encoding. A msgpack document begins with a map, never with '{' or white space,
// which are the integers 9 to 123 there.
func sniffJSON(data []byte, contentType string) (bool, error) {
	mime, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(mime)) {
	case ContentJSON:
		return true, nil
	case ContentMsgpack, "application/x-msgpack", "application/vnd.msgpack":
		return false, nil
	case "":
		text := bytes.TrimLeft(data, " \t\r\n")
		return len(text) > 0 && text[0] == '{', nil
	}
	return false, fmt.Errorf("header %s: %s is not known: send %s or %s", HeaderContentType, quote(contentType), ContentMsgpack, ContentJSON)
}

// An encoder is kept between documents: a worker writes some 20,000 a second.
type encoder struct {
	*msgpack.Encoder
	buf bytes.Buffer
}

// A buffer that grew for one large document is not kept for the small ones that follow.
const maxPooledBuffer = 256 << 10

var encoders = sync.Pool{New: func() any {
	e := &encoder{Encoder: msgpack.NewEncoder(nil)}
	e.SetCustomStructTag("json")
	e.SetSortMapKeys(true)
	e.UseCompactInts(true)
	e.ResetWriter(&e.buf) // keeps the settings, as Reset would not
	return e
}}

// write writes v into e.buf.
func (e *encoder) write(v any) error {
	p, err := planOf(reflect.TypeOf(v))
	if err != nil {
		return err
	}
	if err := e.Encode(v); err != nil {
		return err
	}
	// What Decode would refuse is not to be stored: text that is not UTF-8, a time of the year 10000.
	if err := checkMsgpack(e.buf.Bytes(), p, false); err != nil {
		return err
	}
	return nil
}

func (e *encoder) release() {
	if e.buf.Cap() > maxPooledBuffer {
		return
	}
	e.buf.Reset()
	encoders.Put(e)
}

type decoder struct {
	*msgpack.Decoder
	src bytes.Reader
}

var decoders = sync.Pool{New: func() any {
	d := &decoder{Decoder: msgpack.NewDecoder(nil)}
	d.SetCustomStructTag("json")
	d.ResetReader(&d.src)
	return d
}}

func decodeMsgpack(data []byte, p *plan, doc any, lenient bool) (err error) {
	if err := checkMsgpack(data, p, lenient); err != nil {
		return err
	}
	if c, ok := doc.(*Chunk); ok {
		w := walker{data: data}
		if err := w.chunk(c); err != nil {
			return err
		}
		return nil
	}
	d := decoders.Get().(*decoder)
	defer func() {
		// A message that ends a worker ends the next one that takes it, and so the fleet. The walk lets
		// none through that is known to panic in the decoder (nil for a time does).
		if r := recover(); r != nil {
			err = fmt.Errorf("decoder panics: %v", r)
		}
		d.src.Reset(nil)
		decoders.Put(d)
	}()
	d.src.Reset(data)
	return d.Decode(doc)
}

var jsonOptions = json.JoinOptions(
	json.Deterministic(true),
	// The msgpack encoder leaves out 0 and false for omitempty; so must JSON.
	jsonv1.OmitEmptyWithLegacySemantics(true),
	json.WithMarshalers(json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
		return e.WriteToken(jsontext.String(t.UTC().Format(time.RFC3339Nano)))
	})),
)

// documentName is what errors call a value of type t: "invocation".
func documentName(t reflect.Type) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return "nothing"
	}
	return strings.ToLower(t.Name())
}

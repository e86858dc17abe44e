package contracts

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A walker stands at a position in msgpack data. Its methods return *FieldError, whose
// path grows while they return, so that a good message pays nothing for it.
type walker struct {
	data    []byte
	pos     int
	lenient bool
}

// code is what the first byte of a value, and the length after it, say.
type code struct {
	family family
	n      int   // length of text, binary, extension; count of a list's values, a map's pairs
	ext    int8  // type of an extension
	int    int64 // integer
	over   bool  // integer: beyond int64, above
	float  float64
}

type family uint8

const (
	isNil family = iota
	isBool
	isInteger
	isFloat
	isText
	isBinary
	isExtension
	isList
	isMap
)

// String completes "is ...".
func (f family) String() string {
	return [...]string{"nil", "true or false", "an integer", "a float", "text", "binary", "an extension", "a list", "a map"}[f]
}

// bytes takes n bytes.
func (w *walker) bytes(n int) ([]byte, *FieldError) {
	if n > len(w.data)-w.pos {
		return nil, &FieldError{Problem: fmt.Sprintf("the message ends within it: %d bytes wanted, %d left", n, len(w.data)-w.pos)}
	}
	w.pos += n
	return w.data[w.pos-n : w.pos], nil
}

// uint takes a big-endian number of 1, 2, 4 or 8 bytes.
func (w *walker) uint(size int) (uint64, *FieldError) {
	b, err := w.bytes(size)
	if err != nil {
		return 0, err
	}
	switch size {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
	return binary.BigEndian.Uint64(b), nil
}

// head takes the first byte of a value with its length or number. A length is not
// returned unless so many bytes can follow.
func (w *walker) head() (code, *FieldError) {
	b, err := w.bytes(1)
	if err != nil {
		return code{}, err
	}
	switch c := b[0]; {
	case c <= 0x7f || c >= 0xe0:
		return code{family: isInteger, int: int64(int8(c))}, nil
	case c <= 0x8f:
		return w.sized(isMap, uint64(c&0x0f), 2)
	case c <= 0x9f:
		return w.sized(isList, uint64(c&0x0f), 1)
	case c <= 0xbf:
		return w.sized(isText, uint64(c&0x1f), 1)
	case c == 0xc0:
		return code{family: isNil}, nil
	case c == 0xc2 || c == 0xc3:
		return code{family: isBool}, nil
	case 0xc4 <= c && c <= 0xc6:
		return w.length(isBinary, 1<<(c-0xc4), 1)
	case 0xc7 <= c && c <= 0xc9:
		n, err := w.uint(1 << (c - 0xc7))
		if err != nil {
			return code{}, err
		}
		return w.extension(n)
	case c == 0xca:
		n, err := w.uint(4)
		return code{family: isFloat, float: float64(math.Float32frombits(uint32(n)))}, err
	case c == 0xcb:
		n, err := w.uint(8)
		return code{family: isFloat, float: math.Float64frombits(n)}, err
	case 0xcc <= c && c <= 0xcf:
		n, err := w.uint(1 << (c - 0xcc))
		return code{family: isInteger, int: int64(n), over: n > math.MaxInt64}, err
	case 0xd0 <= c && c <= 0xd3:
		size := 1 << (c - 0xd0)
		n, err := w.uint(size)
		shift := 64 - 8*size // spreads the sign
		return code{family: isInteger, int: int64(n<<shift) >> shift}, err
	case 0xd4 <= c && c <= 0xd8:
		return w.extension(1 << (c - 0xd4))
	case 0xd9 <= c && c <= 0xdb:
		return w.length(isText, 1<<(c-0xd9), 1)
	case c == 0xdc || c == 0xdd:
		return w.length(isList, 2<<(c-0xdc), 1)
	case c == 0xde || c == 0xdf:
		return w.length(isMap, 2<<(c-0xde), 2)
	default:
		return code{}, &FieldError{Problem: fmt.Sprintf("byte 0x%02x begins no msgpack value", c)}
	}
}

func (w *walker) length(f family, size, each int) (code, *FieldError) {
	n, err := w.uint(size)
	if err != nil {
		return code{}, err
	}
	return w.sized(f, n, each)
}

// sized checks that n things of at least each bytes can follow.
func (w *walker) sized(f family, n uint64, each int) (code, *FieldError) {
	if left := uint64(len(w.data) - w.pos); n*uint64(each) > left {
		return code{}, &FieldError{Problem: fmt.Sprintf("claims a length of %d, and only %d bytes are left", n, left)}
	}
	return code{family: f, n: int(n)}, nil
}

func (w *walker) extension(n uint64) (code, *FieldError) {
	b, err := w.bytes(1)
	if err != nil {
		return code{}, err
	}
	c, err := w.sized(isExtension, n, 1)
	c.ext = int8(b[0])
	return c, err
}

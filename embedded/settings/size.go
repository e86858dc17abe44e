package settings

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a flag for a number of bytes: 1048576, 64KiB, 64k, 1GiB, 1GB.
type Size struct{ Bytes int64 }

var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// Type names what the flag takes.
func (s *Size) Type() string { return "size" }

// String is the size as Set takes it; "" is 0.
func (s *Size) String() string {
	switch n := s.Bytes; {
	case n == 0:
		return ""
	case n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + "GiB"
	case n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + "MiB"
	}
	return strconv.FormatInt(s.Bytes, 10)
}

// Set reads a size.
func (s *Size) Set(text string) error {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit, ok := units[strings.ToLower(strings.TrimSpace(text[len(digits):]))]
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !ok || v < 0 || v*unit >= math.MaxInt64 {
		return errors.New("not a number of bytes: 1048576, 64KiB, 64MB, 1GiB")
	}
	s.Bytes = int64(v * unit)
	return nil
}

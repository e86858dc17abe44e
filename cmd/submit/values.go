package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// seconds is a flag for a length of time: 90, 1.5, 2m30s.
type seconds struct {
	value float64
	set   bool
}

func (s *seconds) Type() string { return "duration" }

func (s *seconds) String() string {
	if !s.set {
		return ""
	}
	return strconv.FormatFloat(s.value, 'g', -1, 64) + "s"
}

func (s *seconds) Set(text string) error {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d, derr := time.ParseDuration(text)
		if derr != nil {
			return errors.New("not a length of time: 90 (seconds), 1.5s, 2m30s")
		}
		v = d.Seconds()
	}
	if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return errors.New("must not be negative or without end")
	}
	s.value, s.set = v, true
	return nil
}

// size is a flag for a number of bytes: 1048576, 64KiB, 64k, 1GiB, 1GB.
type size struct{ bytes int64 }

var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

func (s *size) Type() string { return "size" }

func (s *size) String() string {
	if s.bytes == 0 {
		return ""
	}
	return strconv.FormatInt(s.bytes, 10)
}

func (s *size) Set(text string) error {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit, ok := units[strings.ToLower(strings.TrimSpace(text[len(digits):]))]
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !ok || v < 0 || v*unit >= math.MaxInt64 {
		return errors.New("not a number of bytes: 1048576, 64KiB, 64MB, 1GiB")
	}
	s.bytes = int64(v * unit)
	return nil
}

// pairs reads KEY=VALUE items.
func pairs(flag string, items []string) (map[string]string, error) {
	if len(items) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(items))
	for _, item := range items {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--%s %q: it is KEY=VALUE", flag, item)
		}
		m[key] = value
	}
	return m, nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

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

package contracts

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (r *httpReader) integer(name string, none, least, most int) int {
	text, ok := r.get(name)
	if !ok {
		return none
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		r.bad(name, "%s is not a whole number within %d to %d", quote(text), least, most)
	}
	return n
}

func (r *httpReader) number(name string, none, least, most float64) float64 {
	text, ok := r.get(name)
	if !ok {
		return none
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= least && n <= most) {
		r.bad(name, "%s is not a number within %v to %v", quote(text), least, most)
		return none
	}
	return n
}

func (r *httpReader) yes(name string) bool {
	switch text, ok := r.get(name); {
	case !ok || text == "false":
	case text == "true":
		return true
	default:
		r.bad(name, "%s is not true or false", quote(text))
	}
	return false
}

// words reads a list with commas; ok says that it is there.
func (r *httpReader) words(name string) (list []string, ok bool) {
	text, ok := r.get(name)
	if !ok {
		return nil, false
	}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" && !slices.Contains(list, part) {
			list = append(list, part)
		}
	}
	switch {
	case len(list) == 0:
		r.bad(name, "is empty")
	case len(list) > maxHTTPStates:
		r.bad(name, "has more than %d entries", maxHTTPStates)
	}
	return list, true
}

// within holds that the states of success are among those that end: another would never be seen.
func (r *httpReader) within(name string, success []string, endName string, end []string) {
	for _, s := range success {
		if !slices.Contains(end, s) {
			r.bad(name, "%s is not in %s: it would never end", quote(s), endName)
		}
	}
}

func (r *httpReader) path(name string) JSONPath {
	text, ok := r.get(name)
	if !ok {
		return nil
	}
	p, why := ParseJSONPath(text)
	if why != "" {
		r.bad(name, "%s", why)
	}
	return p
}

func (r *httpReader) secrets(name, value string) {
	if _, why := SecretNames(value); why != "" {
		r.bad(name, "%s", why)
	}
}

func (r *httpReader) missing(name string) {
	if _, there := r.m[name]; !there { // else it was said what is wrong with it
		r.bad(name, "is missing")
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Codes are ranges of HTTP statuses.
type Codes [][2]int

// Has reports whether a status is among them.
func (c Codes) Has(status int) bool {
	return slices.ContainsFunc(c, func(r [2]int) bool { return r[0] <= status && status <= r[1] })
}

func (r *httpReader) codes(name, none string) Codes {
	text, ok := r.get(name)
	c, good := parseCodes(cmp.Or(text, none))
	if !good || ok && strings.TrimSpace(text) == "" {
		r.bad(name, "must be comma-separated integers, as 200,404, or ranges of them, as 2xx or 200-204")
	}
	return c
}

func parseCodes(text string) (codes Codes, ok bool) {
	if strings.TrimSpace(text) == "" {
		return nil, true
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		var from, to int
		var err error
		if class, isClass := strings.CutSuffix(strings.ToLower(part), "xx"); isClass && len(class) == 1 {
			from, err = strconv.Atoi(class)
			from, to = from*100, from*100+99
		} else {
			first, last, isRange := strings.Cut(part, "-")
			if from, err = strconv.Atoi(first); err != nil {
				return nil, false
			}
			if to = from; isRange {
				to, err = strconv.Atoi(last)
			}
		}
		if err != nil || from < 100 || to > 599 || from > to || len(codes) == maxHTTPStates {
			return nil, false
		}
		codes = append(codes, [2]int{from, to})
	}
	return codes, true
}

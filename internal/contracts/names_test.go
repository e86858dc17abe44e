package contracts_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

func TestValidNames(t *testing.T) {
	sum := helloSHA256
	tests := map[string]struct {
		valid func(string) bool
		yes   []string
		no    []string
	}{
		"token": {contracts.ValidToken, []string{"a", "0", "-", "_", "http_async", long(64)},
			[]string{"", "A", "a.b", "*", ">", "a b", "é", "~", "a\x00", long(65)}},
		"id": {contracts.ValidID, []string{"a", "Z", "7", "a-b_C", long(128)},
			[]string{"", "-a", "_a", "~a", "a~", "a.b", "../x", "*", ">", "a b", "é", "a\n", long(129)}},
		"run": {contracts.ValidRun, []string{"abcd2345", "zzzzzzzz", "77777777"},
			[]string{"", "abcd234", "abcd23456", "ABCD2345", "abcd2341", "abcd234.", "result"}},
		"blob": {contracts.ValidBlob, []string{"0." + sum, "1871." + sum, "999999999999." + sum},
			[]string{"", sum, "." + sum, "01." + sum, "-1." + sum, "1." + strings.ToUpper(sum), "1." + sum[1:], "1." + sum + "0", "1.2." + sum, "1234567890123." + sum, "1/." + sum}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, s := range tt.yes {
				if !tt.valid(s) {
					t.Errorf("%q is not valid", s)
				}
			}
			for _, s := range tt.no {
				if tt.valid(s) {
					t.Errorf("%q is valid", s)
				}
			}
		})
	}
}

func TestNewNamesAreValidAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id, run := contracts.NewID(), contracts.NewRun()
		if len(id) != 16 || !contracts.ValidID(id) || !contracts.ValidToken(id) {
			t.Fatalf("NewID() = %q", id)
		}
		if !contracts.ValidRun(run) {
			t.Fatalf("NewRun() = %q", run)
		}
		if seen[id] {
			t.Fatalf("NewID() = %q twice", id)
		}
		seen[id] = true
	}
}

func TestBodyDigest(t *testing.T) {
	if got := contracts.BodyDigest([]byte("hi\n")); got != helloSHA256 {
		t.Errorf("BodyDigest() = %s, want %s", got, helloSHA256)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func numbered(n int, value string) map[string]string {
	m := map[string]string{}
	for i := range n {
		m["k"+itoa(i)] = value
	}
	return m
}

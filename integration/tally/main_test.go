package main

import (
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	tests := map[string]struct {
		in   string
		ok   bool
		want []string
	}{
		"passes, skips and figures": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"attr","Package":"p","Test":"TestA","Key":"figure","Value":"longest gap: 4 s"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: no engine answers\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`,
			ok:   true,
			want: []string{"ok  \tp\t0.1s", "figure TestA: longest gap: 4 s", "skip p TestB: b_test.go:3: no engine answers", "1 tests passed, 0 failed, 1 skipped in 1 packages"},
		},
		"a failure": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"a_test.go:1: broken\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"a_test.go:1: broken", "2 failed"},
		},
		"a package that does not build": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"a.go:1: undefined: x\n"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
`,
			want: []string{"undefined: x"},
		},
		"a process that died": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"last words\n"}
`,
			want: []string{"did not end", "last words"},
		},
		"nothing ran":  {in: `{"Action":"pass","Package":"p"}` + "\n", want: []string{"0 tests passed"}},
		"not an event": {in: "go: no modules were found\n", want: []string{"no modules were found"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if ok := tally(strings.NewReader(tt.in), &out); ok != tt.ok {
				t.Errorf("tally() = %v, want %v", ok, tt.ok)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("tally() printed %q, want %q in it", out.String(), want)
				}
			}
		})
	}
}

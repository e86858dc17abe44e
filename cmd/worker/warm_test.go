package main

import (
	"maps"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestWarmOfFlags(t *testing.T) {
	for args, want := range map[string]map[string]int{
		"":                                    nil,
		"--warm alpine=2 --warm host:5/x:1=3": {"alpine": 2, "host:5/x:1": 3},
		"--warm alpine":                       {},
		"--warm alpine=0":                     {},
		"--warm =1":                           {},
		"--warm alpine=many":                  {},
		"--warm alpine=1 --warm alpine=2":     {},
	} {
		var f workerFlags
		fs := pflag.NewFlagSet("start", pflag.ContinueOnError)
		f.bind(fs)
		if err := fs.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		cfg, err := f.config(&app{})
		bad := want != nil && len(want) == 0
		if bad != (err != nil) || !bad && !maps.Equal(cfg.Containers.Warm, want) {
			t.Errorf("%q: %v, %v, want %v", args, cfg.Containers.Warm, err, want)
		}
	}
}

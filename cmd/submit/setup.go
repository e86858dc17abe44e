package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
)

// setupFlags say what is done to a container's image before the command runs.
type setupFlags struct {
	lines, env    []string
	user, network string
	timeout       seconds
}

func (f *setupFlags) bind(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.lines, "setup", nil, "do `LINE` to the image first with its sh, and keep that for the next run (repeatable: the first line that fails ends it)")
	fs.Var(&f.timeout, "setup-timeout", "give up when the setup takes longer: `DURATION`")
	fs.StringVar(&f.network, "setup-network", "", "the setup's network: none, bridge or a `NAME` that the worker allows (default none)")
	fs.StringVar(&f.user, "setup-user", "", "run the setup as `UID[:GID]`, or names that the image knows (default 0:0)")
	fs.StringArrayVar(&f.env, "setup-env", nil, "`KEY=VALUE` sets a variable for the setup, and stays readable in the image that is kept (repeatable)")
}

// of returns the setup of the flags; nil is none.
func (f *setupFlags) of() (*runnel.Setup, error) {
	if len(f.lines) == 0 {
		if len(f.env) > 0 || f.user != "" || f.network != "" || f.timeout.set {
			return nil, errors.New("these flags go with a setup: say what it does with --setup")
		}
		return nil, nil
	}
	s := &runnel.Setup{
		// A shell that ends with the first line that fails (T27).
		Command: []string{"sh", "-ec", strings.Join(f.lines, "\n")},
		User:    f.user, Network: f.network, TimeoutSeconds: f.timeout.value,
	}
	for _, item := range f.env {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--setup-env %q: it is KEY=VALUE", item)
		}
		if s.Environment == nil {
			s.Environment = map[string]string{}
		}
		s.Environment[key] = value
	}
	return s, nil
}

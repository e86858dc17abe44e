package subprocess

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// passed are the names that every job gets from the worker, if the worker has them. Never the whole
// environment: it holds the worker's secrets (E15).
var passed = []string{"PATH", "LANG", "LC_*", "TZ", "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// personal are names whose value is about the worker itself: they are passed on when named in full, and by no wildcard.
var personal = map[string]bool{"HOME": true, "TMPDIR": true, "PWD": true, "OLDPWD": true, "SHLVL": true, "_": true}

// reserved begins the names that Runnel speaks in: a job gets them from its run, and
// nothing of the worker's own settings, which may hold a token.
const reserved = "RUNNEL_"

// environment makes the environments of jobs (T22).
type environment struct {
	worker map[string]string // what a job may be passed
	base   map[string]string // what every job is passed
}

func newEnvironment(cfg Config) (environment, error) {
	pass, err := compile("passed environment", cfg.PassEnv)
	if err != nil {
		return environment{}, err
	}
	deny, err := compile("denied environment", cfg.DenyEnv)
	if err != nil {
		return environment{}, err
	}
	defaults, err := compile("passed environment", passed)
	if err != nil {
		return environment{}, err
	}
	env := environment{worker: make(map[string]string), base: make(map[string]string)}
	for _, entry := range cfg.Environ {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.HasPrefix(name, reserved) || deny.match(name) {
			continue
		}
		if _, twice := env.worker[name]; twice {
			continue // the first one counts, as for getenv
		}
		env.worker[name] = value
		if defaults.pass(name) || pass.pass(name) {
			env.base[name] = value
		}
	}
	return env, nil
}

// of returns the environment of one job: what is passed, less what the invocation denies, then what the invocation
// sets, then the reserved names.
func (e environment) of(job runner.Job) (variables, error) {
	pass, err := compile("environment_pass", job.EnvironmentPass)
	if err != nil {
		return nil, runner.Reject(contracts.ReasonBadInvocation, "%v", err)
	}
	deny, err := compile("environment_deny", job.EnvironmentDeny)
	if err != nil {
		return nil, runner.Reject(contracts.ReasonBadInvocation, "%v", err)
	}
	vars := variables{"HOME": job.Dir, "TMPDIR": job.Dir}
	maps.Copy(vars, e.base)
	if len(pass) > 0 {
		for name, value := range e.worker {
			if pass.pass(name) {
				vars[name] = value
			}
		}
	}
	maps.DeleteFunc(vars, func(name, _ string) bool { return deny.match(name) })
	for name, value := range job.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, runner.Reject(contracts.ReasonBadInvocation, "environment: name %q: must not be empty nor hold '=' or a NUL byte", name)
		}
		if strings.ContainsRune(value, 0) {
			return nil, runner.Reject(contracts.ReasonBadInvocation, "environment: value of %q: must not hold a NUL byte", name)
		}
		vars[name] = value
	}
	vars["RUNNEL_INVOCATION_ID"] = job.ID
	vars["RUNNEL_ATTEMPT"] = strconv.Itoa(job.Attempt)
	vars["RUNNEL_WORKSPACE"] = job.Dir
	vars["RUNNEL_ARTIFACTS"] = job.Artifacts
	return vars, nil
}

// variables is an environment.
type variables map[string]string

// path returns where commands are looked up.
func (v variables) path() string {
	if path, ok := v["PATH"]; ok {
		return path
	}
	return "/bin:/usr/bin" // what execvp takes
}

// list returns what exec takes.
func (v variables) list() []string {
	list := make([]string, 0, len(v))
	for name, value := range v {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// globs match names.
type globs []string

// compile checks patterns. One with white space is mostly several that were not taken apart (T24).
func compile(field string, patterns []string) (globs, error) {
	var g globs
	for _, pattern := range patterns {
		if pattern == "" {
			return nil, fmt.Errorf("%s: a pattern must not be empty", field)
		}
		if strings.ContainsFunc(pattern, unicode.IsSpace) {
			return nil, fmt.Errorf("%s: pattern %q holds white space: write one pattern for each name", field, pattern)
		}
		g = append(g, strings.ToLower(pattern))
	}
	return g, nil
}

// match reports whether a pattern matches the name, without regard to case (T24).
func (g globs) match(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(g, func(pattern string) bool { return Glob(pattern, name) })
}

// pass is match for what is passed on: personal names must be written in full.
func (g globs) pass(name string) bool {
	if personal[name] {
		return slices.Contains(g, strings.ToLower(name))
	}
	return g.match(name)
}

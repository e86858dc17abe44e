package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/runnel-project/runnel"
)

// Exit codes that are not a job's own. They are those of timeout(1), env(1) and
// the shells, and as ambiguous: `--json` says what happened.
const (
	exitTimedOut      = 124
	exitOurs          = 125 // submit could not do what it was asked, or the work was refused
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
	exitInterrupted   = 130
	exitPipe          = 141 // nobody reads our output any more
)

// exitError ends the program with a code; the text, if there is one, has been or is said by who made it.
type exitError struct {
	code int
	text string // "" says nothing
}

func (e *exitError) Error() string { return e.text }

// codeOf is the exit code for the result of an invocation.
func codeOf(r runnel.Result) int {
	switch r.Status {
	case runnel.StatusSucceeded:
		return 0
	case runnel.StatusTimedOut:
		return exitTimedOut
	case runnel.StatusCancelled:
		return exitInterrupted
	case runnel.StatusRejected:
		return exitOurs
	}
	switch r.Reason {
	case runnel.ReasonNotFound:
		return exitNotFound
	case runnel.ReasonNotExecutable:
		return exitNotExecutable
	case runnel.ReasonInfra, runnel.ReasonPoison, runnel.ReasonArtifacts, runnel.ReasonImage:
		return exitOurs
	}
	if r.ExitCode == nil {
		return 1
	}
	if code := *r.ExitCode; code < 0 {
		return exitSignal - code
	} else if code%256 != 0 {
		return code % 256
	}
	return 1 // failed all the same: it must not look like success
}

// verdict says how an invocation ended where its exit code alone would not: "" for
// success and for a code that is the work's own.
func verdict(r runnel.Result) string {
	if r.Status == runnel.StatusSucceeded || r.Status == runnel.StatusFailed && r.Reason == runnel.ReasonExit && r.ExitCode != nil && r.Error == "" {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", r.ID, strings.ReplaceAll(string(r.Status), "_", " "))
	if r.Reason != "" && string(r.Reason) != string(r.Status) {
		fmt.Fprintf(&b, " (%s)", r.Reason)
	}
	if r.Reason == runnel.ReasonSignal && r.ExitCode != nil {
		fmt.Fprintf(&b, ": ended by signal %d", -*r.ExitCode)
	}
	if r.Error != "" {
		fmt.Fprintf(&b, ": %s", oneLine(r.Error))
	}
	if r.Killed != "" {
		fmt.Fprintf(&b, "; killed: %s", oneLine(r.Killed))
	}
	return b.String()
}

// oneLine keeps text of a stranger from looking like lines of ours, or steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return ' '
		case c < ' ' || c >= 0x7f && c < 0xa0:
			return '?'
		}
		return c
	}, strings.TrimSpace(s))
}

// firstCode is the exit code of several: the first that is not zero.
func firstCode(codes []int) error {
	for _, code := range codes {
		if code != 0 {
			return &exitError{code: code}
		}
	}
	return nil
}

// codeOfError is the exit code for what a command returned.
func codeOfError(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, errLeft):
		return exitInterrupted
	}
	return exitOurs
}

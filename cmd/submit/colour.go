package main

import (
	"os"

	"github.com/mattn/go-isatty"

	"github.com/runnel-project/runnel"
)

// coloured writes a status in its colour where a person sees it. All codes are of
// the same length, so that the columns of a table stay straight.
func (a *app) coloured(s runnel.Status) string {
	if !a.colours() {
		return string(s)
	}
	code := "33" // waits or runs
	switch s {
	case runnel.StatusSucceeded:
		code = "32"
	case runnel.StatusFailed, runnel.StatusTimedOut, runnel.StatusRejected:
		code = "31"
	case runnel.StatusCancelled:
		code = "35"
	}
	return "\x1b[" + code + "m" + string(s) + "\x1b[0m"
}

func (a *app) colours() bool {
	if a.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	f, ok := a.stdout.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

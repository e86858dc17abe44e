// Command submit hands work to Runnel, follows it and reads how it ended.
package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// Somebody who stops reading our output is an error of writing it, and no end in the middle of a line:
	// the work that writes it is to be cancelled.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// As in cmd/worker: a small heap that changes with every job.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(execute(&app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

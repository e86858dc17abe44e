package subprocess

import (
	"os"
	"syscall"
	"time"
)

// killWait bounds the wait for the death of what was killed. Only what hangs in the kernel takes longer.
const killWait = 10 * time.Second

// rung is a way to hold on to everything that a run starts.
type rung interface {
	// describe says how well it holds: "cgroup", "subreaper (best effort)".
	describe() string
	// hold lays out the hold of one run.
	hold() (hold, error)
	// close is called after the last run has returned.
	close() error
}

// hold has the processes of one run. Between started and release the leader is
// not reaped: its process group keeps its number, and can be signalled.
type hold interface {
	// prepare sets what the start of the leader needs.
	prepare(sys *syscall.SysProcAttr, env variables)
	// started is told of the leader, and of the pipes that its output comes through.
	started(leader int, output []*os.File) error
	// empty reports whether no process of the run is left. One that is a zombie is not left.
	empty() (bool, error)
	// count returns how many processes of the run there are, 0 if it cannot know.
	count() int
	// signal sends sig to every process of the run.
	signal(sig syscall.Signal) error
	// kill kills every process of the run, also those that are started meanwhile, waits until none is left,
	// and returns how many there were.
	kill() (int, error)
	// settled is told that nothing of the run is left, right before the leader is reaped.
	settled() error
	// release gives the hold back: the leader has been reaped, or was never started.
	release() error
}

// removable is a hold that somebody else can take away. A start in one that is gone
// fails as if the program did not exist.
type removable interface{ removed() bool }

//go:build linux || darwin

package subprocess

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readSize is how much output is read at once. A pipe holds 64 KiB.
const readSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// pump copies one stream of output to the sink, until every process that could write to it is gone. A sink
// that is slow holds back the work through its pipe. After a failed write it reads on for nobody, so
// that the work is not held up while it is being stopped.
func (p *process) pump(from *os.File, to io.Writer) {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	failed := false
	left := -1 // what may still be read; -1 is everything
	for left != 0 {
		room := buf[:]
		if left > 0 {
			room = buf[:min(left, readSize)]
		}
		n, err := from.Read(room)
		if left > 0 {
			left -= n
		}
		if n > 0 && !failed {
			if _, writeErr := to.Write(room[:n]); writeErr != nil {
				failed = true
				p.stopping.Unheard(fmt.Errorf("write output: %w", writeErr))
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && left < 0 {
			// Everything of the run is dead, and something else holds the pipe: take what is in it, and leave.
			left = buffered(from)
			_ = from.SetReadDeadline(time.Time{})
			continue
		}
		if err != nil {
			return
		}
	}
}

// buffered returns how many bytes can be read from a pipe at once.
func buffered(pipe *os.File) int {
	n := 0
	conn, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	if err := conn.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), fionread) }); err != nil {
		return 0
	}
	return n
}

// drain waits for the rest of the output, and closes our ends of the pipes.
func (p *process) drain(wait time.Duration) {
	cut := time.AfterFunc(wait, func() {
		for _, pipe := range p.output {
			_ = pipe.SetReadDeadline(time.Now())
		}
	})
	p.pumps.Wait()
	cut.Stop()
	for _, pipe := range p.output {
		pipe.Close()
	}
}

// feed copies the input into the leader's pipe. The function that it returns is called when the run is over: it
// ends the copying, and waits for it unless it hangs in a read for longer than wait.
func (p *process) feed(to *os.File, from io.Reader) (fed func(wait time.Duration)) {
	if to == nil {
		return func(time.Duration) {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer to.Close()
		if err := copyInput(to, from); err != nil {
			// Stopped before the pipe is closed: half of the input must not look like all of it.
			p.stopping.Fail(fmt.Errorf("read input: %w", err))
			<-p.stopping.Done()
		}
	}()
	return func(wait time.Duration) {
		to.Close()
		hung := time.NewTimer(wait)
		defer hung.Stop()
		select {
		case <-done:
		case <-hung.C:
		}
	}
}

// copyInput returns an error of the reader only: a leader that does not want more input is no fault.
func copyInput(to io.Writer, from io.Reader) error {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

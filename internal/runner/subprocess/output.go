//go:build linux || darwin

package subprocess

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/runnel-project/runnel/internal/runner/pipe"
)

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
	buf := pipe.Buffers.Get().(*[pipe.ReadSize]byte)
	defer pipe.Buffers.Put(buf)
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

// Package pipe reads the output of work from its pipes.
package pipe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/runner"
)

// ReadSize is how much output is read at once. A pipe holds 64 KiB.
const ReadSize = 32 << 10

// Buffers are what is read into.
var Buffers = sync.Pool{New: func() any { return new([ReadSize]byte) }}

// Output is that of one piece of work, from its beginning to its end.
type Output struct {
	pipes []*os.File
	pumps sync.WaitGroup
}

// Pump begins to copy one stream of output to the sink, until every process that could write to it is gone. A sink
// that is slow holds back the work through its pipe. After a failed write it reads on for nobody, so
// that the work is not held up while it is being stopped. The pipe is Drain's to close.
func (o *Output) Pump(from *os.File, to io.Writer, stopping *runner.Stopping) {
	o.pipes = append(o.pipes, from)
	o.pumps.Go(func() { pump(from, to, stopping) })
}

func pump(from *os.File, to io.Writer, stopping *runner.Stopping) {
	buf := Buffers.Get().(*[ReadSize]byte)
	defer Buffers.Put(buf)
	failed := false
	left := -1 // what may still be read; -1 is everything
	for left != 0 {
		room := buf[:]
		if left > 0 {
			room = buf[:min(left, ReadSize)]
		}
		n, err := from.Read(room)
		if left > 0 {
			left -= n
		}
		if n > 0 && !failed {
			if _, writeErr := to.Write(room[:n]); writeErr != nil {
				failed = true
				stopping.Unheard(fmt.Errorf("write output: %w", writeErr))
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

// Drain waits for the rest of the output, and closes the pipes. Nothing of the work runs any more: what else holds a
// pipe open is waited for so long, and what is in the pipe by then is still read.
func (o *Output) Drain(wait time.Duration) {
	cut := time.AfterFunc(wait, func() {
		for _, pipe := range o.pipes {
			_ = pipe.SetReadDeadline(time.Now())
		}
	})
	o.pumps.Wait()
	cut.Stop()
	for _, pipe := range o.pipes {
		pipe.Close()
	}
}

//go:build linux

// Command program is the agent: process 1 of a container in which a worker runs one command after another.
//
// It is root with no capabilities but those to be another user, to end that user's processes and to remove its files.
// What it runs is that other user, with none, and can neither signal, trace nor read it. It needs no process and no
// thread more than it has while something runs, for that may have used up all there may be.
package main

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

func main() {
	if os.Getpid() != 1 {
		fail("it is process 1 of a container, and nothing else")
	}
	spare()
	syscall.Umask(0o022)
	a := &agent{in: pollable(0), out: roomy(pollable(1)), asked: make(chan ask, 1)}
	if err := a.look(); err != nil {
		fail(err.Error())
	}
	go a.work()
	a.send(frame.Append(nil, frame.Hello, []byte{frame.Version}))
	a.listen()
}

// fail ends the agent, and with it the container: the worker makes another.
func fail(text string) {
	_, _ = os.Stderr.WriteString("agent: " + text + "\n")
	os.Exit(1)
}

// spare has the runtime make the threads that it may ever want, while it can.
func spare() {
	const threads = 8
	var all sync.WaitGroup
	all.Add(threads)
	enough := make(chan struct{})
	for range threads {
		go func() {
			runtime.LockOSThread()
			all.Done()
			<-enough
			runtime.UnlockOSThread()
		}()
	}
	all.Wait()
	close(enough)
}

// pollable returns a file whose reads and writes hold up no thread.
func pollable(fd int) *os.File {
	if err := syscall.SetNonblock(fd, true); err != nil {
		fail("a pipe: " + err.Error())
	}
	return os.NewFile(uintptr(fd), "")
}

// roomy has a pipe hold more than it does by itself, if that may be: output comes in larger pieces then.
func roomy(f *os.File) *os.File {
	const setSize, size = 1031, 256 << 10 // F_SETPIPE_SZ
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _, _ = syscall.RawSyscall(syscall.SYS_FCNTL, fd, setSize, size) })
	}
	return f
}

// agent is the one of this process.
type agent struct {
	in, out *os.File
	asked   chan ask
	busy    atomic.Bool    // from a request until just before its answer
	files   *io.PipeWriter // of a Put under way; the listener's
	next    *outputs       // of the next command, once the worker knows of them; work's
	kept    surroundings

	writing sync.Mutex // held over a write to out

	mu    sync.Mutex
	open  bool             // a command was asked for, and has not ended
	pid   int              // its, once it has one
	early []syscall.Signal // for it, before that
	input *input           // its, or nil
}

// ask is one request.
type ask struct {
	what    frame.Type
	body    []byte
	command frame.Command
	tar     *io.PipeReader
}

// send writes frames to the worker, and holds up the sender while it does not read. Without a worker there is no agent.
func (a *agent) send(frames []byte) {
	a.writing.Lock()
	defer a.writing.Unlock()
	if _, err := a.out.Write(frames); err != nil {
		os.Exit(0)
	}
}

// listen reads what the worker says. Nothing here waits for anything but the worker, or the files of one Put.
func (a *agent) listen() {
	var buf []byte
	for {
		t, body, next, err := frame.Read(a.in, buf)
		if err == io.EOF {
			os.Exit(0) // the worker has gone
		}
		if err != nil {
			fail(err.Error())
		}
		buf = next
		switch t {
		case frame.Run, frame.Fetch, frame.Wipe, frame.Put:
			a.begin(t, body)
		case frame.Data:
			switch {
			case a.files == nil:
				fail("files that nobody announced")
			case len(body) == 0:
				a.files.Close()
				a.files = nil
			default:
				_, _ = a.files.Write(body)
			}
		case frame.Stdin, frame.StdinEnd:
			a.mu.Lock()
			input := a.input
			a.mu.Unlock()
			if input != nil {
				input.push(body, t == frame.StdinEnd)
			}
		case frame.Signal:
			n, err := frame.ParseSignal(body)
			if err != nil {
				fail(err.Error())
			}
			a.signal(syscall.Signal(n))
		default:
			fail("a frame that is not the worker's")
		}
	}
}

// begin hands a request to who does it. What follows a command on its way to it, input and signals, is kept for it from here on.
func (a *agent) begin(t frame.Type, body []byte) {
	if a.busy.Swap(true) || a.files != nil {
		fail("asked for two things at once")
	}
	next := ask{what: t, body: bytes.Clone(body)}
	switch t {
	case frame.Put:
		next.tar, a.files = io.Pipe()
	case frame.Run:
		c, err := frame.ParseCommand(next.body)
		if err != nil {
			fail(err.Error())
		}
		next.command = c
		a.mu.Lock()
		a.open = true
		if c.Stdin {
			a.input = newInput(a)
		}
		a.mu.Unlock()
	}
	a.asked <- next
}

// work does what is asked, one after another.
func (a *agent) work() {
	for next := range a.asked {
		switch next.what {
		case frame.Run:
			a.answer(frame.Exit, a.run(next.command).Append(nil))
		case frame.Put:
			err := unpack(next.tar)
			_, _ = io.Copy(io.Discard, next.tar)
			a.done(err)
		case frame.Fetch:
			name, err := frame.ParseFetch(next.body)
			if err != nil {
				fail(err.Error())
			}
			a.done(a.pack(name))
		case frame.Wipe:
			who, err := frame.ParseOwner(next.body)
			if err != nil {
				fail(err.Error())
			}
			a.done(a.wipe(who))
		}
	}
}

// answer says how what was asked for ended, and before that which pipes a command will have that is asked for next.
func (a *agent) answer(t frame.Type, body []byte) {
	var frames []byte
	if a.next == nil {
		next, pipes, err := newOutputs()
		if err != nil {
			fail("pipes: " + err.Error())
		}
		a.next = next
		frames = frame.Append(nil, frame.Ready, pipes.Append(nil))
	}
	a.busy.Store(false) // before the worker may ask again
	a.send(frame.Append(frames, t, body))
}

func (a *agent) done(err error) {
	var text string
	if err != nil {
		text = err.Error()
	}
	a.answer(frame.Done, []byte(text[:min(len(text), frame.MaxText)]))
}

// Package frame is what a worker and the agent inside a container say to each other: frames over two pipes.
//
// A frame is a type, the length of its body in three bytes, most significant first, and the body. The worker asks for
// one thing at a time (Run, Put, Fetch, Wipe) and gets one answer to each. Output holds back whoever makes it by the
// pipe being full; input is sent on credit, so that a signal is never behind it. A worker that can open the pipes of
// Ready itself reads the output there (Command.Direct), and none of it comes in frames.
//
// The agent is root among the processes of strangers, and what it sends is believed by nobody: every decoder takes
// what its encoder writes and nothing else.
package frame

import (
	"errors"
	"io"
)

// Version is the first byte of Hello. Both sides must have the same: an agent is copied in by its worker.
const Version = 2

// Type says what a frame is.
type Type byte

// The types of frames.
const (
	Hello Type = iota + 1 // from the agent, once: Version

	// What the worker asks for.
	Run   // a Command; answered by Exit
	Put   // nothing: files follow as Data, to an empty one; answered by Done
	Fetch // the name of a directory below Root; answered by Data, and Done
	Wipe  // an Owner; answered by Done

	// From the worker while a command runs.
	Stdin    // bytes, within the credit
	StdinEnd // nothing
	Signal   // its number, one byte

	// From the agent.
	Stdout // bytes
	Stderr // bytes
	Credit // how many more bytes of input it takes, four bytes
	Exit   // an End
	Done   // what went wrong, "" if nothing did

	Data // bytes of a tar, either way

	Ready // from the agent, before an answer: the Pipes of the next command's output
)

const (
	// Max bounds the body of a frame.
	Max = 1 << 20
	// Piece bounds the bytes of a stream in one frame: with its header it fills the buffers that an engine copies through.
	Piece = 32<<10 - Header
	// Window is how many bytes of input may be under way.
	Window = 256 << 10
	// MaxText bounds what went wrong.
	MaxText = 1 << 10
	// Header is the length of what is before the body.
	Header = 4
)

// Where an agent keeps its files, and those of the work: a volume of the container's.
const (
	Root      = "/runnel"
	Workspace = "workspace"
	Artifacts = "artifacts"
	Program   = ".agent"
)

// Errors of what does not follow the protocol.
var (
	ErrTooLong   = errors.New("frame: longer than it may be")
	ErrMalformed = errors.New("frame: malformed")
)

// bounds are the longest bodies.
var bounds = [...]int{
	Hello: 1, Run: Max, Put: 0, Fetch: 64, Wipe: 8, Stdin: Piece, StdinEnd: 0, Signal: 1,
	Stdout: Piece, Stderr: Piece, Credit: 4, Exit: MaxText + 32, Done: MaxText, Data: Piece, Ready: 24,
}

// PutHeader writes the header of a frame in front of a body of n bytes, which the caller keeps within the bounds.
func PutHeader(to []byte, t Type, n int) {
	to[0], to[1], to[2], to[3] = byte(t), byte(n>>16), byte(n>>8), byte(n)
}

// Append appends a whole frame.
func Append(to []byte, t Type, body []byte) []byte {
	var h [Header]byte
	PutHeader(h[:], t, len(body))
	return append(append(to, h[:]...), body...)
}

// Read reads a frame. The body is in buf, or in a longer one, which it returns as the second: it is valid until the next
// Read with that. An end between two frames is io.EOF.
func Read(from io.Reader, buf []byte) (t Type, body, next []byte, err error) {
	if cap(buf) < Header {
		buf = make([]byte, Header+Piece)
	}
	head := buf[:Header]
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, buf, err
	}
	t = Type(head[0])
	n := int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	switch {
	case t == 0 || int(t) >= len(bounds):
		return 0, nil, buf, ErrMalformed
	case n > bounds[t]:
		return 0, nil, buf, ErrTooLong
	case cap(buf) < n:
		buf = make([]byte, n)
	}
	body = buf[:n]
	if _, err := io.ReadFull(from, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, buf, err
	}
	return t, body, buf, nil
}

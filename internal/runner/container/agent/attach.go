package agent

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// Attached makes of a connection that an engine attached to a container's three streams the way to its agent: what the
// agent says is on standard output, and why it ended on standard error.
func Attached(conn net.Conn, from io.Reader) io.ReadWriteCloser {
	return &attached{conn: conn, from: bufio.NewReaderSize(from, readAhead)}
}

type attached struct {
	conn   net.Conn
	from   io.Reader
	left   uint32 // of the piece of standard output that is being read
	said   strings.Builder
	header [8]byte
}

// readAhead has a connection read in few pieces.
const readAhead = 128 << 10

// maxSaid bounds what is kept of standard error.
const maxSaid = 512

// Read reads standard output.
func (a *attached) Read(p []byte) (int, error) {
	for a.left == 0 {
		if _, err := io.ReadFull(a.from, a.header[:]); err != nil {
			return 0, a.why(err)
		}
		n := binary.BigEndian.Uint32(a.header[4:])
		switch a.header[0] {
		case 1:
			a.left = n
		case 2:
			if err := a.note(n); err != nil {
				return 0, a.why(err)
			}
		default:
			return 0, fmt.Errorf("the engine sends a stream %d", a.header[0])
		}
	}
	n, err := a.from.Read(p[:min(len(p), int(a.left))])
	a.left -= uint32(n)
	return n, err
}

// note keeps the beginning of what the agent says of its end.
func (a *attached) note(n uint32) error {
	keep := min(int64(n), int64(max(0, maxSaid-a.said.Len())))
	if _, err := io.CopyN(&a.said, a.from, keep); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, a.from, int64(n)-keep)
	return err
}

func (a *attached) why(err error) error {
	if said := strings.TrimSpace(a.said.String()); said != "" {
		return fmt.Errorf("%.256q: %w", said, err)
	}
	return err
}

// Write writes to standard input.
func (a *attached) Write(p []byte) (int, error) { return a.conn.Write(p) }

// Close ends the connection.
func (a *attached) Close() error { return a.conn.Close() }

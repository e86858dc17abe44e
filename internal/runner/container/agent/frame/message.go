package frame

import "encoding/binary"

// Command is what the agent runs.
type Command struct {
	// Args is the program and its arguments. A name without a slash is looked for in the PATH of Env, or the image's.
	Args []string
	// Env is set over the image's, NAME=value.
	Env []string
	// Dir is where it starts, absolute.
	Dir string
	// UID and GID are who it runs as. It has no other groups, and no capabilities unless UID is 0.
	UID, GID uint32
	// Stdin says that there is input; else it reads from /dev/null.
	Stdin bool
	// Direct says that the worker reads the output from the pipes of Ready.
	Direct bool
}

// Pipes are those that the next command will write to.
type Pipes struct{ Stdout, Stderr Pipe }

// Pipe is one, as the agent has it: the number of a descriptor of its end to read from, and that of the pipe itself.
type Pipe struct {
	FD  uint32
	Ino uint64
}

// Owner is whose the new directories of a wiped container are.
type Owner struct{ UID, GID uint32 }

// How a command ended.
const (
	Exited    = 0 // Code is its exit code
	Signalled = 1 // Code is the signal
	NotFound  = 2 // it was not started, and Text says why
	NotExec   = 3 // it was not started, and Text says why
)

// End is how a command ended. What it left running is dead by then.
type End struct {
	How  byte
	Code byte
	Text string
	// OOM is set when the kernel killed a process of the container for want of memory while it ran.
	OOM bool
	// Artifacts and Workspace say that something is in these directories.
	Artifacts, Workspace bool
}

const maxID = 1<<31 - 1

// Append appends the encoding.
func (c Command) Append(to []byte) []byte {
	to = appendList(appendList(to, c.Args), c.Env)
	to = appendText(to, c.Dir)
	to = binary.BigEndian.AppendUint32(to, c.UID)
	to = binary.BigEndian.AppendUint32(to, c.GID)
	return append(to, bit(c.Stdin, 1)|bit(c.Direct, 2))
}

// ParseCommand decodes what Append encodes.
func ParseCommand(from []byte) (Command, error) {
	d := decoder{rest: from}
	c := Command{Args: d.list(), Env: d.list(), Dir: d.text(Max), UID: d.id(), GID: d.id()}
	bits := d.bits(3)
	c.Stdin, c.Direct = bits&1 != 0, bits&2 != 0
	if !d.whole() || len(c.Args) == 0 || c.Args[0] == "" || c.Dir == "" || c.Dir[0] != '/' {
		return Command{}, ErrMalformed
	}
	return c, nil
}

// Append appends the encoding.
func (o Owner) Append(to []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(to, o.UID), o.GID)
}

// ParseOwner decodes what Append encodes.
func ParseOwner(from []byte) (Owner, error) {
	d := decoder{rest: from}
	o := Owner{UID: d.id(), GID: d.id()}
	if !d.whole() {
		return Owner{}, ErrMalformed
	}
	return o, nil
}

// Append appends the encoding. A text that is too long is cut.
func (e End) Append(to []byte) []byte {
	to = append(to, e.How, e.Code, bit(e.OOM, 1)|bit(e.Artifacts, 2)|bit(e.Workspace, 4))
	return appendText(to, e.Text[:min(len(e.Text), MaxText)])
}

// ParseEnd decodes what Append encodes.
func ParseEnd(from []byte) (End, error) {
	d := decoder{rest: from}
	e := End{How: d.byte(), Code: d.byte()}
	bits := d.bits(7)
	e.OOM, e.Artifacts, e.Workspace = bits&1 != 0, bits&2 != 0, bits&4 != 0
	e.Text = d.text(MaxText)
	if !d.whole() || e.How > NotExec || e.How == Signalled && (e.Code == 0 || e.Code > 64) {
		return End{}, ErrMalformed
	}
	return e, nil
}

// Append appends the encoding.
func (p Pipes) Append(to []byte) []byte {
	for _, p := range []Pipe{p.Stdout, p.Stderr} {
		to = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(to, p.FD), p.Ino)
	}
	return to
}

// ParsePipes decodes what Append encodes.
func ParsePipes(from []byte) (Pipes, error) {
	d := decoder{rest: from}
	p := Pipes{Pipe{d.id(), d.number()}, Pipe{d.id(), d.number()}}
	if !d.whole() {
		return Pipes{}, ErrMalformed
	}
	return p, nil
}

// ParseCredit decodes the body of Credit: more than nothing, and no more than Window.
func ParseCredit(from []byte) (int, error) {
	d := decoder{rest: from}
	n := d.id()
	if !d.whole() || n == 0 || n > Window {
		return 0, ErrMalformed
	}
	return int(n), nil
}

// AppendCredit appends the body of Credit.
func AppendCredit(to []byte, n int) []byte { return binary.BigEndian.AppendUint32(to, uint32(n)) }

// ParseSignal decodes the body of Signal.
func ParseSignal(from []byte) (int, error) {
	if len(from) != 1 || from[0] == 0 || from[0] > 64 {
		return 0, ErrMalformed
	}
	return int(from[0]), nil
}

// ParseFetch decodes the body of Fetch: the name of a directory that is the work's.
func ParseFetch(from []byte) (string, error) {
	if name := string(from); name == Workspace || name == Artifacts {
		return name, nil
	}
	return "", ErrMalformed
}

func bit(is bool, b byte) byte {
	if is {
		return b
	}
	return 0
}

func appendText(to []byte, s string) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

func appendList(to []byte, list []string) []byte {
	to = binary.AppendUvarint(to, uint64(len(list)))
	for _, s := range list {
		to = appendText(to, s)
	}
	return to
}

// decoder reads what is left of a body. After something that is not right it reads nothing more.
type decoder struct {
	rest []byte
	bad  bool
}

// whole reports whether everything was right, and nothing is left.
func (d *decoder) whole() bool { return !d.bad && len(d.rest) == 0 }

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// bits reads a byte of which no bits but these are set.
func (d *decoder) bits(these byte) byte {
	b := d.byte()
	if b&^these != 0 {
		d.bad = true
	}
	return b
}

// id reads a number below 2³¹.
func (d *decoder) id() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxID {
		d.bad = true
	}
	return n
}

func (d *decoder) number() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count reads a length, as short as it can be written, of what may be left.
func (d *decoder) count() int {
	n, size := binary.Uvarint(d.rest)
	if d.bad || size <= 0 || size > 1 && d.rest[size-1] == 0 || n > uint64(len(d.rest)-size) {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return int(n)
}

// text reads a text without a NUL.
func (d *decoder) text(most int) string {
	n := d.count()
	s := d.take(n)
	for _, b := range s {
		if b == 0 {
			d.bad = true
		}
	}
	if n > most {
		d.bad = true
	}
	return string(s)
}

func (d *decoder) list() []string {
	n := d.count()
	if d.bad || n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		if list = append(list, d.text(Max)); d.bad {
			return nil
		}
	}
	return list
}

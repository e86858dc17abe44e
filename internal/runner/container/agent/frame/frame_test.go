package frame_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

func TestFramesAreBounded(t *testing.T) {
	stream := frame.Append(nil, frame.Stdout, make([]byte, frame.Piece))
	stream = frame.Append(stream, frame.StdinEnd, nil)
	from := bytes.NewReader(stream)
	typ, body, buf, err := frame.Read(from, nil)
	if typ != frame.Stdout || len(body) != frame.Piece || err != nil {
		t.Errorf("Read() = %v, %d bytes, %v", typ, len(body), err)
	}
	if typ, body, buf, err = frame.Read(from, buf); typ != frame.StdinEnd || len(body) != 0 || err != nil {
		t.Errorf("Read() = %v, %d bytes, %v", typ, len(body), err)
	}
	if _, _, _, err := frame.Read(from, buf); err != io.EOF {
		t.Errorf("Read() at the end = %v", err)
	}
	for name, test := range map[string]struct {
		stream []byte
		want   error
	}{
		"no type":       {[]byte{0, 0, 0, 0}, frame.ErrMalformed},
		"unknown type":  {[]byte{200, 0, 0, 0}, frame.ErrMalformed},
		"too long":      {[]byte{byte(frame.Stdout), 0, 0x7f, 0xfd}, frame.ErrTooLong},
		"much too long": {[]byte{byte(frame.Run), 0xff, 0xff, 0xff}, frame.ErrTooLong},
		"cut":           {[]byte{byte(frame.Credit), 0, 0, 4, 1}, io.ErrUnexpectedEOF},
		"nothing of it": {[]byte{byte(frame.Credit), 0, 0, 4}, io.ErrUnexpectedEOF},
		"cut before":    {[]byte{byte(frame.Credit)}, io.ErrUnexpectedEOF},
	} {
		if _, _, _, err := frame.Read(bytes.NewReader(test.stream), nil); !errors.Is(err, test.want) {
			t.Errorf("%s: Read() = %v, want %v", name, err, test.want)
		}
	}
}

var commands = []frame.Command{
	{Args: []string{"true"}, Dir: "/"},
	{Args: []string{"sh", "-c", "", strings.Repeat("x", 300)}, Env: []string{"A=b", ""}, Dir: "/runnel/workspace", UID: 1000, GID: 1<<31 - 1, Stdin: true},
	{Args: []string{"true"}, Dir: "/", Direct: true},
}

var ends = []frame.End{
	{}, {Code: 255, OOM: true}, {How: frame.Signalled, Code: 9, Artifacts: true, Workspace: true}, {How: frame.NotFound, Text: "nowhere: gone"},
}

var pipes = frame.Pipes{Stdout: frame.Pipe{FD: 5, Ino: 1<<64 - 1}, Stderr: frame.Pipe{FD: 1<<31 - 1, Ino: 7}}

// FuzzAgent feeds the agent's decoders: what they take is what their encoders write.
func FuzzAgent(f *testing.F) {
	for _, c := range commands {
		f.Add(c.Append(nil))
	}
	f.Add(frame.Owner{UID: 1000, GID: 1}.Append(nil))
	f.Add([]byte{9})
	f.Add([]byte(frame.Artifacts))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := frame.ParseCommand(data); err == nil {
			same(t, data, c.Append(nil))
		}
		if o, err := frame.ParseOwner(data); err == nil {
			same(t, data, o.Append(nil))
		}
		if n, err := frame.ParseSignal(data); err == nil {
			same(t, data, []byte{byte(n)})
		}
		if dir, err := frame.ParseFetch(data); err == nil {
			same(t, data, []byte(dir))
		}
		_, _, _, _ = frame.Read(bytes.NewReader(data), nil)
	})
}

// FuzzWorker feeds the worker's decoders, which read what a subverted agent writes.
func FuzzWorker(f *testing.F) {
	for _, e := range ends {
		f.Add(e.Append(nil))
	}
	f.Add(frame.AppendCredit(nil, frame.Window))
	f.Add(pipes.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := frame.ParseEnd(data); err == nil {
			same(t, data, e.Append(nil))
		}
		if n, err := frame.ParseCredit(data); err == nil {
			same(t, data, frame.AppendCredit(nil, n))
		}
		if p, err := frame.ParsePipes(data); err == nil {
			same(t, data, p.Append(nil))
		}
		for from, buf := io.Reader(bytes.NewReader(data)), []byte(nil); ; {
			_, body, next, err := frame.Read(from, buf)
			if err != nil {
				break
			}
			if len(body) > frame.Max {
				t.Fatalf("a body of %d bytes", len(body))
			}
			buf = next
		}
	})
}

func same(t *testing.T, data, again []byte) {
	t.Helper()
	if !bytes.Equal(data, again) {
		t.Fatalf("%q is taken, and written as %q", data, again)
	}
}

func TestRoundTrips(t *testing.T) {
	for _, c := range commands {
		if got, err := frame.ParseCommand(c.Append(nil)); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("ParseCommand() = %+v, %v, want %+v", got, err, c)
		}
	}
	for _, e := range ends {
		if got, err := frame.ParseEnd(e.Append(nil)); err != nil || got != e {
			t.Errorf("ParseEnd() = %+v, %v, want %+v", got, err, e)
		}
	}
	if got, err := frame.ParsePipes(pipes.Append(nil)); err != nil || got != pipes {
		t.Errorf("ParsePipes() = %+v, %v, want %+v", got, err, pipes)
	}
	long := frame.End{How: frame.NotFound, Text: strings.Repeat("x", 1<<20)}
	if got, err := frame.ParseEnd(long.Append(nil)); err != nil || len(got.Text) != frame.MaxText {
		t.Errorf("ParseEnd() of a long text = %d bytes, %v", len(got.Text), err)
	}
}

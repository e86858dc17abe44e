package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// input is the body of one request. It notes what reading it came to, and lets nobody read on once
// the request is over: the job's input is the worker's then.
type input struct {
	size int64 // -1 is unknown

	mu   sync.Mutex
	r    io.Reader
	err  error
	over bool
}

var errOver = errors.New("the request is over")

func (b *input) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errOver
	}
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *input) Close() error { return nil }

// again has the body read from its beginning.
func (b *input) again(r io.Reader) *input {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.r = r
	return b
}

// end waits for the read under way, refuses those that come, and returns what broken does. A nil input is no body.
func (b *input) end() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
	return b.broken()
}

// broken returns an *inputError if the job's input could not be read.
func (b *input) broken() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		return nil
	}
	return &inputError{fmt.Errorf("read the body: %w", b.err)}
}

// inputError marks an error of reading what was to be sent.
type inputError struct{ error }

func (i *inputError) Unwrap() error { return i.error }

// open returns the body from its beginning; nil is none.
func (c *Call) open() *input {
	switch {
	case c.HasBody:
		return &input{r: c.source(), size: int64(len(c.body))}
	case c.stdin == nil:
		return nil
	case c.size >= 0:
		return &input{r: c.source(), size: c.size}
	}
	c.spent = true
	return &input{r: c.source(), size: -1}
}

func (c *Call) source() io.Reader {
	if c.HasBody {
		return bytes.NewReader(c.body)
	}
	if c.size >= 0 {
		return io.NewSectionReader(c.stdin.(io.ReaderAt), 0, c.size)
	}
	return c.stdin
}

// Repeatable reports whether the body can be sent again.
func (c *Call) Repeatable() bool { return c.stdin == nil || c.size >= 0 }

func jsonEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

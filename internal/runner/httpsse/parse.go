package httpsse

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	maxLineBytes  = 1 << 20
	maxEventBytes = 4 << 20
	maxIDBytes    = 512 // in a note, however it is escaped
)

// event is one server-sent event.
type event struct {
	// id is the last one that the stream has set so far, in this event or before.
	id    string
	name  string // "message" where the stream does not say
	data  string
	retry time.Duration // what the stream has set so far; 0 is nothing
}

// parser reads a stream of events as the HTML Living Standard says (9.2.6), from pieces of any length.
type parser struct {
	event
	line    []byte
	started bool // the mark at the beginning has been looked for
	cr      bool // the last line ended with a CR: a LF now belongs to it
	hasData bool
	data    strings.Builder
}

// feed takes the next bytes of the stream and calls found with each event that is whole. Its error is that of found, or
// says that a line, an event or an id is too long to be taken in.
func (p *parser) feed(data []byte, found func(event) error) error {
	for len(data) > 0 {
		if p.cr {
			p.cr = false
			if data[0] == '\n' {
				data = data[1:]
				continue
			}
		}
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			p.line = append(p.line, data...)
			if len(p.line) > maxLineBytes {
				return fmt.Errorf("a line of more than %d bytes", maxLineBytes)
			}
			return nil
		}
		p.cr = data[end] == '\r'
		p.line = append(p.line, data[:end]...)
		data = data[end+1:]
		if len(p.line) > maxLineBytes {
			return fmt.Errorf("a line of more than %d bytes", maxLineBytes)
		}
		if err := p.take(found); err != nil {
			return err
		}
		p.line = p.line[:0]
	}
	return nil
}

// take takes one line.
func (p *parser) take(found func(event) error) error {
	line := string(p.line)
	if !p.started {
		p.started = true
		line = strings.TrimPrefix(line, "\uFEFF")
	}
	if line == "" {
		return p.dispatch(found)
	}
	field, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch field {
	case "event":
		p.name = value
	case "data":
		if p.hasData {
			p.data.WriteByte('\n')
		}
		p.hasData = true
		p.data.WriteString(value)
		if p.data.Len() > maxEventBytes {
			return fmt.Errorf("an event of more than %d bytes", maxEventBytes)
		}
	case "id":
		if len(value) > maxIDBytes {
			return fmt.Errorf("an id of more than %d bytes", maxIDBytes)
		}
		if contracts.ValidHeaderValue(value) && utf8.ValidString(value) { // else it could not be sent back
			p.id = value
		}
	case "retry":
		if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
			p.retry = time.Duration(ms) * time.Millisecond
		}
	}
	return nil
}

// dispatch ends an event. One without data counts for nothing but its id.
func (p *parser) dispatch(found func(event) error) error {
	e := p.event
	if e.data = p.data.String(); e.name == "" {
		e.name = "message"
	}
	had := p.hasData
	p.name, p.hasData = "", false
	p.data.Reset()
	if !had {
		return nil
	}
	return found(e)
}

// reset begins a new connection: what was half heard is forgotten, the last id and the wait are not.
func (p *parser) reset() {
	*p = parser{event: event{id: p.id, retry: p.retry}}
}

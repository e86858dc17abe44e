package httpsse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// read parses text in pieces of n bytes.
func read(text string, n int) (events []event, err error) {
	var p parser
	for len(text) > 0 && err == nil {
		piece := text[:min(n, len(text))]
		text = text[len(piece):]
		err = p.feed([]byte(piece), func(e event) error { events = append(events, e); return nil })
	}
	return events, err
}

func TestParse(t *testing.T) {
	const message = "message"
	for name, test := range map[string]struct {
		text string
		want []event
	}{
		"data":                    {"data: a\n\n", []event{{name: message, data: "a"}}},
		"no space":                {"data:a\n\ndata:  b\n\n", []event{{name: message, data: "a"}, {name: message, data: " b"}}},
		"lines":                   {"data: a\ndata\ndata: b\n\n", []event{{name: message, data: "a\n\nb"}}},
		"line ends":               {"data: a\r\n\r\ndata: b\r\rdata: c\n\r\n", []event{{name: message, data: "a"}, {name: message, data: "b"}, {name: message, data: "c"}}},
		"name, id":                {"event: done\nid: 7\ndata: x\n\ndata: y\n\n", []event{{id: "7", name: "done", data: "x"}, {id: "7", name: message, data: "y"}}},
		"id that is taken away":   {"id: 7\ndata: x\n\nid\ndata: y\n\n", []event{{id: "7", name: message, data: "x"}, {name: message, data: "y"}}},
		"id with a NUL":           {"id: 7\ndata: x\n\nid: a\x00b\ndata: y\n\n", []event{{id: "7", name: message, data: "x"}, {id: "7", name: message, data: "y"}}},
		"comment":                 {": hello\n\n:\ndata: x\n\n", []event{{name: message, data: "x"}}},
		"unknown field":           {"colour: red\ndata: x\n\n", []event{{name: message, data: "x"}}},
		"no data, no event":       {"event: done\n\ndata: x\n\n", []event{{name: message, data: "x"}}},
		"empty data is an event":  {"data\n\n", []event{{name: message}}},
		"half an event":           {"data: x\n\ndata: y\n", []event{{name: message, data: "x"}}},
		"retry":                   {"retry: 1500\ndata: x\n\nretry: soon\nretry: -1\ndata: y\n\n", []event{{name: message, data: "x", retry: 1500 * time.Millisecond}, {name: message, data: "y", retry: 1500 * time.Millisecond}}},
		"byte order mark":         {"\uFEFFdata: x\n\n", []event{{name: message, data: "x"}}},
		"mark that is not at the": {"data: x\n\n\uFEFFdata: y\n\n", []event{{name: message, data: "x"}}},
		"colons":                  {"data: a: b:c\n\n", []event{{name: message, data: "a: b:c"}}},
	} {
		for n := 1; n <= len(test.text); n++ {
			if got, err := read(test.text, n); !slices.Equal(got, test.want) || err != nil {
				t.Errorf("%s in pieces of %d: %+v, %v, want %+v", name, n, got, err, test.want)
			}
		}
	}
}

func TestParseIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"a line of more":   "data: " + strings.Repeat("x", maxLineBytes+1),
		"an event of more": strings.Repeat("data: "+strings.Repeat("x", maxLineBytes-10)+"\n", 6),
		"an id of more":    "id: " + strings.Repeat("x", maxIDBytes+1) + "\n",
	} {
		if _, err := read(text, 32<<10); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("feed() = %v, want %s", err, name)
		}
	}
}

// However a stream is cut, the events are the same, and what is kept is bounded.
func FuzzParse(f *testing.F) {
	f.Add("\uFEFFdata: a\r\nid: 1\r\n\r\nevent: x\ndata\n\nretry: 7\r\r", uint8(1))
	f.Add("data: a\n\n: ping\n\ndata: b\nid: \x00\n\n", uint8(3))
	f.Fuzz(func(t *testing.T, text string, n uint8) {
		whole, err := read(text, max(1, len(text)))
		pieces, errPieces := read(text, int(n)+1)
		if fmt.Sprint(err) != fmt.Sprint(errPieces) || !slices.Equal(whole, pieces) {
			t.Fatalf("whole: %+v, %v; in pieces: %+v, %v", whole, err, pieces, errPieces)
		}
		for _, e := range whole {
			if e.name == "" || len(e.id) > maxIDBytes || len(e.data) > maxEventBytes || strings.ContainsAny(e.id, "\r\n\x00") || e.retry < 0 {
				t.Fatalf("event = %+v", e)
			}
		}
	})
}

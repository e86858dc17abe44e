package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/runnel-project/runnel"
)

// maxCapture bounds the output of one stream in an object of JSON.
const maxCapture = 16 << 20

// capture collects output for an object of JSON.
type capture struct {
	stdout, stderr captured
}

func (c *capture) of(s runnel.Stream) io.Writer {
	if s == runnel.Stderr {
		return &c.stderr
	}
	return &c.stdout
}

type captured struct {
	data []byte
	cut  int64
}

func (c *captured) Write(p []byte) (int, error) {
	room := min(len(p), maxCapture-len(c.data))
	c.data = append(c.data, p[:room]...)
	c.cut += int64(len(p) - room)
	return len(p), nil
}

// report is a result as --json prints it: what is stored, less the bytes of the tail, and the output if it was followed.
type report struct {
	runnel.Result
	Tail any `json:"tail,omitempty"` // hides the result's: it is output, and stands below whole

	Stdout       *string `json:"stdout,omitempty"`
	Stderr       *string `json:"stderr,omitempty"`
	StdoutBase64 string  `json:"stdout_base64,omitempty"` // of output that is no text
	StderrBase64 string  `json:"stderr_base64,omitempty"`
	// OutputLeftOut counts bytes that were too many for an object.
	OutputLeftOut int64 `json:"output_left_out,omitempty"`
}

func reportOf(r runnel.Result, c *capture) report {
	rep := report{Result: r}
	if c != nil {
		rep.Stdout, rep.StdoutBase64 = c.stdout.text()
		rep.Stderr, rep.StderrBase64 = c.stderr.text()
		rep.OutputLeftOut = c.stdout.cut + c.stderr.cut
	}
	return rep
}

func (c *captured) text() (text *string, b64 string) {
	if !utf8.Valid(c.data) {
		return nil, base64.StdEncoding.EncodeToString(c.data)
	}
	s := string(c.data)
	return &s, ""
}

// ago writes how long ago t was, as short as can be.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(now.Sub(t))
}

func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

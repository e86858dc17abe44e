package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/runnel-project/runnel/internal/contracts"
)

// maxDocumentBytes bounds an answer that is read as JSON.
const maxDocumentBytes = 8 << 20

// Read returns the body of an answer that is to be read as a document. One beyond 8 MiB is an error.
func Read(response *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocumentBytes+1))
	if err == nil && len(body) > maxDocumentBytes {
		err = fmt.Errorf("the answer is more than %d bytes", maxDocumentBytes)
	}
	return body, err
}

// Beginning returns what an error shows of a body (E29).
func Beginning(body []byte) string { return string(body[:min(len(body), 200)]) }

// ParseJSON reads one document; numbers stay as they are written.
func ParseJSON(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more after the document")
	}
	return v, nil
}

// Lookup returns the text, number or boolean that a path leads to, as text; ok says that there is one.
func Lookup(v any, path contracts.JSONPath) (text string, ok bool) {
	for _, name := range path {
		switch at := v.(type) {
		case map[string]any:
			if v, ok = at[name]; !ok {
				return "", false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) || name != strconv.Itoa(i) {
				return "", false
			}
			v = at[i]
		default:
			return "", false
		}
	}
	switch at := v.(type) {
	case string:
		return at, true
	case json.Number:
		return at.String(), true
	case bool:
		return strconv.FormatBool(at), true
	}
	return "", false
}

// maxRunIDBytes bounds what an answer may put into a URL.
const maxRunIDBytes = 1024

// FillTemplate puts the id of a run at the other side into a template, escaped so that it is one element of a path or one
// value of a query whatever is in it.
func FillTemplate(template, runID string) (*url.URL, error) {
	switch {
	case !strings.Contains(template, contracts.RunIDPlaceholder):
		return url.Parse(template)
	case runID == "" || len(runID) > maxRunIDBytes:
		return nil, fmt.Errorf("the id of the run has %d bytes, not within 1 to %d", len(runID), maxRunIDBytes)
	case runID == "." || runID == "..":
		return nil, fmt.Errorf("the id of the run is %q", runID)
	}
	escaped := strings.ReplaceAll(url.QueryEscape(runID), "+", "%20")
	return url.Parse(strings.ReplaceAll(template, contracts.RunIDPlaceholder, escaped))
}

package runnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/runnel-project/runnel/internal/artifacts"
)

// Artifacts returns the files that an invocation left, by path; none is an empty list. One that has not ended has none yet:
// ErrNotEnded. One that is unknown, or whose result or files are not kept any more, is ErrNotFound.
func (c *Client) Artifacts(ctx context.Context, id string) ([]Artifact, error) {
	r, err := c.ended(ctx, id)
	if err != nil {
		return nil, err
	}
	all, err := c.files.List(ctx, r)
	return all, public(err)
}

// Download writes the files that an invocation left below dir, which is made if it is missing, and returns those that
// it wrote. A pattern is a path, a directory, or a glob (`*` within an element, `**` across them); none is all,
// and one that matches nothing is ErrNotFound. Content is verified, and nothing is written outside of dir: what is not
// what was stored is ErrCorrupt. Files that are there already are replaced. Beyond that its errors are those of Artifacts.
func (c *Client) Download(ctx context.Context, id, dir string, patterns ...string) ([]Artifact, error) {
	r, err := c.ended(ctx, id)
	if err != nil {
		return nil, err
	}
	written, err := c.files.Unpack(ctx, r, dir, patterns...)
	return written, public(err)
}

// OpenArtifact opens one file that an invocation left. Its content is verified as it is read; the last Read says if it
// was not what was stored (ErrCorrupt). The caller closes it. A path that is not among them is ErrNotFound.
func (c *Client) OpenArtifact(ctx context.Context, id, path string) (io.ReadCloser, error) {
	all, err := c.Artifacts(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Path == strings.TrimPrefix(path, "./") {
			return publicly(c.files.Open(ctx, a))
		}
	}
	return nil, fmt.Errorf("artifact %q of %s: %w", path, id, ErrNotFound)
}

// ended returns the result of id.
func (c *Client) ended(ctx context.Context, id string) (Result, error) {
	info, err := c.Get(ctx, id)
	if err != nil {
		return Result{}, err
	}
	if info.Result == nil {
		return Result{}, fmt.Errorf("%s is %s: %w", id, info.Status, ErrNotEnded)
	}
	return *info.Result, nil
}

// publicly has the errors of opening and of reading be those that callers of this package know.
func publicly(r io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, public(err)
	}
	return publicReader{r}, nil
}

type publicReader struct{ io.ReadCloser }

func (r publicReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = public(err)
	}
	return n, err
}

// public adds to an error of the object stores the one that callers of this package know.
func public(err error) error {
	for _, e := range [...]struct{ theirs, ours error }{
		{artifacts.ErrNoMatch, ErrNotFound},
		{artifacts.ErrNoBucket, ErrNotFound},
		{artifacts.ErrNoBlob, ErrNotFound},
		{artifacts.ErrFull, ErrFull},
		{artifacts.ErrDenied, ErrDenied},
		{artifacts.ErrNoAnswer, ErrUnknown},
		{artifacts.ErrCorrupt, ErrCorrupt},
	} {
		if errors.Is(err, e.theirs) {
			return &publicError{error: err, is: e.ours}
		}
	}
	return err
}

// publicError reads as the error it wraps, and is a public one too.
type publicError struct {
	error
	is error
}

func (e *publicError) Unwrap() []error { return []error{e.error, e.is} }

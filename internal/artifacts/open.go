package artifacts

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Open reads one artifact. The reader ends with io.EOF only if size and digest
// are those of a, else with ErrCorrupt: until then what was read may be wrong. ctx is the reader's until it is
// closed; it holds a few MiB at most.
func (s *Store) Open(ctx context.Context, a contracts.Artifact) (io.ReadCloser, error) {
	if problem := check(a); problem != "" {
		return nil, fmt.Errorf("open artifact %s: %w: %s", quote(nameOf(a)), ErrManifest, problem)
	}
	metas, err := s.within(ctx, []contracts.Artifact{a})
	if err != nil {
		return nil, fmt.Errorf("open artifact %s: %w", quote(nameOf(a)), err)
	}
	c := newCursor(ctx, s.artifacts, metas, []contracts.Artifact{a})
	return &file{cursor: c, a: a, verifier: s.artifacts.verifier(a.SHA256)}, nil
}

// cursor reads stretches of blobs, one after the other. Those of one blob in rising order cost one reading of it.
type cursor struct {
	ctx   context.Context // of whoever reads, who closes the cursor before it ends
	b     *bucket
	metas map[string]*meta
	ends  map[string]int64 // how far each blob will be read
	blob  string
	at    int64
	now   *stretch
}

func newCursor(ctx context.Context, b *bucket, metas map[string]*meta, artifacts []contracts.Artifact) *cursor {
	c := &cursor{ctx: ctx, b: b, metas: metas, ends: make(map[string]int64, len(metas))}
	for _, a := range artifacts {
		for _, seg := range a.Segments {
			c.ends[seg.Blob] = max(c.ends[seg.Blob], seg.Offset+seg.Length)
		}
	}
	return c
}

// seek makes the next byte read that at offset of a blob.
func (c *cursor) seek(blob string, offset int64) error {
	if c.now == nil || c.blob != blob || offset < c.at {
		c.Close()
		c.blob, c.at = blob, offset
		c.now = c.b.read(c.ctx, c.metas[blob], offset, c.ends[blob]-offset)
		return nil
	}
	_, err := io.CopyN(io.Discard, c, offset-c.at)
	return err
}

func (c *cursor) Read(p []byte) (int, error) {
	n, err := c.now.Read(p)
	c.at += int64(n)
	return n, err
}

// Close ends the reading of the blob at hand.
func (c *cursor) Close() error {
	if c.now != nil {
		c.now.Close()
		c.now = nil
	}
	return nil
}

// verifier checks what passes through it against a digest.
type verifier struct {
	sum    hash.Hash
	sha256 string
	again  string
}

func (b *bucket) verifier(sha256sum string) verifier {
	return verifier{sum: sha256.New(), sha256: sha256sum, again: b.again}
}

func (v *verifier) verify() error {
	if got := hexOf([32]byte(v.sum.Sum(nil))); got != v.sha256 {
		return fmt.Errorf("%w: its SHA-256 is %s, and should be %s: %s", ErrCorrupt, got, v.sha256, v.again)
	}
	return io.EOF
}

// file reads an artifact.
type file struct {
	*cursor
	verifier
	a    contracts.Artifact
	next int   // segment
	left int64 // bytes of the segment before next
	err  error
}

func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 || f.err != nil {
		return 0, f.err
	}
	if f.left == 0 && f.next == len(f.a.Segments) {
		f.fail(f.verify())
		return 0, f.err
	}
	if f.left == 0 {
		seg := f.a.Segments[f.next]
		f.next, f.left = f.next+1, seg.Length
		if f.fail(f.seek(seg.Blob, seg.Offset)); f.err != nil {
			return 0, f.err
		}
	}
	n, err := f.cursor.Read(p[:min(int64(len(p)), f.left)])
	f.sum.Write(p[:n])
	f.left -= int64(n)
	f.fail(err)
	return n, f.err
}

// fail keeps an error, which ends the reading.
func (f *file) fail(err error) {
	if err == io.EOF && f.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read artifact %s: %w", quote(nameOf(f.a)), err)
	}
	f.err = err
}

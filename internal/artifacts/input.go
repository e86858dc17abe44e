package artifacts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/runnel-project/runnel/internal/contracts"
)

// memoryBytes is how much of an input is kept in memory until its digest is known.
const memoryBytes = 1 << 20

// PutInput stores what r has left, as one blob of the tenant's input bucket, and
// returns how an invocation names it; an empty input is not stored. The blob's name is known only at the end of
// the content: up to 1 MiB waits in memory, a reader that can seek is read twice
// and must have the same content both times (ErrChanged), anything else goes
// through a temporary file, which only this user can read.
func (s *Store) PutInput(ctx context.Context, r io.Reader) (contracts.Input, error) {
	in, err := s.putInput(ctx, r)
	if err != nil {
		return contracts.Input{}, fmt.Errorf("store input: %w", err)
	}
	return in, nil
}

func (s *Store) putInput(ctx context.Context, r io.Reader) (contracts.Input, error) {
	var seeker io.Seeker
	var start int64
	if sk, ok := r.(io.Seeker); ok {
		var err error
		if start, err = sk.Seek(0, io.SeekCurrent); err == nil { // a pipe is an *os.File, and cannot
			seeker = sk
		}
	}
	in := &reader{r: untilDone{ctx, r}}
	var head bytes.Buffer
	sum := sha256.New()
	size, err := io.CopyN(io.MultiWriter(&head, sum), in, memoryBytes+1)
	switch {
	case size == 0 && err == io.EOF:
		return contracts.Input{}, nil
	case err == io.EOF:
		return s.storeInput(ctx, sum, size, func() (io.Reader, error) { return bytes.NewReader(head.Bytes()), nil })
	case err != nil:
		return contracts.Input{}, fmt.Errorf("read: %w", err)
	}
	if seeker != nil {
		rest, err := io.Copy(sum, in)
		if err != nil {
			return contracts.Input{}, fmt.Errorf("read: %w", err)
		}
		return s.storeInput(ctx, sum, size+rest, func() (io.Reader, error) {
			if _, err := seeker.Seek(start, io.SeekStart); err != nil {
				return nil, fmt.Errorf("read again: %w", err)
			}
			return &again{r: r, left: size + rest, want: [32]byte(sum.Sum(nil)), sum: sha256.New()}, nil
		})
	}
	spool, err := os.CreateTemp("", "runnel-input-*") // 0600
	if err != nil {
		return contracts.Input{}, err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	_, err = spool.Write(head.Bytes())
	if err == nil {
		var rest int64
		rest, err = io.Copy(io.MultiWriter(spool, sum), in)
		size += rest
	}
	if in.err != nil {
		return contracts.Input{}, fmt.Errorf("read: %w", in.err)
	}
	if err != nil {
		return contracts.Input{}, fmt.Errorf("keep it in a temporary file until it is sent: %w: make room there, or set TMPDIR to another directory", err)
	}
	return s.storeInput(ctx, sum, size, func() (io.Reader, error) {
		_, err := spool.Seek(0, io.SeekStart)
		return spool, err
	})
}

func (s *Store) storeInput(ctx context.Context, hashed hash.Hash, size int64, open func() (io.Reader, error)) (contracts.Input, error) {
	done, err := takeSlot(ctx)
	if err != nil {
		return contracts.Input{}, err
	}
	defer done()
	if err := s.inputs.prepare(ctx); err != nil {
		return contracts.Input{}, err
	}
	sum := [32]byte(hashed.Sum(nil))
	blob := s.inputs.blobName(sum)
	if _, err := s.inputs.put(ctx, blob, sum, size, true, open); err != nil {
		return contracts.Input{}, err
	}
	return contracts.Input{Blob: blob, Size: size, SHA256: hexOf(sum)}, nil
}

// OpenInput reads an input, whichever way it travelled. A blob's reader ends with io.EOF only if size and
// digest are those of in, else with ErrCorrupt. ctx is the reader's until it is closed.
func (s *Store) OpenInput(ctx context.Context, in contracts.Input) (io.ReadCloser, error) {
	if in.Blob == "" {
		return io.NopCloser(bytes.NewReader(in.Data)), nil
	}
	if !contracts.ValidBlob(in.Blob) || sumOf(in.Blob) != sumOf(in.SHA256) || in.Size < 0 {
		return nil, fmt.Errorf("open input: %w: blob %s, size %d and SHA-256 %s do not belong together", ErrManifest, quote(in.Blob), in.Size, quote(in.SHA256))
	}
	found, err := s.inputs.find(ctx, []string{in.Blob})
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	m := found[in.Blob]
	if m.Size != in.Size {
		return nil, fmt.Errorf("open input: blob %s: %w: it is %d bytes, and should be %d: %s", in.Blob, ErrCorrupt, m.Size, in.Size, s.inputs.again)
	}
	return &input{stretch: s.inputs.read(ctx, m, 0, m.Size), verifier: s.inputs.verifier(in.SHA256)}, nil
}

// input reads a blob of the input bucket.
type input struct {
	*stretch
	verifier
	err error
}

func (i *input) Read(p []byte) (int, error) {
	if i.err != nil {
		return 0, i.err
	}
	n, err := i.stretch.Read(p)
	i.sum.Write(p[:n])
	if err == io.EOF {
		err = i.verify()
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read input: %w", err)
	}
	i.err = err
	return n, err
}

// again reads what was hashed before. If it is not the same any more, its last bytes are an error.
type again struct {
	r    io.Reader
	left int64
	want [32]byte
	sum  hash.Hash
}

func (a *again) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.left)])
	a.sum.Write(p[:n])
	a.left -= int64(n)
	if err == io.EOF && a.left > 0 || a.left == 0 && [32]byte(a.sum.Sum(nil)) != a.want {
		return 0, fmt.Errorf("the input %w: give it again when nobody writes to it", ErrChanged)
	}
	return n, err
}

// untilDone ends with its context, as far as its reader lets it.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

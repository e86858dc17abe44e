package artifacts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/runnel-project/runnel/internal/contracts"
)

// errGrown ends the reading of a file that has become larger than it may be.
var errGrown = errors.New("it grew")

// addLarge reads a file of about size bytes to its end, or to one byte beyond most, and stores it as one blob. It returns false if there is more.
func addLarge(up *uploader, a *contracts.Artifact, file *reader, size, most int64) (bool, error) {
	if err := up.failure(); err != nil {
		return false, err
	}
	part, err := takePart(up.ctx)
	if err != nil {
		return false, err
	}
	n, err := io.ReadFull(io.LimitReader(file, most+1), part[:])
	if ended := err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !ended || int64(n) > most {
		givePart(part)
		return false, err
	} else if ended {
		sum := sha256.Sum256(part[:n])
		a.Size, a.SHA256 = int64(n), hexOf(sum)
		if n == 0 {
			givePart(part)
			return true, nil
		}
		a.Segments = []contracts.Segment{{Length: int64(n)}}
		up.send(part, n, &sum).segments = []*contracts.Segment{&a.Segments[0]}
		return true, nil
	}
	defer givePart(part)
	l := &large{b: up.b, file: file, head: part, about: size, most: most}
	blob, err := l.store(up.ctx)
	if errors.Is(err, errGrown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if l.stored {
		up.addStored(l.size)
	}
	a.Size, a.SHA256 = l.size, hexOf(l.sum)
	a.Segments = []contracts.Segment{{Blob: blob, Length: l.size}}
	return true, nil
}

// large is a file that is stored in one pass: hashing takes as long as storing. Its name shows at the end, and so does
// whether it was there already; where that is likely, it is hashed first.
type large struct {
	b    *bucket
	file *reader // at the end of its head
	head *[PartBytes]byte
	// about is how large it was when it was opened, most how large it may be.
	about, most int64

	sum    [32]byte
	size   int64
	stored bool // it was not there already
}

func (l *large) store(ctx context.Context) (blob string, err error) {
	like := sketch{l.about, sha256.Sum256(l.head[:sketchBytes])}
	looked := l.b.large.has(like)
	if looked {
		if blob, err = l.look(ctx); blob != "" || err != nil {
			return blob, err
		}
	}
	blob, l.sum, l.size, l.stored, err = l.b.putOnce(ctx, l.content)
	if errors.Is(err, ErrFull) && !looked { // it needs no room if it is there
		if blob, looking := l.look(ctx); blob != "" && looking == nil {
			return blob, nil
		}
	}
	if err == nil {
		l.b.large.add(like)
	}
	return blob, err
}

// look hashes the file, and returns the blob that it is in the store already; "" is none.
func (l *large) look(ctx context.Context) (blob string, err error) {
	content, err := l.content()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	if l.size, err = io.Copy(hash, untilDone{ctx, content}); err != nil {
		return "", err
	}
	l.sum = [32]byte(hash.Sum(nil))
	blob = l.b.blobName(l.sum)
	there, err := l.b.current(ctx, blob)
	if err != nil && !errors.Is(err, ErrNoBucket) {
		return "", fmt.Errorf("look for blob %s: %w", blob, err)
	}
	if there != nil && there.is(blob, l.sum) && there.Size == l.size {
		return blob, nil
	}
	return "", nil
}

// content returns the file from its beginning.
func (l *large) content() (io.Reader, error) {
	var all io.Reader = l.file
	if l.head != nil {
		all = io.MultiReader(bytes.NewReader(l.head[:]), l.file)
		l.head = nil
	} else if err := l.file.rewind(); err != nil {
		return nil, err
	}
	return &bounded{all, l.most}, nil
}

// bounded fails with errGrown beyond its bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errGrown
	}
	return n, err
}

const (
	// sketchBytes is how much of a file's beginning its sketch knows.
	sketchBytes = 1 << 20
	// maxSketches bounds what is remembered, in 256 KiB.
	maxSketches = 4096
)

// sketch is what is known of a large file before it is read. Files that have it in common are most likely equal.
type sketch struct {
	size int64
	head [32]byte
}

// sketches remembers the large files that were stored, so that what is left again and again is not sent each time only to be taken back.
type sketches struct {
	mu  sync.Mutex
	set map[sketch]struct{}
}

func (s *sketches) has(like sketch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.set[like]
	return ok
}

func (s *sketches) add(like sketch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil || len(s.set) >= maxSketches {
		s.set = make(map[sketch]struct{})
	}
	s.set[like] = struct{}{}
}

package artifacts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// PartBytes is the most that is held in memory before it is stored: a pack, or a file of its own. What is larger
	// is stored while it is read.
	PartBytes = 8 << 20
	// smallBytes is the largest file that goes into a pack. Larger ones are blobs of their own, which
	// are found again when all around them changed.
	smallBytes = 1 << 20
	// maxParts is how many parts a process holds in memory, whatever it has under way: 32 MiB.
	maxParts = 4
)

// slots bounds how many parts and inputs a process has on their way at once, and buffers
// keeps their memory. Both are the process's, as its memory and its connection's bandwidth are.
var (
	slots   = make(chan struct{}, maxParts)
	buffers = sync.Pool{New: func() any { return new([PartBytes]byte) }}
)

// takeSlot waits until one more part may be on its way; done gives the slot back.
func takeSlot(ctx context.Context) (done func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %d other uploads: %w", maxParts, context.Cause(ctx))
	}
}

func takePart(ctx context.Context) (*[PartBytes]byte, error) {
	if _, err := takeSlot(ctx); err != nil {
		return nil, err
	}
	return buffers.Get().(*[PartBytes]byte), nil
}

func givePart(part *[PartBytes]byte) {
	buffers.Put(part)
	<-slots
}

// uploader stores parts while the next ones are filled. Hashing is what it all takes: a
// file's digest is computed where it is read, that of its parts here, on another core.
//
// Whoever fills a part holds no other one that is not on its way, so that
// those who wait for a buffer wait for an upload, and never for each other.
type uploader struct {
	ctx   context.Context // of one call of Collect, which ends before it
	b     *bucket
	queue chan upload
	wg    sync.WaitGroup

	mu     sync.Mutex
	err    error
	stored int64 // bytes that were not there already
	fresh  bool  // the part before was not there: this one will not be either
	named  []*blobRef
}

// uploads is how many parts of one Collect are on their way at once: while one waits
// for its last confirmations, the next one is hashed.
const uploads = maxParts - 1

// blobRef becomes the name of a blob by the time the uploader has ended.
type blobRef struct {
	name     string
	segments []*contracts.Segment
}

type upload struct {
	part *[PartBytes]byte
	size int
	sum  *[32]byte // nil: to be computed
	ref  *blobRef
}

func newUploader(ctx context.Context, b *bucket) *uploader {
	u := &uploader{ctx: ctx, b: b, queue: make(chan upload)}
	for range uploads {
		u.wg.Go(func() {
			for up := range u.queue {
				if u.failure() == nil {
					u.store(up)
				}
				givePart(up.part)
			}
		})
	}
	return u
}

func (u *uploader) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

func (u *uploader) store(up upload) {
	data := up.part[:up.size]
	if up.sum == nil {
		sum := sha256.Sum256(data)
		up.sum = &sum
	}
	up.ref.name = u.b.blobName(*up.sum)
	u.mu.Lock()
	look := !u.fresh
	u.mu.Unlock()
	stored, err := u.b.put(u.ctx, up.ref.name, *up.sum, int64(up.size), look, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
	u.fresh = stored
	if stored {
		u.stored += int64(up.size)
	}
}

// addStored counts what was stored by another way.
func (u *uploader) addStored(bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stored += bytes
}

// send has the first size bytes of part stored, and the part given back. sum is their digest, if it is known.
func (u *uploader) send(part *[PartBytes]byte, size int, sum *[32]byte) *blobRef {
	ref := new(blobRef)
	u.named = append(u.named, ref)
	u.queue <- upload{part, size, sum, ref}
	return ref
}

// end waits until everything is stored, and names the blobs where they are named.
func (u *uploader) end() error {
	close(u.queue)
	u.wg.Wait()
	for _, ref := range u.named {
		for _, seg := range ref.segments {
			seg.Blob = ref.name
		}
	}
	return u.err
}

// pack puts small files one behind the other into parts. Equal ones lie there once.
type pack struct {
	up    *uploader
	part  *[PartBytes]byte // nil between two packs
	used  int
	files []*contracts.Segment // in this part, which has no name yet
	spots map[[32]byte]spot
}

// spot is where a content is. Its ref is nil in the part that is being filled.
type spot struct {
	ref    *blobRef
	offset int
}

func newPack(up *uploader) *pack { return &pack{up: up, spots: make(map[[32]byte]spot)} }

// add reads a small file of about size bytes to its end. It returns false, and
// keeps nothing of it, if there is more of it than a pack takes.
func (p *pack) add(a *contracts.Artifact, file io.Reader, size int64) (bool, error) {
	if size > smallBytes {
		return false, nil
	}
	if p.part != nil && int64(PartBytes-p.used) <= size { // one byte more, to see the end of the file
		p.flush()
	}
	if p.part == nil {
		var err error
		if p.part, err = takePart(p.up.ctx); err != nil {
			return false, err
		}
		p.used = 0
	}
	room := p.part[p.used:min(p.used+smallBytes+1, PartBytes)]
	n, err := io.ReadFull(file, room)
	switch err {
	case nil: // it grew, beyond what is small or what there is room for
		return false, nil
	case io.EOF, io.ErrUnexpectedEOF:
	default:
		return false, err
	}
	sum := sha256.Sum256(room[:n])
	a.Size, a.SHA256 = int64(n), hexOf(sum)
	if n == 0 {
		return true, nil
	}
	at, there := p.spots[sum]
	if !there {
		at = spot{offset: p.used}
		p.spots[sum] = at
		p.used += n
	}
	a.Segments = []contracts.Segment{{Offset: int64(at.offset), Length: int64(n)}}
	if at.ref != nil {
		at.ref.segments = append(at.ref.segments, &a.Segments[0])
	} else {
		p.files = append(p.files, &a.Segments[0])
	}
	return true, nil
}

// flush sends the part on its way.
func (p *pack) flush() {
	if p.part == nil {
		return
	}
	part, used := p.part, p.used
	p.part = nil
	if used == 0 {
		givePart(part)
		return
	}
	ref := p.up.send(part, used, nil)
	ref.segments, p.files = p.files, nil
	for sum, at := range p.spots {
		if at.ref == nil {
			p.spots[sum] = spot{ref, at.offset}
		}
	}
}

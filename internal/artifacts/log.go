package artifacts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	// logPartBytes is the size of a log's parts, and logParts how many of them one run holds in memory: 4 MiB. Two
	// streams fill one part each, so that two are on their way at least when a stream has to wait.
	logPartBytes = 1 << 20
	logParts     = 4
	logMode      = 0o644
)

var logBuffers = sync.Pool{New: func() any { return new([logPartBytes]byte) }}

// Try calls store until it works, or trying again is no use. Its error is the log's.
type Try func(ctx context.Context, store func(context.Context) error) error

// Log keeps all that a run writes, in parts that are stored as they fill. Whoever writes waits while
// too many are on their way. One that cannot be stored fails the log, and not the run: Seal says so.
type Log struct {
	ctx    context.Context // of the log: ended by Close, or with the context it was opened with
	cancel context.CancelFunc
	b      *bucket
	try    Try
	most   int64 // bytes of all streams together
	room   chan struct{}
	parts  sync.WaitGroup
	keeper sync.WaitGroup
	once   sync.Once // starts the keeper

	mu      sync.Mutex
	err     error
	size    int64
	over    bool // more than most was written: what is there is no whole log
	streams []*logStream
}

// logStream is one artifact of a log.
type logStream struct {
	l    *Log
	path string

	mu   sync.Mutex // held by who writes
	sum  hash.Hash
	size int64
	part *[logPartBytes]byte
	used int
	done bool                 // sealed or closed
	segs []*contracts.Segment // and Log.mu
}

// OpenLog returns an empty log. Its parts are stored with try until ctx ends. The caller closes it.
func (s *Store) OpenLog(ctx context.Context, try Try) *Log {
	l := &Log{b: s.artifacts, try: try, most: s.cfg.MaxRunBytes, room: make(chan struct{}, logParts)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	return l
}

// Stream returns the writer of the artifact that will have this path; the same path is the same one. It never
// fails: who writes is not to be ended because a log cannot be kept.
func (l *Log) Stream(path string) io.Writer {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s.path == path {
			return s
		}
	}
	s := &logStream{l: l, path: path, sum: sha256.New()}
	l.streams = append(l.streams, s)
	return s
}

func (s *logStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || !s.l.take(int64(len(p))) {
		return len(p), nil
	}
	s.sum.Write(p)
	s.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		if s.part == nil {
			select {
			case s.l.room <- struct{}{}:
			case <-s.l.ctx.Done():
				s.l.fail(context.Cause(s.l.ctx))
				return len(p), nil
			}
			s.part, s.used = logBuffers.Get().(*[logPartBytes]byte), 0
		}
		n := copy(s.part[s.used:], rest)
		s.used += n
		rest = rest[n:]
		if s.used == logPartBytes {
			s.flush()
		}
	}
	return len(p), nil
}

// take reports whether n more bytes are to be kept.
func (l *Log) take(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size += n
	l.over = l.over || l.size > l.most
	return l.err == nil && !l.over
}

func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// flush sends what is unsent on its way. s.mu is held.
func (s *logStream) flush() {
	part, used := s.part, s.used
	s.part, s.used = nil, 0
	if part == nil {
		return
	}
	l := s.l
	seg := &contracts.Segment{Length: int64(used)}
	l.mu.Lock()
	s.segs = append(s.segs, seg)
	l.mu.Unlock()
	l.parts.Go(func() {
		defer func() {
			logBuffers.Put(part)
			<-l.room
		}()
		if l.failure() != nil {
			return
		}
		blob, err := l.store(part[:used])
		if err != nil {
			l.fail(fmt.Errorf("log %s: %w", quote(s.path), err))
			return
		}
		l.mu.Lock()
		seg.Blob = blob
		l.mu.Unlock()
		l.once.Do(func() { l.keeper.Go(l.keep) })
	})
}

// end sends the last part on its way, and takes no more.
func (s *logStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.flush()
}

// store stores one part.
func (l *Log) store(data []byte) (blob string, err error) {
	sum := sha256.Sum256(data)
	look := false // it is most likely new
	err = l.try(l.ctx, func(ctx context.Context) error {
		if err := l.b.prepare(ctx); err != nil {
			return err
		}
		blob = l.b.blobName(sum)
		_, err := l.b.put(ctx, blob, sum, int64(len(data)), look, func() (io.Reader, error) { return bytes.NewReader(data), nil })
		look = true
		return err
	})
	return blob, err
}

// keep stores parts again that were stored in an earlier epoch, while there still are some: a run
// may go on for longer than its parts would live. What goes wrong is seen again by Seal.
func (l *Log) keep() {
	l.b.mu.Lock()
	every := l.b.ttl / 8
	l.b.mu.Unlock()
	tick := time.NewTicker(max(every, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			_ = l.renew(l.ctx)
		}
	}
}

// renew stores again what an earlier epoch names. What the present one names lives for half the bucket's
// TTL from now on at least, as does content that is found to be there.
func (l *Log) renew(ctx context.Context) error {
	var segs []*contracts.Segment
	l.mu.Lock()
	for _, s := range l.streams {
		segs = append(segs, s.segs...)
	}
	l.mu.Unlock()
	for _, seg := range segs {
		l.mu.Lock()
		was := seg.Blob
		l.mu.Unlock()
		if was == "" || was == l.b.blobName(sumOf(was)) {
			continue
		}
		now, err := l.again(ctx, was)
		if err != nil {
			return err
		}
		l.mu.Lock()
		seg.Blob = now
		l.mu.Unlock()
	}
	return nil
}

// again stores the content of a blob under the name that it has now.
func (l *Log) again(ctx context.Context, blob string) (string, error) {
	select {
	case l.room <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	part := logBuffers.Get().(*[logPartBytes]byte)
	defer func() {
		logBuffers.Put(part)
		<-l.room
	}()
	found, err := l.b.find(ctx, []string{blob})
	if err != nil {
		return "", err
	}
	m := found[blob]
	data := part[:min(m.Size, logPartBytes)]
	content := l.b.read(ctx, m, 0, m.Size)
	defer content.Close()
	if _, err := io.ReadFull(content, data); err != nil {
		return "", fmt.Errorf("read blob %s: %w", blob, err)
	}
	sum := sumOf(blob)
	if sha256.Sum256(data) != sum {
		return "", fmt.Errorf("bucket %s: blob %s: %w: %s", l.b.name, blob, ErrCorrupt, l.b.again)
	}
	now := l.b.blobName(sum)
	_, err = l.b.put(ctx, now, sum, m.Size, true, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	return now, err
}

// Seal stores the rest, once nobody writes any more, and returns the artifacts, one for each stream.
// A log that is longer than a run may leave has none, and a warning.
func (l *Log) Seal(ctx context.Context) (kept []contracts.Artifact, warnings []string, err error) {
	l.mu.Lock()
	streams := l.streams
	l.mu.Unlock()
	for _, s := range streams {
		s.end()
	}
	stored := make(chan struct{})
	go func() {
		l.parts.Wait()
		close(stored)
	}()
	select {
	case <-stored:
	case <-ctx.Done():
		l.cancel()
		<-stored
		return nil, nil, context.Cause(ctx)
	}
	l.mu.Lock()
	err, over, size := l.err, l.over, l.size
	l.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if over {
		return nil, []string{fmt.Sprintf("the log is left out: it is %d bytes, and a run may leave %d", size, l.most)}, nil
	}
	var blobs []string
	err = l.try(ctx, func(ctx context.Context) error {
		if err := l.renew(ctx); err != nil {
			return err
		}
		// Hours may lie between a part and the result that names it: whoever deleted the bucket meanwhile is found out here.
		blobs = l.blobs()
		_, err := l.b.find(ctx, blobs)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("log: %w", err)
	}
	for _, s := range streams {
		a := contracts.Artifact{Path: s.path, Mode: logMode, Size: s.size, SHA256: hexOf([32]byte(s.sum.Sum(nil)))}
		l.mu.Lock()
		for _, seg := range s.segs {
			a.Segments = append(a.Segments, *seg)
		}
		l.mu.Unlock()
		kept = append(kept, a)
	}
	return kept, nil, nil
}

// blobs names the parts, each once.
func (l *Log) blobs() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		for _, seg := range s.segs {
			names = append(names, seg.Blob)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Close ends what is under way. What was stored and is named by nobody ages out.
func (l *Log) Close() {
	l.cancel()
	l.mu.Lock()
	streams := l.streams
	l.mu.Unlock()
	for _, s := range streams {
		s.end()
	}
	l.parts.Wait()
	l.keeper.Wait()
}

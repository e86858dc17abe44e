package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// batchBytes is what one request for chunks asks for. A reader holds about two batches.
	batchBytes = 2 << 20
	batchMost  = 64
	// metasAtOnce is how many blobs are looked up in one request; the server takes up to 1,024.
	metasAtOnce = 512
	// batchWait is how long a batch may stand still before the leader is asked for the next message.
	batchWait = 2 * time.Second
)

// find returns the metas of blobs, by name. Every one is there and can be read, or it is an error.
func (b *bucket) find(ctx context.Context, blobs []string) (map[string]*meta, error) {
	found := make(map[string]*meta, len(blobs))
	for rest := blobs; len(rest) > 0; {
		some := rest[:min(len(rest), metasAtOnce)]
		rest = rest[len(some):]
		if err := b.findSome(ctx, some, found); err != nil {
			return nil, err
		}
	}
	for _, blob := range blobs {
		m := found[blob]
		if m == nil {
			// A replica that lags does not have what the leader has.
			var err error
			if m, err = b.current(ctx, blob); err != nil {
				return nil, err
			}
		}
		if err := b.readable(blob, m); err != nil {
			return nil, err
		}
		found[blob] = m
	}
	return found, nil
}

// findSome adds to found what one replica has of the metas.
func (b *bucket) findSome(ctx context.Context, blobs []string, found map[string]*meta) error {
	subjects := make([]string, len(blobs))
	bySubject := make(map[string]string, len(blobs))
	for i, blob := range blobs {
		subjects[i] = b.metaSubject(blob)
		bySubject[subjects[i]] = blob
	}
	replies, err := b.listen(len(blobs))
	if err != nil {
		return err
	}
	defer replies.close()
	if err := replies.ask(map[string]any{"multi_last": subjects}); err != nil {
		return err
	}
	for {
		msg, err := replies.next(ctx)
		if msg == nil {
			return err
		}
		blob, ours := bySubject[msg.Header.Get("Nats-Subject")]
		if !ours {
			continue
		}
		seq, _ := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
		m, err := b.parseMeta(blob, msg.Data, seq)
		if err != nil {
			return err
		}
		found[blob] = m
	}
}

// replies are the answers to direct gets, which come in many messages.
type replies struct {
	b     *bucket
	sub   *nats.Subscription
	inbox string
	asked int
	msgs  chan *nats.Msg
}

// listen makes room for the answers to a request for most messages.
func (b *bucket) listen(most int) (*replies, error) {
	// Twice, for answers to a request that was given up may still come.
	r := &replies{b: b, inbox: b.nc.NewInbox(), msgs: make(chan *nats.Msg, 2*most+8)}
	var err error
	if r.sub, err = b.nc.ChanSubscribe(r.inbox+".*", r.msgs); err != nil {
		return nil, b.failed(context.Background(), "listen for answers", r.inbox+".*", err)
	}
	return r, nil
}

func (r *replies) close() {
	_ = r.sub.Unsubscribe() // fails on a closed connection only
}

// ask sends a request; answers to earlier ones are not heard any more.
func (r *replies) ask(query map[string]any) error {
	body, err := json.Marshal(query)
	if err != nil {
		return err
	}
	r.asked++
	subject := r.b.api + "DIRECT.GET." + r.b.stream
	if err := r.b.nc.PublishRequest(subject, r.inbox+"."+strconv.Itoa(r.asked), body); err != nil {
		return r.b.failed(context.Background(), "read", subject, err)
	}
	return nil
}

// next returns the next message of the answer. It is nil after the last one, and also
// if the answer breaks off or says that there is none: a replica proves nothing by that.
func (r *replies) next(ctx context.Context) (*nats.Msg, error) {
	late := time.NewTimer(batchWait)
	defer late.Stop()
	for {
		select {
		case msg := <-r.msgs:
			if msg.Subject != r.inbox+"."+strconv.Itoa(r.asked) {
				continue
			}
			if msg.Header.Get("Status") != "" { // 204 the end, 404 nothing, 408 and 413 no, 503 nobody
				return nil, nil
			}
			return msg, nil
		case <-late.C:
			return nil, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("read from bucket %s: %w", r.b.name, context.Cause(ctx))
		}
	}
}

// stretch reads bytes of a blob, chunk by chunk, some ahead of its reader.
type stretch struct {
	b      *bucket
	m      *meta
	left   int64 // bytes that the reader has not had
	chunk  []byte
	ahead  chan []byte
	cancel context.CancelFunc
	wg     sync.WaitGroup
	err    error // why ahead was closed; read after that only
}

// read returns length bytes of a blob from offset on. m is its meta; the stretch must be within it.
func (b *bucket) read(ctx context.Context, m *meta, offset, length int64) *stretch {
	ctx, cancel := context.WithCancel(ctx)
	s := &stretch{b: b, m: m, left: length, ahead: make(chan []byte, batchBytes/chunkBytes), cancel: cancel}
	s.wg.Go(func() {
		defer close(s.ahead)
		s.err = b.fetch(ctx, m, offset, length, s.ahead)
	})
	return s
}

// Read ends with io.EOF after exactly the bytes that were asked for.
func (s *stretch) Read(p []byte) (int, error) {
	for len(s.chunk) == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		chunk, open := <-s.ahead
		if !open {
			return 0, s.failed()
		}
		s.chunk = chunk
	}
	n := copy(p, s.chunk)
	s.chunk = s.chunk[n:]
	s.left -= int64(n)
	return n, nil
}

// failed says why there is no more, and what to do.
func (s *stretch) failed() error {
	err := fmt.Errorf("read blob %s: %w", s.m.Name, s.err)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: delete the object and %s", err, s.b.again)
	}
	return err
}

// Close ends the reading ahead.
func (s *stretch) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// fetch sends the stretch's bytes into to. Without an error it has sent all of them.
func (b *bucket) fetch(ctx context.Context, m *meta, offset, length int64, to chan<- []byte) error {
	replies, err := b.listen(batchMost)
	if err != nil {
		return err
	}
	defer replies.close()
	f := fetcher{b: b, replies: replies, to: to, end: offset + length}
	for f.sent = offset; f.sent < f.end; {
		f.m, f.subject, f.next, f.chunks, f.at = m, b.chunkSubject(m.NUID), 1, 0, 0
		if err := f.run(ctx); err != nil {
			return err
		}
		if f.sent == f.end {
			return nil
		}
		// A chunk is not there. Was the blob written anew, by another program, then there are others.
		now, err := b.current(ctx, m.Name)
		if err == nil {
			err = b.readable(m.Name, now)
		}
		if err != nil {
			return err
		}
		if now.NUID == m.NUID || now.Size != m.Size {
			return fmt.Errorf("bucket %s: %w: the server has %d of its %d chunks", b.name, ErrCorrupt, f.chunks, m.Chunks)
		}
		m = now
	}
	return nil
}

// fetcher reads the chunks of a blob from its first one on.
type fetcher struct {
	b         *bucket
	replies   *replies
	to        chan<- []byte
	sent, end int64 // what of the blob is sent, and how far it is to be

	m       *meta
	subject string
	next    uint64 // where the next chunk is at the earliest
	chunks  int    // that came
	at      int64  // where in the blob the next one begins
}

// run sends what is there until everything is sent, or a chunk is not there.
func (f *fetcher) run(ctx context.Context) error {
	for f.sent < f.end {
		if f.chunks == f.m.Chunks {
			return fmt.Errorf("bucket %s: %w: it is shorter than the %d bytes that its meta says", f.b.name, ErrCorrupt, f.m.Size)
		}
		before := f.chunks
		if err := f.batch(ctx); err != nil {
			return err
		}
		if f.chunks > before {
			continue
		}
		// Nothing came. Whether it is there the leader knows.
		msg, err := f.b.leaderGet(ctx, "read a chunk", map[string]any{"seq": f.next, "next_by_subj": f.subject})
		if err != nil || msg == nil {
			return err
		}
		if err := f.take(ctx, msg.Seq, msg.Data); err != nil {
			return err
		}
	}
	return nil
}

// batch sends what one request brings.
func (f *fetcher) batch(ctx context.Context) error {
	err := f.replies.ask(map[string]any{"seq": f.next, "next_by_subj": f.subject, "batch": min(batchMost, f.m.Chunks-f.chunks), "max_bytes": batchBytes})
	for err == nil && f.sent < f.end {
		var msg *nats.Msg
		if msg, err = f.replies.next(ctx); msg == nil {
			break
		}
		seq, badly := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
		if badly != nil || msg.Header.Get("Nats-Subject") != f.subject {
			continue // not an answer of the server's
		}
		err = f.take(ctx, seq, msg.Data)
	}
	return err
}

// take sends what of a chunk is wanted.
func (f *fetcher) take(ctx context.Context, seq uint64, data []byte) error {
	if f.chunks++; seq < f.next || f.chunks > f.m.Chunks {
		return fmt.Errorf("bucket %s: %w: chunk %d of %d is out of order", f.b.name, ErrCorrupt, f.chunks, f.m.Chunks)
	}
	f.next = seq + 1
	from := min(f.sent-f.at, int64(len(data)))
	f.at += int64(len(data))
	data = data[from:]
	data = data[:min(f.end-f.sent, int64(len(data)))]
	if len(data) == 0 {
		return nil
	}
	select {
	case f.to <- data:
		f.sent += int64(len(data))
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package artifacts

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

const (
	// chunkBytes is the usual size in object stores. A server with a smaller max_payload gets smaller ones.
	chunkBytes = 128 << 10
	// windowBytes bounds what this process has under way unconfirmed, in all its uploads. nats.go's Put has no
	// bound: a server that syncs its disk piles up what it has not stored yet, and drops it in the end.
	windowBytes = 8 << 20
	// ackWait is how long the window may stand still in the first try; in each further one it is twice as long. A
	// leader that dies takes the confirmations with it, a disk that is slow does not.
	ackWait = 5 * time.Second
	// putTries is how often a blob is sent from its beginning when the server did not confirm all of it.
	putTries = 4
)

// window holds a token per chunk that is under way.
var window = make(chan struct{}, windowBytes/chunkBytes)

// put stores the content that open returns under name, unless it is there already. The
// content must be what the name says: of size bytes, with the digest sum.
//
// Chunks go under a subject that nobody else uses, and the meta that makes them a blob
// comes last, and only if the name has none: of two puts of one content the
// second takes its chunks back. So no reader ever sees a blob change, and who is
// killed in between leaves chunks without a meta, which age out.
//
// look says whether to look first: where the content is most likely new, that is a round trip for nothing.
func (b *bucket) put(ctx context.Context, name string, sum [32]byte, size int64, look bool, open func() (io.Reader, error)) (stored bool, err error) {
	var there *meta
	if look {
		there, err = b.current(ctx, name)
	}
	if errors.Is(err, ErrNoBucket) { // deleted since it was looked up
		b.forget()
		if err = b.prepare(ctx); err == nil {
			there, err = b.current(ctx, name)
		}
	}
	if err != nil {
		return false, err
	}
	if there != nil && there.is(name, sum) && there.Size == size {
		return false, nil
	}
	m, err := b.upload(ctx, open)
	if err == nil && m.Size != size {
		b.takeBack(ctx, m.NUID)
		err = fmt.Errorf("it is %d bytes, and was %d: it %w", m.Size, size, ErrChanged)
	}
	if err == nil {
		m.Name, m.Digest = name, digestOf(sum)
		stored, err = b.commit(ctx, m, there)
	}
	if err != nil {
		return false, fmt.Errorf("store blob %s: %w", name, err)
	}
	return stored, nil
}

// putOnce stores the content that open returns as put does, and reads it once: what its name is shows at its end. Where it turns
// out to be there already, what was sent is taken back.
func (b *bucket) putOnce(ctx context.Context, open func() (io.Reader, error)) (blob string, sum [32]byte, size int64, stored bool, err error) {
	epoch := b.epoch() // of the first chunk, which is the first to age out
	hash := sha256.New()
	m, err := b.upload(ctx, func() (io.Reader, error) {
		hash.Reset()
		content, err := open()
		return &hashed{content, hash}, err
	})
	if err != nil {
		return "", sum, 0, false, err
	}
	sum = [32]byte(hash.Sum(nil))
	m.Name, m.Digest = nameBlob(epoch, sum), digestOf(sum)
	if stored, err = b.commit(ctx, m, nil); err != nil {
		return "", sum, 0, false, fmt.Errorf("store blob %s: %w", m.Name, err)
	}
	return m.Name, sum, m.Size, stored, nil
}

// hashed is content that is hashed as it is read.
type hashed struct {
	io.Reader
	hash hash.Hash
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.hash.Write(p[:n])
	return n, err
}

// upload stores the content that open returns in chunks, and returns the meta that would make them a blob, without name
// and digest. What the server did not confirm is sent again from its beginning.
func (b *bucket) upload(ctx context.Context, open func() (io.Reader, error)) (*meta, error) {
	for try := 1; ; try++ {
		content, err := open()
		if err != nil {
			return nil, err
		}
		m := &meta{Bucket: b.name, NUID: nuid.Next(), Options: &metaOptions{ChunkSize: chunkBytes}}
		if m.Chunks, m.Size, err = b.putChunks(ctx, b.chunkSubject(m.NUID), content, ackWait<<(try-1)); err == nil {
			return m, nil
		}
		b.takeBack(ctx, m.NUID)
		if !errors.Is(err, ErrNoAnswer) || ctx.Err() != nil || try == putTries {
			return nil, err
		}
		if err := pause(ctx, retryWait); err != nil {
			return nil, err
		}
		b.forget() // it may have been deleted: then nobody answers
		if err := b.prepare(ctx); err != nil {
			return nil, err
		}
	}
}

// commit makes the chunks of m a blob, unless there is one of its name. there is what the
// bucket had under the name before: a meta of other content cannot be read by anybody, and is replaced.
func (b *bucket) commit(ctx context.Context, m, there *meta) (stored bool, err error) {
	for try := 1; ; try++ {
		done, err := b.putMeta(ctx, m, there)
		if done {
			return true, nil
		}
		unknown := errors.Is(err, ErrNoAnswer) && ctx.Err() == nil && try < putTries
		if unknown {
			err = pause(ctx, retryWait)
		}
		if err == nil {
			there, err = b.current(ctx, m.Name)
		}
		if err != nil {
			if !errors.Is(err, ErrNoAnswer) && ctx.Err() == nil { // else the meta may come to be stored yet, and then its chunks must be there
				b.takeBack(ctx, m.NUID)
			}
			return false, err
		}
		if there != nil && there.is(m.Name, sumOf(m.Name)) && there.Size == m.Size {
			if there.NUID == m.NUID {
				return true, nil
			}
			b.takeBack(ctx, m.NUID)
			return false, nil
		}
		if try == putTries {
			b.takeBack(ctx, m.NUID)
			return false, fmt.Errorf("bucket %s: %w: others write another meta each time", b.name, ErrCorrupt)
		}
	}
}

// putMeta makes chunks a blob. It is not done, without an error, if the name has another meta than before by now.
func (b *bucket) putMeta(ctx context.Context, m, before *meta) (done bool, err error) {
	msg := nats.NewMsg(b.metaSubject(m.Name))
	if msg.Data, err = json.Marshal(m); err != nil {
		return false, err
	}
	var seq uint64
	if before != nil {
		seq = before.seq
		msg.Header.Set("Nats-Rollup", "sub") // the format has one meta per name
	}
	msg.Header.Set("Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(seq, 10))
	const doing = "publish the meta"
	err = b.patiently(ctx, func(ctx context.Context) error {
		answer, err := b.nc.RequestMsgWithContext(ctx, msg)
		if err != nil {
			return b.failed(ctx, doing, msg.Subject, err)
		}
		return b.acked(doing, answer)
	})
	var told *apiError
	if errors.As(err, &told) && (told.ErrorCode == codeWrongSequence || told.ErrorCode == codeWrongSequenceNow) {
		// Somebody was faster; or it was us, in a try whose answer was lost.
		now, err := b.current(ctx, m.Name)
		return err == nil && now != nil && now.NUID == m.NUID, err
	}
	return err == nil, err
}

// acked reads the server's answer to a publish.
func (b *bucket) acked(doing string, answer *nats.Msg) error {
	if status := answer.Header.Get("Status"); status == strconv.Itoa(http.StatusServiceUnavailable) {
		return fmt.Errorf("%s: bucket %s: %w: its stream has no leader, or is gone: try again", doing, b.name, ErrNoAnswer)
	}
	var ack struct {
		Error  *apiError `json:"error"`
		Stream string    `json:"stream"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return fmt.Errorf("%s: bucket %s: the server's answer: %w", doing, b.name, err)
	}
	if ack.Error != nil {
		return b.told(doing, ack.Error.ErrorCode, ack.Error)
	}
	if ack.Stream != b.stream {
		return fmt.Errorf("%s: bucket %s: stream %q took its subject: remove that stream's interest in $O.%s.>", doing, b.name, ack.Stream, b.name)
	}
	return nil
}

// chunkBuffers keeps what chunks are read into.
var chunkBuffers = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// putChunks publishes content to its end in chunks, at most windowBytes unconfirmed, and returns how
// many and of how many bytes once all are confirmed.
func (b *bucket) putChunks(ctx context.Context, subject string, content io.Reader, patience time.Duration) (chunks int, size int64, err error) {
	buffer := chunkBuffers.Get().(*[chunkBytes]byte)
	defer chunkBuffers.Put(buffer)
	chunk := buffer[:]
	if most := int(b.nc.MaxPayload()); most > 0 {
		chunk = chunk[:min(chunkBytes, most)]
	}
	acks := make(chan *nats.Msg, cap(window)) // room for all that can be under way: the client drops what finds none
	inbox := b.nc.NewInbox()
	sub, err := b.nc.ChanSubscribe(inbox, acks)
	if err != nil {
		return 0, 0, b.failed(ctx, "listen for confirmations", inbox, err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails on a closed connection only, where nothing is left to end

	reconnects := b.nc.Stats().Reconnects
	pending := 0
	defer func() {
		if err != nil && !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrDenied) {
			settle(acks, pending)
		}
		for range pending {
			<-window
		}
	}()
	for ended := false; !ended || pending > 0; {
		room := false
		if !ended {
			if room, err = enter(ctx, pending == 0); err != nil {
				return 0, 0, fmt.Errorf("publish a chunk: %w", err)
			}
		}
		if room {
			n, err := io.ReadFull(content, chunk)
			if ended = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !ended {
				<-window
				return 0, 0, fmt.Errorf("read: %w", err)
			}
			if n == 0 {
				<-window
				continue
			}
			// The connection copies what it is given before it returns.
			if err := b.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox, Data: chunk[:n]}); err != nil {
				<-window
				return 0, 0, b.failed(ctx, "publish a chunk", subject, err)
			}
			size += int64(n)
			pending++
			chunks++
			continue
		}
		ack, err := b.awaitAck(ctx, subject, inbox, acks, reconnects, patience)
		if err != nil {
			return 0, 0, err
		}
		pending--
		<-window
		if err := b.acked("publish a chunk", ack); err != nil {
			return 0, 0, err
		}
	}
	return chunks, size, nil
}

// enter takes a token of the window, if there is one. Who has nothing under way that it could wait for
// waits for the token: those who have them are confirmed, or give up.
func enter(ctx context.Context, wait bool) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	select {
	case window <- struct{}{}:
		return true, nil
	default:
	}
	if !wait {
		return false, nil
	}
	select {
	case window <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// awaitAck waits for one confirmation. It looks now and then whether none can come any more: a denied subject is
// told apart from the message, and what was under way when the connection broke is not confirmed.
func (b *bucket) awaitAck(ctx context.Context, subject, inbox string, acks <-chan *nats.Msg, reconnects uint64, patience time.Duration) (*nats.Msg, error) {
	select {
	case ack := <-acks:
		return ack, nil
	default:
	}
	const doing = "publish a chunk"
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	start := time.Now()
	for {
		select {
		case ack := <-acks:
			return ack, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: bucket %s: %w", doing, b.name, context.Cause(ctx))
		case <-look.C:
		}
		if b.nc.IsClosed() {
			return nil, fmt.Errorf("%s: bucket %s: %w", doing, b.name, nats.ErrConnectionClosed)
		}
		for _, subject := range []string{subject, inbox} {
			if err := b.denied(subject); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
		}
		waited := time.Since(start)
		if waited > patience || waited > requestWait && b.nc.Stats().Reconnects != reconnects {
			return nil, fmt.Errorf("%s: bucket %s: %w for %v: see whether the server runs and try again", doing, b.name, ErrNoAnswer, waited.Round(time.Second))
		}
	}
}

// settle lets what is under way arrive, so that it can be taken back: a purge overtakes it.
func settle(acks <-chan *nats.Msg, pending int) {
	late := time.NewTimer(requestWait)
	defer late.Stop()
	for ; pending > 0; pending-- {
		select {
		case <-acks:
		case <-late.C:
			return
		}
	}
}

// takeBack removes chunks that did not become a blob, as far as the server can
// be reached: what stays has no meta, and ages out.
func (b *bucket) takeBack(ctx context.Context, nuid string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestWait)
	defer cancel()
	body, err := json.Marshal(map[string]string{"filter": b.chunkSubject(nuid)})
	if err == nil {
		_, _ = b.nc.RequestWithContext(ctx, b.api+"STREAM.PURGE."+b.stream, body)
	}
}

package artifacts

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// requestWait bounds one request; patience all tries of one. The loss of a leader
	// stalls a stream of three nodes for 4 to 6 s.
	requestWait = 2 * time.Second
	patience    = 15 * time.Second
	retryWait   = 100 * time.Millisecond
)

// bucket is an object store of JetStream, in the format of nats.go: the stream
// OBJ_<name> with the chunks of a blob in order under one subject, and what describes it,
// its meta, under another.
//
// It is written and read here and not by nats.go's ObjectStore, for that one's Put
// sends without a window, which a server that syncs its disk cannot follow, and
// replaces what is under a name, chunks and all, while others read it; and its
// Get makes a consumer, which stays behind when this process is killed.
type bucket struct {
	js     jetstream.JetStream
	nc     *nats.Conn
	api    string // prefix of the API's subjects
	name   string
	stream string
	again  string // how to get what is not there any more
	config jetstream.ObjectStoreConfig
	now    func() time.Time

	mu     sync.Mutex
	ttl    time.Duration // of the bucket as it is, once it was looked up
	offset time.Duration // the server's clock less ours
	seen   time.Time     // when it was looked up, by our clock

	large sketches // of what was stored in one pass
}

func newBucket(js jetstream.JetStream, cfg Config, name, what, again string, ttl time.Duration) *bucket {
	b := &bucket{
		js: js, nc: js.Conn(), name: name, stream: "OBJ_" + name, again: again, api: jetstream.DefaultAPIPrefix, now: cfg.Now,
		config: jetstream.ObjectStoreConfig{
			Bucket: name, Description: what, TTL: ttl, MaxBytes: cfg.MaxBytes, Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
		},
	}
	switch o := js.Options(); {
	case o.Domain != "":
		b.api = "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		b.api = o.APIPrefix + "."
	}
	return b
}

func (b *bucket) chunkSubject(nuid string) string { return "$O." + b.name + ".C." + nuid }

func (b *bucket) metaSubject(blob string) string {
	return "$O." + b.name + ".M." + base64.URLEncoding.EncodeToString([]byte(blob))
}

// lookupAge is how long a bucket that was looked up is taken to be as it was.
const lookupAge = time.Minute

// prepare makes the bucket if it is not there, and learns its TTL and the server's time.
func (b *bucket) prepare(ctx context.Context) error {
	b.mu.Lock()
	fresh := !b.seen.IsZero() && time.Since(b.seen) < lookupAge
	b.mu.Unlock()
	if fresh {
		return nil
	}
	return b.lookup(ctx)
}

func (b *bucket) lookup(ctx context.Context) error {
	const doing = "look up the object store"
	subject := b.api + "STREAM.INFO." + b.stream
	var info *jetstream.StreamInfo
	err := b.patiently(ctx, func(ctx context.Context) error {
		stream, err := b.js.Stream(ctx, b.stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			subject = b.api + "STREAM.CREATE." + b.stream
			// Created meanwhile, with whatever settings: then it is there.
			if _, err = b.js.CreateObjectStore(ctx, b.config); err == nil || errors.Is(err, jetstream.ErrBucketExists) {
				stream, err = b.js.Stream(ctx, b.stream)
			}
		}
		if err != nil {
			return b.failed(ctx, doing, subject, err)
		}
		info = stream.CachedInfo()
		return nil
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ttl, b.seen = info.Config.MaxAge, time.Now()
	if b.ttl <= 0 {
		b.ttl = b.config.TTL // kept for ever: any epoch will do
	}
	if !info.TimeStamp.IsZero() {
		b.offset = time.Until(info.TimeStamp)
	}
	return nil
}

// forget has the bucket looked up again: it was not what it was taken to be.
func (b *bucket) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = time.Time{} // and not the TTL, by which others make names meanwhile
}

// epoch is the number of the half TTL that the server's clock is in.
func (b *bucket) epoch() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now().Add(b.offset)
	if b.now != nil {
		now = b.now()
	}
	return now.UnixNano() / max(int64(b.ttl/2), 1)
}

// blobName is the name under which content with this SHA-256 is stored now.
func (b *bucket) blobName(sum [32]byte) string { return nameBlob(b.epoch(), sum) }

func nameBlob(epoch int64, sum [32]byte) string {
	return strconv.FormatInt(epoch, 10) + "." + hex.EncodeToString(sum[:])
}

// meta is what a bucket says of one blob. The JSON is nats.go's ObjectInfo.
type meta struct {
	Name    string       `json:"name"`
	Options *metaOptions `json:"options,omitempty"`
	Bucket  string       `json:"bucket"`
	NUID    string       `json:"nuid"`
	Size    int64        `json:"size"`
	ModTime time.Time    `json:"mtime"`
	Chunks  int          `json:"chunks"`
	Digest  string       `json:"digest,omitempty"`
	Deleted bool         `json:"deleted,omitempty"`

	seq uint64 // where the stream has it
}

type metaOptions struct {
	Link      *struct{} `json:"link,omitempty"`
	ChunkSize int       `json:"max_chunk_size,omitempty"`
}

// is reports whether m describes content with the digest in the name that it is stored under.
func (m *meta) is(name string, sum [32]byte) bool {
	return !m.Deleted && m.Name == name && m.Digest == digestOf(sum) && m.NUID != "" && (m.Options == nil || m.Options.Link == nil)
}

func digestOf(sum [32]byte) string { return "SHA-256=" + base64.URLEncoding.EncodeToString(sum[:]) }

// sumOf is the digest that a blob's name promises.
func sumOf(blob string) (sum [32]byte) {
	raw, err := hex.DecodeString(blob[max(len(blob)-64, 0):])
	if err != nil || len(raw) != len(sum) {
		return [32]byte{}
	}
	return [32]byte(raw)
}

func (b *bucket) parseMeta(blob string, data []byte, seq uint64) (*meta, error) {
	m := &meta{seq: seq}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("bucket %s: meta of %s: %w: %w", b.name, blob, ErrCorrupt, err)
	}
	return m, nil
}

// current returns the meta under a name, also of a blob that was deleted; nil says that there is none, and is
// proven: the stream's leader says so.
func (b *bucket) current(ctx context.Context, blob string) (*meta, error) {
	msg, err := b.leaderGet(ctx, "look for "+blob, map[string]any{"last_by_subj": b.metaSubject(blob)})
	if err != nil || msg == nil {
		return nil, err
	}
	return b.parseMeta(blob, msg.Data, msg.Seq)
}

// readable checks that m, which is what the bucket has under the name blob, can be read.
func (b *bucket) readable(blob string, m *meta) error {
	switch {
	case m == nil || m.Deleted:
		return fmt.Errorf("bucket %s: blob %s: %w: it has aged out or was deleted: %s", b.name, blob, ErrNoBlob, b.again)
	case !m.is(blob, sumOf(blob)) || m.Size < 0 || m.Chunks < 0:
		return fmt.Errorf("bucket %s: blob %s: %w: the meta is of other content: delete the object and %s", b.name, blob, ErrCorrupt, b.again)
	}
	return nil
}

// stored is a message of a stream as the API hands it out.
type stored struct {
	Seq  uint64 `json:"seq"`
	Data []byte `json:"data"`
}

// leaderGet asks the stream's leader for one message; nil says that there is none.
func (b *bucket) leaderGet(ctx context.Context, doing string, query map[string]any) (*stored, error) {
	subject := b.api + "STREAM.MSG.GET." + b.stream
	var answer struct {
		Error   *apiError `json:"error"`
		Message *stored   `json:"message"`
	}
	body, err := json.Marshal(query)
	if err != nil {
		return nil, err
	}
	err = b.patiently(ctx, func(ctx context.Context) error {
		msg, err := b.nc.RequestWithContext(ctx, subject, body)
		if err != nil {
			return b.failed(ctx, doing, subject, err)
		}
		answer.Error, answer.Message = nil, nil
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			return fmt.Errorf("%s: bucket %s: the server's answer: %w", doing, b.name, err)
		}
		if answer.Error != nil && (answer.Error.ErrorCode == codeNoMessage || answer.Error.ErrorCode == 0 && answer.Error.Code == http.StatusNotFound) {
			answer.Error = nil
		}
		if answer.Error != nil {
			return b.told(doing, answer.Error.ErrorCode, answer.Error)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer.Message, nil
}

// patiently tries until it works, or the error is another than ErrNoAnswer, or
// patience is over. Each try has a context of its own.
func (b *bucket) patiently(ctx context.Context, try func(context.Context) error) error {
	over := time.Now().Add(patience)
	for {
		once, cancel := context.WithTimeoutCause(ctx, requestWait, errTry)
		err := try(once)
		cancel()
		if err == nil || !errors.Is(err, ErrNoAnswer) || time.Now().After(over) {
			return err
		}
		if end := pause(ctx, retryWait); end != nil {
			return fmt.Errorf("%w: %w", err, end)
		}
	}
}

// pause waits for d, or for the end of ctx, which is its error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

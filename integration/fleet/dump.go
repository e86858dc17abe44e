package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Dump reads all streams of a fleet, message by message from their leaders, and decodes what they hold.
func Dump(ctx context.Context, nc *nats.Conn, topology queue.Topology) (check.Dump, error) {
	d := check.Dump{Taken: time.Now()}
	names := topology.Names()
	bad := func(s queue.Stored, err error) {
		d.Unreadable = append(d.Unreadable, fmt.Sprintf("%s (sequence %d): %v", s.Subject, s.Seq, err))
	}
	read := func(stream string, each func(queue.Stored)) error {
		store := queue.NewStore(nc, stream, topology.ReplicaCount())
		for s, err := range store.Walk(ctx, ">", 0, queue.WalkOptions{}) {
			if err != nil {
				return fmt.Errorf("dump %s: %w", stream, err)
			}
			each(s)
		}
		return nil
	}
	// INVOKE first: what leaves it in between is found in REPLY.
	if err := read(topology.InvokeStream(), func(s queue.Stored) {
		a, err := names.ParseInvoke(s.Subject)
		if err != nil {
			bad(s, err)
			return
		}
		d.Invoke = append(d.Invoke, check.Waiting{Key: check.Key{Tenant: a.Tenant, ID: a.ID}, Seq: s.Seq, At: s.Time})
	}); err != nil {
		return d, err
	}
	if err := read(topology.ReplyStream(), func(s queue.Stored) {
		r, err := reply(names, s)
		if err != nil {
			bad(s, err)
			return
		}
		d.Replies = append(d.Replies, r)
	}); err != nil {
		return d, err
	}
	if err := read(topology.DeadStream(), func(s queue.Stored) {
		tenant, id, err := names.ParseDead(s.Subject)
		if err != nil {
			bad(s, err)
			return
		}
		dead, err := contracts.Decode[contracts.Dead](s.Data, meta(s))
		if err != nil {
			bad(s, err)
			return
		}
		d.Dead = append(d.Dead, check.Letter{Key: check.Key{Tenant: tenant, ID: id}, Seq: s.Seq, Dead: dead})
	}); err != nil {
		return d, err
	}
	return d, settings(ctx, nc, topology, &d)
}

// reply decodes a message of the reply stream.
func reply(names queue.Names, s queue.Stored) (check.Reply, error) {
	a, err := names.ParseReply(s.Subject)
	if err != nil {
		return check.Reply{}, err
	}
	r := check.Reply{Key: check.Key{Tenant: a.Tenant, ID: a.ID}, Run: a.Run, Seq: s.Seq, At: s.Time}
	switch a.Kind {
	case queue.ReplyChunk:
		chunk, err := contracts.Decode[contracts.Chunk](s.Data, meta(s))
		if err == nil && chunk.N != a.N {
			err = fmt.Errorf("the chunk says %d", chunk.N)
		}
		r.Chunk = &chunk
		return r, err
	case queue.ReplyStart:
		start, err := contracts.Decode[contracts.Start](s.Data, meta(s))
		r.Start = &start
		return r, err
	case queue.ReplyEnd:
		end, err := contracts.Decode[contracts.End](s.Data, meta(s))
		r.End = &end
		return r, err
	default:
		result, err := contracts.Decode[contracts.Result](s.Data, meta(s))
		r.Result = &result
		return r, err
	}
}

func meta(s queue.Stored) contracts.Meta {
	return contracts.Meta{ContentType: s.Header.Get(contracts.HeaderContentType), Version: s.Header.Get(contracts.HeaderVersion)}
}

// settings adds what the server says of the streams and of all consumers that exist.
func settings(ctx context.Context, nc *nats.Conn, topology queue.Topology, d *check.Dump) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, want := range topology.Streams() {
		stream, err := js.Stream(ctx, want.Name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
		d.Streams = append(d.Streams, stream.CachedInfo().Config)
	}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		stream, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			return err
		}
		consumers := stream.ListConsumers(ctx)
		for c := range consumers.Info() {
			d.Consumers = append(d.Consumers, info.Config.Name+" "+c.Name)
		}
		if err := consumers.Err(); err != nil {
			return fmt.Errorf("consumers of %s: %w", info.Config.Name, err)
		}
	}
	return streams.Err()
}

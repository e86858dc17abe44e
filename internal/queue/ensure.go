package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Drift is a setting of a stream or consumer that exists and differs from what
// a Topology says. Ensure changes nothing that exists: whoever runs the
// servers may have had a reason, and a lowered limit throws messages away.
type Drift struct {
	Stream   string
	Consumer string // "" for a setting of the stream
	Setting  string // the field of the configuration
	Want     string
	Have     string
}

// String says it in a line.
func (d Drift) String() string {
	name := d.Stream
	if d.Consumer != "" {
		name += " consumer " + d.Consumer
	}
	return fmt.Sprintf("%s: %s is %s, not %s", name, d.Setting, d.Have, d.Want)
}

// Ensure creates the streams and the bucket of t that are missing. An existing
// stream under whose settings jobs can be lost or run twice is an error that
// wraps ErrForbidden and names the stream and the setting; other differences
// come back as Drift. Any number of callers may do it at once.
//
// Where the default sizes do not fit into what the server may still reserve,
// all are halved until the largest takes half of what there is at most, so that
// the others, and files that reserve nothing, have room too; the difference is
// a Drift. A size that t sets is created as it is, or Ensure fails with ErrFull.
func Ensure(ctx context.Context, js jetstream.JetStream, t Topology) ([]Drift, error) {
	if !contracts.ValidToken(t.Names().prefix()) {
		return nil, fmt.Errorf("prefix %q: must be 1 to 64 of a-z 0-9 _ -", t.Prefix)
	}
	ctx, stop := linkOf(js.Conn()).guard(ctx, "$JS.API.STREAM.")
	defer stop()
	e := ensurer{js: js}
	streams := t.Streams()
	fixed := map[string]bool{t.InvokeStream(): t.InvokeMaxBytes != 0, t.ReplyStream(): t.ReplyMaxBytes != 0, t.DeadStream(): t.DeadMaxBytes != 0}
	// The largest first: it finds out how much room there is.
	slices.SortStableFunc(streams, func(a, b jetstream.StreamConfig) int { return cmp.Compare(b.MaxBytes, a.MaxBytes) })
	var drift []Drift
	for _, cfg := range streams {
		d, err := e.stream(ctx, cfg, fixed[cfg.Name])
		drift = append(drift, d...)
		if err != nil {
			return drift, fmt.Errorf("ensure stream %s: %w", cfg.Name, ensureError(ctx, err))
		}
	}
	d, err := ensureWorkers(ctx, js, t)
	return append(drift, d...), err
}

type ensurer struct {
	js      jetstream.JetStream
	halving int // how often default sizes have been halved
}

func (e *ensurer) stream(ctx context.Context, want jetstream.StreamConfig, fixed bool) ([]Drift, error) {
	s, err := e.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = e.create(ctx, want, fixed)
	}
	if err != nil {
		return nil, err
	}
	have := s.CachedInfo().Config
	if err := forbidden(want, have); err != nil {
		return nil, err
	}
	return driftOf(want, have), nil
}

func (e *ensurer) create(ctx context.Context, cfg jetstream.StreamConfig, fixed bool) (jetstream.Stream, error) {
	if !fixed {
		cfg.MaxBytes = max(cfg.MaxBytes>>e.halving, min(cfg.MaxBytes, MinMaxBytes))
	}
	for refused := false; ; refused = true {
		s, err := e.js.CreateStream(ctx, cfg)
		if err == nil && refused {
			e.halving++
			cfg.MaxBytes = max(cfg.MaxBytes/2, MinMaxBytes) // it is new, and nothing is in it
			return e.js.UpdateStream(ctx, cfg)
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && !noRoom(err) {
			return s, err
		}
		// Somebody was faster, with other sizes.
		if s, other := e.js.Stream(ctx, cfg.Name); !errors.Is(other, jetstream.ErrStreamNotFound) {
			return s, other
		}
		if fixed || cfg.MaxBytes <= MinMaxBytes {
			// To make a stream without a bound, the server wants a byte.
			return nil, fmt.Errorf("%w: the server will not reserve %d bytes; give it a larger disk or max_file_store, or set a smaller size: %w", ErrFull, max(cfg.MaxBytes, 1), err)
		}
		e.halving++
		cfg.MaxBytes = max(cfg.MaxBytes/2, MinMaxBytes)
	}
}

// ensureError says which of this package's errors err is.
func ensureError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrDenied) {
		return cause // the request itself only saw its context end
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: %w", ErrNoStream, err)
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case unsettled(err):
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// unsettled reports whether a cluster said that it cannot say yet: it elects a leader, or has lost sight of a server.
func unsettled(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.Code == 503 || api.ErrorCode == 10005 && strings.Contains(api.Description, "offline"))
}

// noRoom reports whether a server refused to reserve as much as was asked for.
func noRoom(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case 10047, // insufficient storage resources available
		10023,        // insufficient resources
		10002, 10028: // resource limits exceeded for account, insufficient memory
		return true
	case 10005: // no suitable peers for placement, of many reasons
		return strings.Contains(api.Description, "insufficient storage")
	}
	return false
}

// forbidden names the first setting under which the fence does not hold, or a
// sender can reach what is not his.
func forbidden(want, have jetstream.StreamConfig) error {
	for _, s := range []struct {
		setting    string
		want, have any
	}{
		{"AllowRollup", false, have.AllowRollup},                                  // one header of one sender empties the stream
		{"AllowMsgTTL", false, have.AllowMsgTTL},                                  // a sender makes his result, or a fence, go away
		{"SubjectDeleteMarkerTTL", time.Duration(0), have.SubjectDeleteMarkerTTL}, // implies both
		{"AllowMsgSchedules", false, have.AllowMsgSchedules},
		{"AllowMsgCounter", false, have.AllowMsgCounter},
		{"AllowAtomicPublish", false, have.AllowAtomicPublish},
		{"AllowBatchPublish", false, have.AllowBatchPublish},
		{"MaxMsgsPerSubject", want.MaxMsgsPerSubject, have.MaxMsgsPerSubject},
		{"Discard", want.Discard, have.Discard},
		{"DiscardNewPerSubject", true, have.DiscardNewPerSubject},
		{"AllowDirect", true, have.AllowDirect},
		{"Retention", want.Retention, have.Retention},
		{"NoAck", false, have.NoAck},
		{"Sealed", false, have.Sealed},
		{"SubjectTransform", false, have.SubjectTransform != nil},
		{"Mirror", false, have.Mirror != nil},
		{"Sources", 0, len(have.Sources)},
	} {
		if s.want != s.have {
			return fmt.Errorf("%w: stream %s: %s is %v, must be %v", ErrForbidden, have.Name, s.setting, s.have, s.want)
		}
	}
	return nil
}

// driftOf compares what is not forbidden.
func driftOf(want, have jetstream.StreamConfig) []Drift {
	var all []Drift
	differ := func(setting string, w, h any) {
		if !reflect.DeepEqual(w, h) {
			all = append(all, Drift{Stream: want.Name, Setting: setting, Want: show(w), Have: show(h)})
		}
	}
	differ("Subjects", want.Subjects, have.Subjects)
	differ("Storage", want.Storage, have.Storage)
	differ("Replicas", want.Replicas, have.Replicas)
	differ("MaxBytes", want.MaxBytes, have.MaxBytes)
	differ("MaxAge", want.MaxAge, have.MaxAge)
	differ("MaxMsgs", want.MaxMsgs, have.MaxMsgs)
	differ("MaxMsgSize", want.MaxMsgSize, have.MaxMsgSize)
	differ("MaxConsumers", want.MaxConsumers, have.MaxConsumers)
	differ("Duplicates", want.Duplicates, have.Duplicates)
	differ("RePublish", want.RePublish, have.RePublish)
	return all
}

func show(v any) string {
	if r, ok := v.(*jetstream.RePublish); ok {
		if r == nil {
			return "none"
		}
		return r.Source + " to " + r.Destination
	}
	return fmt.Sprint(v)
}

func ensureWorkers(ctx context.Context, js jetstream.JetStream, t Topology) ([]Drift, error) {
	want := t.Workers()
	s, err := js.Stream(ctx, t.WorkersStream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = js.CreateKeyValue(ctx, want); err == nil || errors.Is(err, jetstream.ErrBucketExists) {
			s, err = js.Stream(ctx, t.WorkersStream())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ensure bucket %s: %w", want.Bucket, ensureError(ctx, err))
	}
	var all []Drift
	have := s.CachedInfo().Config
	for _, d := range []struct {
		setting    string
		want, have any
	}{
		{"MaxAge", want.TTL, have.MaxAge},
		{"Replicas", want.Replicas, have.Replicas},
		{"MaxMsgsPerSubject", int64(want.History), have.MaxMsgsPerSubject},
	} {
		if d.want != d.have {
			all = append(all, Drift{Stream: t.WorkersStream(), Setting: d.setting, Want: fmt.Sprint(d.want), Have: fmt.Sprint(d.have)})
		}
	}
	return all, nil
}

// EnsureConsumers creates the consumers of each kind and lane of a pool that
// are missing, and returns how those that exist differ. A consumer that hands
// out something else, or without an ack, is an error that wraps ErrForbidden.
func EnsureConsumers(ctx context.Context, js jetstream.JetStream, t Topology, kinds []contracts.Kind, pool string) ([]Drift, error) {
	ctx, stop := linkOf(js.Conn()).guard(ctx, "$JS.API.CONSUMER.CREATE.", "$JS.API.CONSUMER.INFO.")
	defer stop()
	var drift []Drift
	for _, kind := range kinds {
		for _, lane := range contracts.Lanes() {
			want := t.Consumer(kind, pool, lane, contracts.DefaultShard)
			if want.FilterSubject == "" {
				return drift, fmt.Errorf("ensure consumer: kind %q, pool %q: each must be 1 to 64 of a-z 0-9 _ -", kind, pool)
			}
			d, err := ensureConsumer(ctx, js, t.InvokeStream(), want)
			drift = append(drift, d...)
			if err != nil {
				return drift, err
			}
		}
	}
	return drift, nil
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) ([]Drift, error) {
	c, err := js.CreateConsumer(ctx, stream, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		c, err = js.Consumer(ctx, stream, want.Durable)
	}
	if err != nil {
		return nil, fmt.Errorf("ensure consumer %s of %s: %w", want.Durable, stream, ensureError(ctx, err))
	}
	have := c.CachedInfo().Config
	if have.FilterSubject != want.FilterSubject || have.AckPolicy != want.AckPolicy || have.DeliverSubject != "" {
		return nil, fmt.Errorf("%w: consumer %s of %s: FilterSubject %q, AckPolicy %v, DeliverSubject %q: must be %q, %v, none",
			ErrForbidden, want.Durable, stream, have.FilterSubject, have.AckPolicy, have.DeliverSubject, want.FilterSubject, want.AckPolicy)
	}
	var all []Drift
	for _, d := range []struct {
		setting    string
		want, have any
	}{
		{"AckWait", want.AckWait, have.AckWait},
		{"MaxDeliver", want.MaxDeliver, have.MaxDeliver},
		{"MaxAckPending", want.MaxAckPending, have.MaxAckPending},
		{"MaxWaiting", want.MaxWaiting, have.MaxWaiting},
		{"BackOff", 0, len(have.BackOff)},
	} {
		if d.want != d.have {
			all = append(all, Drift{Stream: stream, Consumer: want.Durable, Setting: d.setting, Want: fmt.Sprint(d.want), Have: fmt.Sprint(d.have)})
		}
	}
	return all, nil
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Inspection is what a look at one stream found.
type Inspection struct {
	Stream string
	// Messages and Bytes are what it holds, MaxBytes what it may hold (-1 has no bound), on Replicas servers.
	Messages, Bytes uint64
	MaxBytes        int64
	Replicas        int
	// Drift is where it differs from what Ensure would create.
	Drift []Drift
	// Err says why it could not be looked at (ErrNoStream: it is not there), or that it is not safe to use (ErrForbidden).
	Err error
	// Write is what came of storing a message in it: nil, ErrFull, ErrDenied, ErrUnknown or another. Where this user may not
	// remove what would be stored, nothing is (ErrDenied). A stream that is not written to but by workers is not tried.
	Write error
}

// Inspect looks at every stream of t, changes none, and stores a message in each but that of the workers' presence, which it
// removes again. Its subject is of a kind, tenant's id or run that none can have, so that nobody takes it for an invocation or an answer.
func Inspect(ctx context.Context, js jetstream.JetStream, t Topology, tenant string) []Inspection {
	guarded, stop := linkOf(js.Conn()).guard(ctx, "$JS.API.STREAM.INFO.")
	defer stop()
	token := "~doctor-" + nuid.Next()
	p := t.Names().prefix()
	subjects := map[string]string{
		t.InvokeStream(): p + ".invoke.~doctor.~doctor." + string(contracts.LaneLow) + ".0." + tenant + "." + token,
		t.ReplyStream():  p + ".reply." + tenant + "." + token + ".~doctor.1",
		t.DeadStream():   p + ".dead." + tenant + "." + token,
	}
	var all []Inspection
	for _, want := range t.Streams() {
		i := Inspection{Stream: want.Name}
		s, err := js.Stream(guarded, want.Name)
		if err != nil {
			i.Err = ensureError(guarded, err)
		} else {
			i.from(s.CachedInfo())
			have := s.CachedInfo().Config
			i.Err = forbidden(want, have)
			want.Replicas = have.Replicas // whoever asks need not know
			i.Drift = driftOf(want, have)
			i.Write = testWrite(ctx, NewStore(js.Conn(), want.Name, t.ReplicaCount()), subjects[want.Name])
		}
		all = append(all, i)
	}
	i := Inspection{Stream: t.WorkersStream()}
	if s, err := js.Stream(guarded, t.WorkersStream()); err != nil {
		i.Err = ensureError(guarded, err)
	} else {
		i.from(s.CachedInfo())
	}
	return append(all, i)
}

func (i *Inspection) from(info *jetstream.StreamInfo) {
	i.Messages, i.Bytes = info.State.Msgs, info.State.Bytes
	i.MaxBytes, i.Replicas = info.Config.MaxBytes, info.Config.Replicas
}

// noSequence is one that no stream reaches.
const noSequence = 1 << 62

// testWrite stores a message and removes it.
func testWrite(ctx context.Context, s *Store, subject string) error {
	// What could not be removed is not stored: in a work queue it would stay for ever. Any other answer than
	// a denial is one of the stream's, which has no such message.
	if err := s.Delete(ctx, noSequence); errors.Is(err, ErrDenied) {
		return fmt.Errorf("remove a message: %w", err)
	}
	seq, err := s.Put(ctx, subject, nil, []byte("a test write of doctor's"))
	// Also when who asked is gone.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if errors.Is(err, ErrUnknown) { // it may be stored
		if m, lastErr := s.Last(late, subject); lastErr == nil {
			_ = s.Delete(late, m.Seq)
		}
	}
	if err != nil {
		return fmt.Errorf("store a message: %w", err)
	}
	if err := s.Delete(late, seq); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("remove the test message %d again: %w", seq, err)
	}
	return nil
}

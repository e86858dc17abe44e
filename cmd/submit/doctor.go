package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

// clockDoubt is how far two clocks may be apart before it is worth a word: queue ages and
// schedules go by the server's, so nothing breaks, but times that are shown do not fit together.
const clockDoubt = 2 * time.Second

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at the server, its streams, the workers and the clock, and say what is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, done := leaving(cmd.Context())
			defer done()
			s, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer s.close()
			return a.examine(ctx, s)
		},
	}
}

// finding is one thing that doctor looked at.
type finding struct {
	What    string `json:"what"`
	Found   string `json:"found,omitempty"`
	Problem string `json:"problem,omitempty"`
	Next    string `json:"next,omitempty"`
}

func (a *app) examine(ctx context.Context, s *session) error {
	findings := []finding{lookAtServer(s)}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	streams := a.lookAtStreams(ctx, s)
	findings = append(findings, streams...)
	if streams[0].Problem == "" {
		findings = append(findings, a.lookAtWorkers(ctx, s))
	}
	problems := 0
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, f := range findings {
		if f.Problem != "" {
			problems++
		}
		if a.json {
			if err := a.object(f); err != nil {
				return err
			}
			continue
		}
		text := f.Found
		if f.Problem != "" {
			text = strings.TrimSpace(text + " PROBLEM: " + oneLine(f.Problem))
			if f.Next != "" {
				text += ": " + f.Next
			}
		}
		fmt.Fprintf(w, "%s\t%s\n", f.What, text)
	}
	if err := w.Flush(); err != nil {
		return broken(err)
	}
	if problems > 0 {
		return fmt.Errorf("doctor: %d of these are problems", problems)
	}
	return nil
}

func lookAtServer(s *session) finding {
	f := finding{What: "server"}
	rtt, err := s.nc.RTT()
	if err != nil {
		f.Problem = err.Error()
		return f
	}
	f.Found = fmt.Sprintf("%s, version %s, answers in %s", s.server, s.nc.ConnectedServerVersion(), rtt.Round(time.Microsecond))
	return f
}

// lookAtStreams looks at every stream of the fleet, and at the clock, whose time the answers carry.
func (a *app) lookAtStreams(ctx context.Context, s *session) []finding {
	js, err := jetstream.New(s.nc)
	if err != nil {
		return []finding{{What: "streams", Problem: err.Error()}}
	}
	upper := strings.ToUpper(a.prefix)
	var all []finding
	var clock *finding
	for _, name := range []string{upper + "_INVOKE", upper + "_REPLY", upper + "_DEAD", "KV_" + upper + "_WORKERS"} {
		f := finding{What: "stream " + name}
		before := time.Now()
		stream, err := js.Stream(ctx, name)
		after := time.Now()
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			f.Problem, f.Next = "it is not there", "`submit init` or the first worker makes it"
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return append(all, finding{What: "streams", Problem: err.Error(), Next: "start the server with JetStream (nats-server -js), or choose an account that has it"})
		case err != nil:
			f.Problem = err.Error()
		default:
			info := stream.CachedInfo()
			f.Found = fmt.Sprintf("%d messages, %d bytes of %d, on %d servers", info.State.Msgs, info.State.Bytes, info.Config.MaxBytes, info.Config.Replicas)
			if info.Config.MaxBytes > 0 && int64(info.State.Bytes) > info.Config.MaxBytes/10*9 {
				f.Problem, f.Next = "it is more than nine tenths full", "raise its size"
			}
			if clock == nil && !info.TimeStamp.IsZero() {
				clock = lookAtClock(info.TimeStamp, before, after)
			}
		}
		all = append(all, f)
	}
	if clock != nil {
		all = append(all, *clock)
	}
	return all
}

func lookAtClock(server, before, after time.Time) *finding {
	offset := server.Sub(before.Add(after.Sub(before) / 2))
	f := &finding{What: "clock", Found: fmt.Sprintf("the server's is %s ahead of this one, give or take %s",
		offset.Round(time.Microsecond), (after.Sub(before) / 2).Round(time.Microsecond))}
	if offset.Abs() > clockDoubt {
		f.Problem, f.Next = "they are too far apart", "set one by the other (NTP)"
	}
	return f
}

func (a *app) lookAtWorkers(ctx context.Context, s *session) finding {
	f := finding{What: "workers"}
	workers, err := s.Workers(ctx)
	if err != nil {
		f.Problem = err.Error()
		return f
	}
	slots, busy := 0, 0
	kinds := map[runnel.Kind]int{}
	for _, w := range workers {
		slots, busy = slots+w.Slots, busy+w.Busy
		for _, k := range w.Kinds {
			kinds[k]++
		}
	}
	if len(workers) == 0 {
		f.Problem, f.Next = "there are none", "`worker start` starts one"
		return f
	}
	f.Found = fmt.Sprintf("%d with %d slots, %d busy; kinds:", len(workers), slots, busy)
	for _, k := range sortedKeys(kinds) {
		f.Found += fmt.Sprintf(" %s (%d)", k, kinds[k])
	}
	return f
}

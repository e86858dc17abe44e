package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
		Long: `doctor looks at the server and its version, at every stream with a test write that it removes
again, at the clock, at what the streams may take of the account's storage, and at the
workers. Each is a line: ok, warn or fail, and what to do. It exits with 1 if one fails.
How a worker's commands are ended on its machine "worker doctor" says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onSession(cmd.Context(), a.reach, a.examine)
		},
	}
}

// finding is one thing that doctor looked at.
type finding struct {
	What    string `json:"what"`
	State   string `json:"state"` // ok, warn, or fail: something does not work
	Found   string `json:"found,omitempty"`
	Problem string `json:"problem,omitempty"`
	Next    string `json:"next,omitempty"` // what to do
}

func (f finding) fail(problem, next string) finding {
	f.State, f.Problem, f.Next = "fail", problem, next
	return f
}

func (f finding) warn(problem, next string) finding {
	f.State, f.Problem, f.Next = "warn", problem, next
	return f
}

func (a *app) examine(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	findings := []finding{lookAtServer(s)}
	findings = append(findings, lookAtStreams(ctx, s)...)
	findings = append(findings, a.lookAtStorage(ctx, s)...)
	findings = append(findings, a.lookAtWorkers(ctx, s))
	failed := 0
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, f := range findings {
		if f.State == "" {
			f.State = "ok"
		}
		if f.State == "fail" {
			failed++
		}
		if a.json {
			if err := a.object(f); err != nil {
				return err
			}
			continue
		}
		parts := make([]string, 0, 3)
		for _, part := range []string{f.Found, oneLine(f.Problem), f.Next} {
			if part != "" {
				parts = append(parts, part)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, f.What, strings.Join(parts, ": "))
	}
	if err := w.Flush(); err != nil {
		return broken(err)
	}
	if failed > 0 {
		return &exitError{code: 1, text: fmt.Sprintf("doctor: %d of these fail", failed)}
	}
	return nil
}

func lookAtServer(s *session) finding {
	f := finding{What: "server"}
	rtt, err := s.nc.RTT()
	if err != nil {
		return f.fail(err.Error(), "see whether it runs, and whether the way to it is clear")
	}
	version := s.nc.ConnectedServerVersion()
	f.Found = fmt.Sprintf("%s, version %s, answers in %s", s.server, version, rtt.Round(time.Microsecond))
	if older(version, leastServer) {
		return f.fail("it is too old: what is stored is read in batches, which came with "+leastServer, "update it")
	}
	return f
}

// leastServer is the oldest version of NATS that has direct gets of many messages.
const leastServer = "2.11.0"

// older compares versions by their numbers. One that is not understood is not older.
func older(version, than string) bool {
	var v, t [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 2 {
		return false
	}
	_, _ = fmt.Sscanf(than, "%d.%d.%d", &t[0], &t[1], &t[2])
	return slices.Compare(v[:], t[:]) < 0
}

// lookAtStreams looks at every stream of the fleet, with a test write to each.
func lookAtStreams(ctx context.Context, s *session) []finding {
	var all []finding
	for _, i := range s.Inspect(ctx) {
		all = append(all, lookAtStream(i))
	}
	return all
}

func lookAtStream(i runnel.Inspection) finding {
	f := finding{What: "stream " + i.Stream}
	switch {
	case errors.Is(i.Err, runnel.ErrNoStream):
		return f.fail("it is not there", "`submit init` or the first worker makes it")
	case errors.Is(i.Err, runnel.ErrDenied):
		return f.warn(i.Err.Error(), "ask again as a user who may see the streams")
	case i.Err != nil && i.Replicas > 0:
		return f.fail(i.Err.Error(), "change it back, or use another --prefix: jobs can be lost or run twice")
	case i.Err != nil:
		return f.fail(i.Err.Error(), "see whether its servers run")
	}
	f.Found = fmt.Sprintf("%d messages, %s of %s, on %s", i.Messages, size(int64(i.Bytes)), size(i.MaxBytes), plural(i.Replicas, "server"))
	full := i.MaxBytes > 0 && int64(i.Bytes) > i.MaxBytes/10*9
	switch {
	case errors.Is(i.Write, runnel.ErrDenied):
		// A submitter may not: it is the streams that are looked at, and not his rights.
		f.Found += "; no test write, which this user may not"
	case errors.Is(i.Write, runnel.ErrFull) && !full:
		return f.fail(i.Write.Error(), "make room on the server's disk, then restart the server: without max_file_store it goes by what was free when it started")
	case errors.Is(i.Write, runnel.ErrFull):
		return f.fail(i.Write.Error(), "raise its max_bytes, or wait until something ages out")
	case errors.Is(i.Write, runnel.ErrUnknown):
		// What the disk did not take is not answered, and nor is anything after it until the server is started again.
		return f.fail(i.Write.Error(), "see the server's log; if its disk was full, make room and then restart it: what is queued and running goes on by itself")
	case i.Write != nil:
		return f.fail(i.Write.Error(), "see the server's log; if it names no reason, restart the server")
	}
	if full {
		return f.warn("more than nine tenths full", "raise its max_bytes")
	}
	if len(i.Drift) > 0 {
		var drift []string
		for _, d := range i.Drift {
			drift = append(drift, fmt.Sprintf("%s is %s, not %s", d.Setting, d.Have, d.Want))
		}
		return f.warn(strings.Join(drift, "; "), "right if somebody meant it so")
	}
	return f
}

// lookAtStorage adds up what the streams and buckets may take, and looks at the clock, whose time the answers carry.
func (a *app) lookAtStorage(ctx context.Context, s *session) []finding {
	f := finding{What: "storage"}
	js, err := jetstream.New(s.nc)
	if err != nil {
		return []finding{f.fail(err.Error(), "")}
	}
	var all []finding
	name := strings.ToUpper(a.prefix) + "_REPLY"
	before := time.Now()
	stream, err := js.Stream(ctx, name)
	if err == nil && !stream.CachedInfo().TimeStamp.IsZero() {
		all = append(all, lookAtClock(stream.CachedInfo().TimeStamp, before, time.Now()))
	}
	account, err := js.AccountInfo(ctx)
	if err != nil {
		return append(all, f.warn("this user may not ask what the account has: "+err.Error(), "ask again as one who may"))
	}
	var promised int64
	unbounded := 0
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		if info.Config.Storage != jetstream.FileStorage {
			continue
		}
		if info.Config.MaxBytes <= 0 {
			unbounded++
			continue
		}
		promised += info.Config.MaxBytes * int64(max(info.Config.Replicas, 1))
	}
	if err := list.Err(); err != nil {
		return append(all, f.warn("this user may not list the streams: "+err.Error(), "ask again as one who may"))
	}
	return append(all, weighStorage(f, account.Tier, promised, unbounded))
}

// leastFree is how much should be left to buckets that reserve nothing.
const leastFree = 1 << 30

func weighStorage(f finding, account jetstream.Tier, promised int64, unbounded int) finding {
	limit := account.Limits.MaxStore
	f.Found = fmt.Sprintf("%s in use, %s promised to streams with a bound, %s without one", size(int64(account.Store)), size(promised), plural(unbounded, "stream"))
	if limit <= 0 {
		f.Found += "; the account has no limit, so the server's disk is it"
		return f
	}
	f.Found += ", of the account's " + size(limit)
	switch {
	case int64(account.Store) > limit/10*9:
		return f.fail("more than nine tenths of the account's storage is in use", "raise its limit, or shorten how long things are kept")
	case promised > limit:
		return f.warn("the streams may take more than the account has", "raise its limit, or lower their max_bytes")
	case unbounded > 0 && limit-promised < leastFree:
		return f.warn(fmt.Sprintf("only %s is left to the streams without a bound, where files are kept", size(max(limit-promised, 0))), "raise the account's limit, or lower the max_bytes of the others")
	}
	return f
}

func lookAtClock(server, before, after time.Time) finding {
	doubt := after.Sub(before) / 2
	offset := server.Sub(before.Add(doubt))
	f := finding{What: "clock"}
	within := doubt.Round(time.Microsecond)
	switch {
	case offset.Abs() <= doubt:
		f.Found = fmt.Sprintf("in step with the server's, give or take %s", within)
	case offset > 0:
		f.Found = fmt.Sprintf("%s behind the server's, give or take %s", offset.Round(time.Microsecond), within)
	default:
		f.Found = fmt.Sprintf("%s ahead of the server's, give or take %s", (-offset).Round(time.Microsecond), within)
	}
	if offset.Abs()-doubt > clockDoubt {
		return f.warn("they are too far apart: times that are shown do not fit together", "set one by the other (NTP)")
	}
	return f
}

// size says a number of bytes; a bound that is none is said so.
func size(bytes int64) string {
	switch {
	case bytes < 0:
		return "any size"
	case bytes < 10<<10:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 10<<20:
		return fmt.Sprintf("%d KiB", bytes>>10)
	case bytes < 10<<30:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d GiB", bytes>>30)
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (a *app) lookAtWorkers(ctx context.Context, s *session) finding {
	f := finding{What: "workers"}
	workers, err := s.Workers(ctx)
	if err != nil {
		return f.fail(err.Error(), "")
	}
	return countWorkers(f, workers)
}

func countWorkers(f finding, workers []runnel.Presence) finding {
	slots, busy, open, possible := 0, 0, 0, 0
	kinds := map[runnel.Kind]int{}
	for _, w := range workers {
		slots, busy = slots+w.Slots, busy+w.Busy
		for _, k := range w.Kinds {
			kinds[k]++
		}
		var o, p int
		if n, _ := fmt.Sscanf(w.Capabilities["container.sandboxes"], "%d open of %d", &o, &p); n == 2 {
			open, possible = open+o, possible+p
		}
	}
	if len(workers) == 0 {
		return f.warn("there are none: what is submitted waits", "`worker start` starts one")
	}
	f.Found = fmt.Sprintf("%d with %d slots, %d busy; kinds:", len(workers), slots, busy)
	for _, k := range sortedKeys(kinds) {
		f.Found += fmt.Sprintf(" %s (%d)", k, kinds[k])
	}
	if possible > 0 {
		f.Found += fmt.Sprintf("; sandboxes: %d open of %d", open, possible)
	}
	return f
}

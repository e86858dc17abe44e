package worker_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// elsewhere is a runner whose work goes on when its worker is lost.
type elsewhere struct {
	resuming
	end func(context.Context, runner.Job) string
}

func (e elsewhere) Cancel(ctx context.Context, job runner.Job) string { return e.end(ctx, job) }

// lostRun is the run of every job that past makes.
const lostRun = "aaaaaaaa"

// past stores what is left of a job whose worker was lost in a run, and hands it in: the note of that run ("" is none),
// its end unless that is nil, and the result.
func (f *fleet) past(id, note string, end *contracts.End, result contracts.Result) {
	f.t.Helper()
	put := func(subject string, doc any) {
		f.t.Helper()
		data, err := contracts.Encode(doc)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.reply.Put(f.t.Context(), subject, nil, data); err != nil {
			f.t.Fatal(err)
		}
	}
	names, now, digest := f.topo.Names(), time.Now().UTC(), strings.Repeat("0", 64)
	put(names.Start("default", id, lostRun), contracts.Start{Run: lostRun, Attempt: 1, Worker: "gone", At: now, Digest: digest})
	c := contracts.Chunk{N: 1, At: now, Pieces: []contracts.Piece{{Stream: contracts.Stdout, Data: []byte("so far")}}}
	if note != "" {
		c.State, c.StateBytes = []byte(note), 6
	}
	put(names.Chunk("default", id, lostRun, 1), c)
	if end != nil {
		end.Run, end.Worker, end.At = lostRun, "gone", now
		put(names.End("default", id, lostRun), *end)
	}
	result.ID, result.Kind, result.Tenant, result.Pool, result.Lane = id, contracts.KindNoop, "default", "default", contracts.LaneNormal
	result.Digest, result.FinishedAt = digest, now
	put(names.Result("default", id), result)
	f.submit(contracts.Invocation{ID: id, Kind: contracts.KindNoop})
}

// words are what workers say to the queue of what they took.
func (f *fleet) words() func() string {
	f.t.Helper()
	sub, err := f.nc.SubscribeSync("$JS.ACK." + f.topo.InvokeStream() + ".>")
	if err == nil {
		err = f.nc.Flush()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return func() string {
		f.t.Helper()
		for {
			m, err := sub.NextMsg(time.Minute)
			if err != nil {
				f.t.Fatal(err)
			}
			if word := string(m.Data); word != "+WPI" {
				return word
			}
		}
	}
}

var byAsker = contracts.Result{Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled}

// What a lost run of a cancelled job left elsewhere is ended by the worker that takes it, unless somebody has.
func TestWhatIsElsewhereIsEnded(t *testing.T) {
	t.Parallel()
	byHolder := byAsker
	byHolder.Run, byHolder.Worker = lostRun, "gone"
	failed := contracts.End{Attempt: 1, Status: contracts.StatusFailed, Reason: contracts.ReasonInfra}
	counted := failed
	counted.Counted, counted.Reason, counted.NotBefore = true, contracts.ReasonExit, time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		note   string
		end    *contracts.End
		result contracts.Result
		told   bool
	}{
		"lost":                   {"7", nil, byAsker, true},
		"handed back":            {"7", &failed, byAsker, true},
		"ended by its holder":    {"7", nil, byHolder, false},
		"its holder came late":   {"7", &contracts.End{Attempt: 1, Status: contracts.StatusCancelled, Reason: contracts.ReasonCancelled}, byAsker, false},
		"that attempt had ended": {"7", &counted, byAsker, false},
		"nothing noted":          {"", nil, byAsker, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			word := f.words()
			var asked []runner.Job
			run := func(context.Context, int, runner.Job, runner.Keeper) (contracts.Outcome, error) {
				t.Error("it is run")
				return ok()
			}
			f.past("j", test.note, test.end, test.result)
			f.worker(worker.Config{Registry: runner.Registry{contracts.KindNoop: elsewhere{run, func(ctx context.Context, job runner.Job) string {
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("its time is not bounded")
				}
				asked = append(asked, job)
				return "the rest"
			}}}})
			if got := word(); got != "+ACK" { // and after it nothing more is done
				t.Errorf("the last word is %q, want +ACK", got)
			}
			if told := len(asked) == 1; told != test.told || len(asked) > 1 {
				t.Fatalf("asked %d times, want it %v", len(asked), test.told)
			}
			if !test.told {
				return
			}
			if job := asked[0]; job.ID != "j" || string(job.Resume) != "7" || job.Run != lostRun || job.Attempt != 1 {
				t.Errorf("asked to end %+v", job)
			}
			s, err := f.reply.Last(t.Context(), f.topo.Names().End("default", "j", lostRun))
			if err != nil {
				t.Fatal(err)
			}
			end, err := contracts.Decode[contracts.End](s.Data, contracts.Meta{})
			if err != nil || test.end == nil && (end.Status != contracts.StatusCancelled || end.Killed != "the rest" || end.Chunks != 1 || end.Worker == "gone") {
				t.Errorf("the end of the lost run is %+v, %v", end, err)
			}
			if n := f.count(f.reply, f.topo.Names().Starts("default", "j")); n != 1 {
				t.Errorf("%d starts are stored, want that of the lost run", n)
			}
		})
	}
}

// What does not answer holds up nothing else: not even when there is a lot of it.
func TestWhatIsElsewhereHoldsNothingUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	word := f.words()
	begun, release := make(chan struct{}, 10), make(chan struct{})
	run := func(_ context.Context, _ int, _ runner.Job, out runner.Keeper) (contracts.Outcome, error) {
		io.WriteString(out.Stream(contracts.Stdout, ""), "hi")
		return ok()
	}
	f.worker(worker.Config{Slots: 1, Registry: runner.Registry{contracts.KindNoop: elsewhere{run, func(context.Context, runner.Job) string {
		begun <- struct{}{}
		<-release
		return "the rest"
	}}}})
	f.past("mute", "7", nil, byAsker)
	<-begun
	f.past("next", "8", nil, byAsker)
	for _, want := range []string{`-NAK {"delay":`, "+ACK", "+ACK", "+ACK"} { // what is one too many comes again later
		if want == "+ACK" {
			if r := f.result(f.submit(contracts.Invocation{Kind: contracts.KindNoop})); r.Status != contracts.StatusSucceeded {
				t.Errorf("result = %+v", r)
			}
		}
		if got := word(); !strings.HasPrefix(got, want) {
			t.Errorf("the last word is %q, want %q", got, want)
		}
	}
	close(release)
	if got := word(); got != "+ACK" {
		t.Errorf("the last word on what answered late is %q", got)
	}
}

// Of a kind whose work ends with its worker, nobody looks what was left.
func TestNothingIsElsewhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	word := f.words()
	f.past("j", "7", nil, byAsker)
	f.worker(worker.Config{Registry: counting(func(context.Context, int, runner.Job, runner.Keeper) (contracts.Outcome, error) {
		t.Error("it is run")
		return ok()
	})})
	if got := word(); got != "+ACK" {
		t.Errorf("the last word is %q, want +ACK", got)
	}
}

package check_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/check"
	"github.com/runnel-project/runnel/internal/contracts"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key   = check.Key{Tenant: "default", ID: "job1"}
	token = "00112233445566aa"
	other = "ffeeddccbbaa9988"
)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func out(text string) []contracts.Piece {
	return []contracts.Piece{{Stream: contracts.Stdout, Data: []byte(text)}}
}

func printed(token string, from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "%s %d\n", token, i)
	}
	return b.String()
}

// good is a fault run that keeps every invariant: one invocation, a first run that
// its worker's death ended, a second one that succeeded with two chunks and a tail, watched.
func good() (check.Dump, check.Facts) {
	head := "run " + token + " default/job1\n"
	one, two, tail := head+printed(token, 1, 2), printed(token, 3, 4), printed(token, 5, 5)+token+" end 5\n"
	result := &contracts.Result{
		Worker: "w", ID: "job1", Tenant: "default", Digest: "abc", Status: contracts.StatusSucceeded, Run: "runbbbbb", Attempt: 1,
		Chunks: 2, Tail: out(tail), StdoutBytes: int64(len(one) + len(two) + len(tail)),
	}
	lost := "run " + other + " default/job1\n" + other + " 1\n"
	d := check.Dump{
		Taken: at(60),
		Replies: []check.Reply{
			{Key: key, Run: "runaaaaa", Seq: 1, At: at(1), Start: &contracts.Start{Run: "runaaaaa", Attempt: 1, At: at(1)}},
			{Key: key, Run: "runaaaaa", Seq: 2, At: at(1.1), Chunk: &contracts.Chunk{N: 1, Pieces: out(lost)}},
			{Key: key, Run: "runaaaaa", Seq: 3, At: at(11), End: &contracts.End{Run: "runaaaaa", Attempt: 1, Status: contracts.StatusFailed, Reason: contracts.ReasonInfra, NotBefore: at(12)}},
			{Key: key, Run: "runbbbbb", Seq: 4, At: at(12), Start: &contracts.Start{Run: "runbbbbb", Attempt: 1, At: at(12)}},
			{Key: key, Run: "runbbbbb", Seq: 5, At: at(12.1), Chunk: &contracts.Chunk{N: 1, Pieces: out(one)}},
			{Key: key, Run: "runbbbbb", Seq: 6, At: at(12.2), Chunk: &contracts.Chunk{N: 2, Pieces: out(two)}},
			{Key: key, Run: "runbbbbb", Seq: 7, At: at(13), Result: result},
		},
		Streams: []jetstream.StreamConfig{{
			Name: "RUNNEL_REPLY", MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, AllowDirect: true, MaxBytes: 1 << 30,
		}},
		Consumers: []string{"RUNNEL_INVOKE noop"}, Golden: []string{"RUNNEL_INVOKE noop"},
		Files: []check.File{{Key: key, Path: "a"}},
	}
	f := check.Facts{
		Submitted: map[check.Key]check.Submission{key: {Digest: "abc", Counted: true}},
		Results:   map[check.Key][]uint64{key: {7, 7}},
		Samples:   []check.Sample{{At: at(5), Accepted: []check.Key{key}, Invoke: map[check.Key]bool{key: true}}},
		Executions: []check.Execution{
			{Key: key, Token: other, PID: 10, Started: at(1), Gone: at(2)},
			{Key: key, Token: token, PID: 11, Started: at(12), Gone: at(13)},
		},
		Followers: []check.Follower{{Key: key, Name: "late", Ended: true, Events: []contracts.Event{
			{Type: contracts.EventOutput, Run: "runaaaaa", N: 1, Output: &out(lost)[0]},
			{Type: contracts.EventRestarted, Run: "runbbbbb"},
			{Type: contracts.EventOutput, Run: "runbbbbb", N: 1, Output: &out(one)[0]},
			{Type: contracts.EventOutput, Run: "runbbbbb", N: 2, Output: &out(two)[0]},
			{Type: contracts.EventOutput, Run: "runbbbbb", N: 0, Output: &out(tail)[0]},
			{Type: contracts.EventResult, Run: "runbbbbb", Result: result},
		}}},
		Beat: 3 * time.Second, Grace: 5 * time.Second, Slack: 100 * time.Millisecond, Settle: 10 * time.Second, Poison: 5,
	}
	return d, f
}

func TestCheckLetsAGoodRunPass(t *testing.T) {
	report := check.Check(good())
	for _, v := range report.Violations {
		t.Error(v)
	}
	if report.Executions != 2 || report.Second != 1 || report.Overlaps != 0 {
		t.Errorf("Check() counts %d executions, %d second, %d overlaps, want 2, 1, 0", report.Executions, report.Second, report.Overlaps)
	}
}

// Every invariant is broken at least once, and the checker says which and how.
func TestCheckNamesWhatIsBroken(t *testing.T) {
	type state struct {
		d *check.Dump
		f *check.Facts
	}
	result := func(s state) *contracts.Result { return s.d.Replies[6].Result }
	tests := map[string]struct {
		breaks func(s state)
		want   string
	}{
		"0 a message that cannot be read": {
			func(s state) { s.d.Unreadable = []string{"runnel.reply.x: no such subject"} }, "invariant 0: runnel.reply.x",
		},
		"1 no result": {
			func(s state) { s.d.Replies = s.d.Replies[:6] }, "invariant 1: default/job1: submitted, and has no result",
		},
		"1 two results": {
			func(s state) { s.d.Replies = append(s.d.Replies, s.d.Replies[6]) }, "invariant 1: default/job1: 2 results",
		},
		"1 a result that was replaced": {
			func(s state) { s.f.Results[key] = []uint64{7, 9} }, "invariant 1: default/job1: results were stored at",
		},
		"1 a result of nobody": {
			func(s state) { delete(s.f.Submitted, key) }, "never submitted",
		},
		"1 a dead letter of a success": {
			func(s state) { s.d.Dead = []check.Letter{{Key: key}} }, "dead letter without a failed",
		},
		"1 left in INVOKE": {
			func(s state) { s.d.Invoke = []check.Waiting{{Key: key}} }, "is in INVOKE 47s after its result",
		},
		"1 another's result": {
			func(s state) { result(s).Digest = "xyz" }, "invariant 1: default/job1: its result has digest xyz",
		},
		"1 not a last word": {
			func(s state) { result(s).Status = contracts.StatusRunning }, "no last word",
		},
		"1 a maybe that waits": {
			func(s state) {
				s.f.Submitted[key] = check.Submission{Maybe: true}
				s.d.Replies = s.d.Replies[:6]
				s.d.Invoke = []check.Waiting{{Key: key}}
			}, "invariant 1: default/job1: waits and has no result",
		},
		"2 nowhere": {
			func(s state) { s.f.Samples[0].Invoke = nil }, "invariant 2: default/job1: was in neither",
		},
		"3 a missing chunk": {
			func(s state) { s.d.Replies = append(s.d.Replies[:4], s.d.Replies[5:]...) }, "invariant 3: default/job1: chunk 1 of 2",
		},
		"3 a chunk too many": {
			func(s state) { result(s).Chunks = 1 }, "chunk 2 of run runbbbbb is stored, the result counts 1",
		},
		"3 bytes that nobody counted": {
			func(s state) { result(s).StdoutBytes++ }, "invariant 3: default/job1: 152 bytes of stdout are stored",
		},
		"3 a number left out": {
			func(s state) {
				s.d.Replies[5].Chunk.Pieces = out(printed(token, 4, 5))
			}, "where 00112233445566aa 3 was due",
		},
		"3 no end line": {
			func(s state) {
				result(s).StdoutBytes -= int64(len(result(s).Tail[0].Data))
				result(s).Tail = nil
			}, "ends with 4 and no end",
		},
		"3 a success without a run": {
			func(s state) { result(s).Run = "" }, "names no run",
		},
		"3 a success without output": {
			func(s state) {
				s.d.Replies[4].Chunk.Pieces, s.d.Replies[5].Chunk.Pieces = nil, nil
				result(s).Tail, result(s).StdoutBytes = nil, 0
			}, "nothing of its output",
		},
		"4 two processes in one run": {
			func(s state) { s.d.Replies[5].Chunk.Pieces = out(printed(other, 3, 4)) }, "invariant 4: default/job1: run runbbbbb holds the bytes of 2",
		},
		"4 one process in two runs": {
			func(s state) { s.d.Replies[1].Chunk.Pieces = out(printed(token, 1, 1)) }, "hold the bytes of one process",
		},
		"4 a chunk after the result": {
			func(s state) { s.d.Replies[5].Seq = 8 }, "chunk 2 of run runbbbbb is stored after the result",
		},
		"4 a chunk after the end of a cancelled run": {
			func(s state) {
				result(s).Status = contracts.StatusCancelled
				s.d.Replies[5].Seq = 10
				result(s).Worker, result(s).Chunks, result(s).Tail, result(s).StdoutBytes = "", 0, nil, 0
				s.d.Replies = append(s.d.Replies, check.Reply{Key: key, Run: "runbbbbb", Seq: 9, At: at(14), End: &contracts.End{Run: "runbbbbb"}})
			}, "stored after the result",
		},
		"5 before its time": {
			func(s state) { s.d.Replies[2].End.NotBefore = at(20) }, "invariant 5: default/job1: run runbbbbb started 8s before",
		},
		"5 more attempts than allowed": {
			func(s state) { s.d.Replies[2].End.Counted = true; result(s).Attempt = 2 }, "attempt 2, allowed are 1",
		},
		"5 a counted end that does not count": {
			func(s state) {
				s.f.Submitted[key] = check.Submission{Attempts: 2}
				s.d.Replies[2].End.Counted = true
			}, "attempt 1 after 1 counted ends",
		},
		"5 poison": {
			func(s state) {
				for i := range 6 {
					s.d.Replies = append(s.d.Replies, check.Reply{Key: key, Run: fmt.Sprint("x", i), Seq: 20, At: at(14), Start: &contracts.Start{}})
				}
			}, "6 starts without an end",
		},
		"6 an overlap": {
			func(s state) { s.f.Executions[0].Gone = at(12.5) }, "invariant 6: default/job1: processes 10 and 11 ran at one time",
		},
		"6 one that lives on": {
			func(s state) { s.f.Executions[1].Gone = time.Time{} }, "process 11 lived 47s after the result",
		},
		"6 a loser beyond its excuse": {
			func(s state) {
				s.f.Excused = map[check.Key]check.Excuse{key: {Until: at(20)}}
				s.f.Executions[0].Gone = at(30)
			}, "process 10 lived 10s after the result",
		},
		"7 a start after cancelled": {
			func(s state) {
				result(s).Status = contracts.StatusCancelled
				s.d.Replies[3].Start.At = at(14)
			}, "invariant 7: default/job1: run runbbbbb started 1s after",
		},
		"7 a process after cancelled": {
			func(s state) {
				result(s).Status = contracts.StatusCancelled
				s.f.Executions[1].Started, s.f.Executions[1].Gone = at(14), at(15)
			}, "invariant 7: default/job1: process 11 started 1s after",
		},
		"8 an artifact": {
			func(s state) { s.d.Files[0].Err = errors.New("digest differs") }, `invariant 8: default/job1: artifact "a": digest differs`,
		},
		"8 a consumer": {
			func(s state) { s.d.Consumers = append(s.d.Consumers, "RUNNEL_REPLY x") }, "invariant 8: consumer RUNNEL_REPLY x",
		},
		"8 an object": {
			func(s state) { s.d.Orphans = []string{"OBJ_x y"} }, "invariant 8: object OBJ_x y",
		},
		"8 a process": {
			func(s state) { s.f.Left = []string{"process 7 (sleep)"} }, "invariant 8: process 7 (sleep) was left behind",
		},
		"9 a byte less": {
			func(s state) { s.f.Followers[0].Events[3].Output.Data = []byte("x") }, "invariant 9: default/job1: follower late: chunk 2 differs",
		},
		"9 a chunk twice": {
			func(s state) {
				e := s.f.Followers[0].Events
				s.f.Followers[0].Events = append(e[:4:4], append([]contracts.Event{e[2]}, e[4:]...)...)
			}, "chunk 1 after chunk 2",
		},
		"9 no tail of a run that another cancelled": {
			func(s state) {
				r := result(s)
				end := &contracts.End{Run: "runbbbbb", Chunks: 2, Tail: out("more")}
				r.Status, r.Worker, r.Chunks, r.Tail, r.StdoutBytes = contracts.StatusCancelled, "", 0, nil, 0
				s.d.Replies = append(s.d.Replies, check.Reply{Key: key, Run: "runbbbbb", Seq: 9, At: at(14), End: end})
				e := s.f.Followers[0].Events
				s.f.Followers[0].Events = append(e[:4:4], contracts.Event{Type: contracts.EventEnded, End: end}, e[5])
			}, "the tail differs",
		},
		"9 no tail": {
			func(s state) {
				e := s.f.Followers[0].Events
				s.f.Followers[0].Events = append(e[:4:4], e[5])
			}, "the tail differs",
		},
		"9 a gap that is stored": {
			func(s state) {
				s.f.Followers[0].Events[3] = contracts.Event{Type: contracts.EventGap, Run: "runbbbbb", Gap: &contracts.Gap{From: 2, To: 2}}
			}, "chunk 2 is a gap, and is stored",
		},
		"9 two runs as one": {
			func(s state) { s.f.Followers[0].Events = s.f.Followers[0].Events[0:1:1] }, "its last event is not the result",
		},
		"9 no Restarted": {
			func(s state) {
				e := s.f.Followers[0].Events
				s.f.Followers[0].Events = append(e[:1:1], e[2:]...)
			}, "output of run runbbbbb under run runaaaaa",
		},
		"9 never ends": {
			func(s state) { s.f.Followers[0].Ended = false }, "never ended",
		},
		"9 ends with an error": {
			func(s state) { s.f.Followers[0].Err = errors.New("unknown") }, "ended with unknown",
		},
		"10 another tenant's output": {
			func(s state) {
				data := s.d.Replies[4].Chunk.Pieces[0].Data
				s.d.Replies[4].Chunk.Pieces[0].Data = []byte(strings.Replace(string(data), "default/", "neighbr/", 1))
			}, "the output of neighbr/job1",
		},
		"10 another tenant's result": {
			func(s state) { result(s).Tenant = "neighbour" }, "invariant 10: default/job1: its result says it is of neighbour/job1",
		},
		"10 rollup":      {func(s state) { s.d.Streams[0].AllowRollup = true }, "invariant 10: stream RUNNEL_REPLY: AllowRollup"},
		"10 message TTL": {func(s state) { s.d.Streams[0].AllowMsgTTL = true }, "AllowMsgTTL"},
		"10 marker TTL":  {func(s state) { s.d.Streams[0].SubjectDeleteMarkerTTL = time.Second }, "SubjectDeleteMarkerTTL"},
		"10 no fence":    {func(s state) { s.d.Streams[0].MaxMsgsPerSubject = -1 }, "MaxMsgsPerSubject"},
		"10 discard old": {func(s state) { s.d.Streams[0].Discard = jetstream.DiscardOld }, "Discard not new"},
		"10 unbounded":   {func(s state) { s.d.Streams[0].MaxBytes = -1 }, "MaxBytes unset"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, f := good()
			tt.breaks(state{&d, &f})
			var said []string
			for _, v := range check.Check(d, f).Violations {
				said = append(said, v.String())
			}
			if all := strings.Join(said, "\n"); !strings.Contains(all, tt.want) {
				t.Errorf("Check() = %q, want %q in it", all, tt.want)
			}
		})
	}
}

// What a fault excuses is counted and is no violation.
func TestCheckExcuses(t *testing.T) {
	tests := map[string]func(d *check.Dump, f *check.Facts){
		"an overlap under a frozen holder": func(d *check.Dump, f *check.Facts) {
			f.Executions[0].Gone = at(31)
			f.Excused = map[check.Key]check.Excuse{key: {Why: "frozen", Until: at(30)}}
		},
		"a submission that never arrived": func(d *check.Dump, f *check.Facts) {
			f.Submitted[check.Key{Tenant: "default", ID: "maybe"}] = check.Submission{Maybe: true}
		},
		"a run that another cancelled: its last chunk and its tail come before its end": func(d *check.Dump, f *check.Facts) {
			r := d.Replies[6].Result
			end := &contracts.End{Run: "runbbbbb", Chunks: 2, Tail: r.Tail}
			r.Status, r.Worker, r.Chunks, r.Tail, r.StdoutBytes = contracts.StatusCancelled, "", 0, nil, 0
			d.Replies[5].Seq = 8
			d.Replies = append(d.Replies, check.Reply{Key: key, Run: "runbbbbb", Seq: 9, At: at(14), End: end})
			events := f.Followers[0].Events
			f.Followers[0].Events = append(events[:5:5], contracts.Event{Type: contracts.EventEnded, Run: "runbbbbb", End: end}, events[5])
		},
		"a stopped run's half line": func(d *check.Dump, f *check.Facts) {
			r := d.Replies[6].Result
			r.Status = contracts.StatusTimedOut
			r.StdoutBytes -= int64(len(r.Tail[0].Data)) - 5
			r.Tail[0].Data = r.Tail[0].Data[:5]
			f.Followers[0].Events[4].Output = &r.Tail[0]
		},
		"a message on its way out of INVOKE": func(d *check.Dump, f *check.Facts) {
			d.Invoke, d.Taken = []check.Waiting{{Key: key}}, at(14)
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			d, f := good()
			change(&d, &f)
			for _, v := range check.Check(d, f).Violations {
				t.Error(v)
			}
		})
	}
}

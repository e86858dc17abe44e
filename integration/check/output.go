package check

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/runnel-project/runnel/internal/contracts"
)

// A counted job prints, on each stream that it uses:
//
//	run <token> <tenant>/<id>
//	<token> 1
//	<token> 2
//	<token> end 2
//
// The token is new for each process, so that the bytes of two of them cannot pass for one another.
var (
	headLine  = regexp.MustCompile(`^run ([0-9a-f]{16}) (\S+)$`)
	countLine = regexp.MustCompile(`^([0-9a-f]{16}) ([0-9]+)$`)
	endLine   = regexp.MustCompile(`^([0-9a-f]{16}) end ([0-9]+)$`)
	anyToken  = regexp.MustCompile(`(?m)^(?:run )?([0-9a-f]{16}) `)
)

// output holds invariants 3 and 4: what is stored of a run is what its process wrote, and of no other.
func (c *checker) output(j *job) {
	if c.Submitted[j.Key].Counted {
		c.oneRunEach(j)
	}
	result := j.result()
	if result == nil {
		return
	}
	r := result.Result
	if outsider(r) {
		c.afterCancel(j, result)
		return
	}
	if r.Run == "" {
		switch {
		case r.Status == contracts.StatusSucceeded:
			c.say(3, j.Key, "succeeded, and its result names no run")
		case r.Chunks > 0:
			c.say(3, j.Key, "its result counts %d chunks of no run", r.Chunks)
		}
		return
	}
	own := j.runs[r.Run]
	if own == nil {
		own = &run{name: r.Run}
	}
	for n := range r.Chunks {
		if _, ok := own.chunks[n+1]; !ok {
			c.say(3, j.Key, "chunk %d of %d of run %s is not stored", n+1, r.Chunks, r.Run)
		}
	}
	for n, chunk := range own.chunks {
		switch {
		case n < 1 || n > r.Chunks:
			c.say(3, j.Key, "chunk %d of run %s is stored, the result counts %d", n, r.Run, r.Chunks)
		case chunk.Seq > result.Seq:
			c.say(4, j.Key, "chunk %d of run %s is stored after the result", n, r.Run)
		}
	}
	c.bytes(j, own, r)
}

// outsider reports whether r was stored by who asked for a cancel, in the place of a holder
// that did not answer: it knows nothing of the output.
func outsider(r *contracts.Result) bool {
	return r.Status == contracts.StatusCancelled && r.Worker == ""
}

// afterCancel holds that a holder that finds itself cancelled says what is left before its end, and nothing after it.
func (c *checker) afterCancel(j *job, result *Reply) {
	for _, r := range j.runs {
		for n, chunk := range r.chunks {
			if chunk.Seq > result.Seq && (r.end == nil || chunk.Seq > r.end.Seq) {
				c.say(4, j.Key, "chunk %d of run %s is stored after the result", n, r.name)
			}
		}
		if r.end == nil {
			continue
		}
		for n := range r.end.End.Chunks {
			if _, ok := r.chunks[n+1]; !ok {
				c.say(3, j.Key, "chunk %d of %d of run %s is not stored", n+1, r.end.End.Chunks, r.name)
			}
		}
	}
}

// bytes compares what is stored of the winning run with what the result and the job say of it.
func (c *checker) bytes(j *job, own *run, r *contracts.Result) {
	pieces := stored(own, r.Chunks)
	pieces = append(pieces, r.Tail...)
	for stream, want := range map[contracts.Stream]int64{contracts.Stdout: r.StdoutBytes, contracts.Stderr: r.StderrBytes} {
		data, cut := join(pieces, stream)
		if int64(len(data))+cut != want {
			c.say(3, j.Key, "%d bytes of %s are stored and %d cut, the result says %d", len(data), stream, cut, want)
		}
		if c.Submitted[j.Key].Counted && len(data) > 0 && cut == 0 {
			if err := counted(data, j.Key, r.Status == contracts.StatusSucceeded); err != nil {
				c.say(3, j.Key, "%s of run %s: %v", stream, r.Run, err)
			}
		}
	}
	if data, _ := join(pieces, contracts.Stdout); c.Submitted[j.Key].Counted && r.Status == contracts.StatusSucceeded && len(data) == 0 {
		c.say(3, j.Key, "succeeded, and nothing of its output is stored")
	}
}

// oneRunEach holds that no run's subjects hold bytes of two processes, nor two runs' those of one.
func (c *checker) oneRunEach(j *job) {
	owner := map[string]string{}
	for _, r := range j.runs {
		var tail []contracts.Piece
		if r.end != nil {
			tail = r.end.End.Tail
		}
		if result := j.result(); result != nil && result.Result.Run == r.name {
			tail = append(slices.Clone(tail), result.Result.Tail...)
		}
		tokens := map[string]bool{}
		for _, stream := range []contracts.Stream{contracts.Stdout, contracts.Stderr} {
			data, _ := join(append(stored(r, len(r.chunks)), tail...), stream)
			for _, found := range anyToken.FindAllSubmatch(data, -1) {
				tokens[string(found[1])] = true
			}
		}
		if len(tokens) > 1 {
			c.say(4, j.Key, "run %s holds the bytes of %d processes", r.name, len(tokens))
		}
		for token := range tokens {
			if other, ok := owner[token]; ok {
				c.say(4, j.Key, "runs %s and %s hold the bytes of one process", other, r.name)
			}
			owner[token] = r.name
		}
	}
}

// stored returns the pieces of the first n chunks of r that are there, in order.
func stored(r *run, n int) []contracts.Piece {
	var pieces []contracts.Piece
	for i := range n {
		if chunk, ok := r.chunks[i+1]; ok {
			pieces = append(pieces, chunk.Chunk.Pieces...)
		}
	}
	return pieces
}

// join returns the bytes of one stream, and how many of it were left out.
func join(pieces []contracts.Piece, stream contracts.Stream) (data []byte, cut int64) {
	for _, p := range pieces {
		if p.Stream == stream {
			data = append(data, p.Data...)
			cut += p.Cut
		}
	}
	return data, cut
}

// counted reports what is wrong with a counted job's output. A job that was stopped has no end line;
// one that was not has.
func counted(data []byte, k Key, whole bool) error {
	lines := strings.Split(string(bytes.TrimSuffix(data, []byte("\n"))), "\n")
	head := headLine.FindStringSubmatch(lines[0])
	switch {
	case head == nil:
		return fmt.Errorf("it begins with %.40q", lines[0])
	case head[2] != k.String():
		return fmt.Errorf("it is the output of %s", head[2])
	}
	want := 1
	for i, line := range lines[1:] {
		last := i == len(lines)-2
		if m := countLine.FindStringSubmatch(line); m != nil && m[1] == head[1] && m[2] == strconv.Itoa(want) {
			want++
			continue
		}
		if m := endLine.FindStringSubmatch(line); m != nil && m[1] == head[1] && m[2] == strconv.Itoa(want-1) && last {
			return nil
		}
		if last && !whole && !bytes.HasSuffix(data, []byte("\n")) {
			return nil // the process was stopped in the middle of a line
		}
		return fmt.Errorf("%.40q where %s %d was due", line, head[1], want)
	}
	if whole {
		return fmt.Errorf("it ends with %d and no end", want-1)
	}
	return nil
}

// follower holds invariant 9: every stored byte once, in order, or a gap by name; and then the result.
func (c *checker) follower(f Follower) {
	say := func(format string, a ...any) { c.say(9, f.Key, "follower "+f.Name+": "+format, a...) }
	if !f.Ended {
		say("never ended")
		return
	}
	if f.Err != nil {
		say("ended with %v", f.Err)
		return
	}
	j := c.job(f.Key)
	result := j.result()
	if result == nil {
		return // invariant 1 says so
	}
	last := len(f.Events) - 1
	if last < 0 || f.Events[last].Type != contracts.EventResult || f.Events[last].Result == nil || f.Events[last].Result.Run != result.Result.Run {
		say("its last event is not the result")
		return
	}
	shown := map[int][]contracts.Piece{}
	gone := map[int]bool{}
	at, current := 0, ""
	for i, e := range f.Events {
		switch e.Type {
		case contracts.EventResult:
			if i != last {
				say("a result is not its last event")
			}
		case contracts.EventRestarted:
			shown, gone, at, current = map[int][]contracts.Piece{}, map[int]bool{}, 0, e.Run
		case contracts.EventGap:
			for n := e.Gap.From; n <= e.Gap.To; n++ {
				gone[n] = true
			}
			at = max(at, e.Gap.To)
		case contracts.EventOutput:
			if current != "" && e.Run != current {
				say("output of run %s under run %s", e.Run, current)
			}
			current = e.Run
			if e.N != 0 && e.N < at {
				say("chunk %d after chunk %d", e.N, at)
			}
			at = max(at, e.N)
			shown[e.N] = append(shown[e.N], *e.Output)
		}
	}
	r := result.Result
	if r.Run == "" {
		return
	}
	if len(shown) > 0 && current != r.Run {
		say("it shows run %s, the result is of %s", current, r.Run)
		return
	}
	own, chunks, tail := j.runs[r.Run], r.Chunks, r.Tail
	if outsider(r) {
		// The holder's end says what there was; a Watch waits for it, but not for ever.
		if own == nil || own.end == nil || !slices.ContainsFunc(f.Events, func(e contracts.Event) bool { return e.End != nil && e.End.Run == r.Run }) {
			return
		}
		chunks, tail = own.end.End.Chunks, own.end.End.Tail
	}
	for n := 1; own != nil && n <= chunks; n++ {
		chunk, ok := own.chunks[n]
		switch {
		case !ok: // invariant 3 says so
		case gone[n]:
			say("chunk %d is a gap, and is stored", n)
		case !same(shown[n], chunk.Chunk.Pieces):
			say("chunk %d differs from what is stored", n)
		}
	}
	if !same(shown[0], tail) {
		say("the tail differs from what is stored")
	}
}

// same compares output by stream: how it is cut into pieces does not matter.
func same(a, b []contracts.Piece) bool {
	for _, stream := range []contracts.Stream{contracts.Stdout, contracts.Stderr} {
		dataA, cutA := join(a, stream)
		dataB, cutB := join(b, stream)
		if !bytes.Equal(dataA, dataB) || cutA != cutB {
			return false
		}
	}
	return true
}

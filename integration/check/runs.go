package check

import (
	"slices"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// attempts holds invariant 5: what counts against a job, and when it may start again.
func (c *checker) attempts(j *job) {
	var counted, endless int
	for _, r := range j.runs {
		if r.end != nil && r.end.End.Counted {
			counted++
		}
		if r.start != nil && r.end == nil && (j.result() == nil || j.result().Result.Run != r.name) {
			endless++
		}
		if r.start == nil {
			continue
		}
		for _, other := range j.runs {
			if other.end == nil || other.end.Seq > r.start.Seq || other.end.End.NotBefore.IsZero() {
				continue
			}
			if early := other.end.End.NotBefore.Sub(r.start.At); early > c.Slack {
				c.say(5, j.Key, "run %s started %v before the end of run %s lets it", r.name, early, other.name)
			}
		}
	}
	allowed := max(c.Submitted[j.Key].Attempts, 1)
	if result := j.result(); result != nil {
		r := result.Result
		if r.Run != "" && r.Attempt > allowed {
			c.say(5, j.Key, "attempt %d, allowed are %d", r.Attempt, allowed)
		}
		// The result may be written from the ends: then the run it names has one that counts itself.
		if own := j.runs[r.Run]; r.Run != "" && (own == nil || own.end == nil || !own.end.End.Counted) && r.Attempt != counted+1 {
			c.say(5, j.Key, "attempt %d after %d counted ends", r.Attempt, counted)
		}
	}
	if counted > allowed {
		c.say(5, j.Key, "%d runs ended by the job's own doing, allowed are %d", counted, allowed)
	}
	if c.Poison > 0 && endless > c.Poison {
		c.say(5, j.Key, "%d starts without an end, the limit is %d", endless, c.Poison)
	}
}

// executions holds invariant 6: one process at a time, and none long after the result.
func (c *checker) executions(j *job) {
	slices.SortFunc(j.execs, func(a, b Execution) int { return a.Started.Compare(b.Started) })
	tokens := map[string]bool{}
	for _, e := range j.execs {
		tokens[e.Token] = true
	}
	c.report.Executions += len(tokens)
	c.report.Second += max(len(tokens)-1, 0)
	excuse, excused := c.Excused[j.Key]
	for i, e := range j.execs {
		for _, later := range j.execs[i+1:] {
			if e.Token == later.Token { // a child of the same job
				continue
			}
			if !e.Gone.IsZero() && later.Started.Add(c.Slack).After(e.Gone) {
				continue
			}
			c.report.Overlaps++
			if !excused {
				c.say(6, j.Key, "processes %d and %d ran at one time, from %s", e.PID, later.PID, later.Started.Format(time.StampMilli))
			}
		}
		result := j.result()
		if result == nil {
			continue
		}
		from := result.At
		if excuse.Until.After(from) {
			from = excuse.Until
		}
		if e.Started.After(from) {
			from = e.Started
		}
		gone := e.Gone
		if gone.IsZero() {
			gone = c.Taken
		}
		if late := gone.Sub(from); late > c.Beat+c.Grace+c.Slack {
			c.say(6, j.Key, "process %d lived %v after the result", e.PID, late.Round(time.Millisecond))
		}
	}
}

// cancelled holds invariant 7: after `cancelled` nothing starts.
func (c *checker) cancelled(j *job) {
	result := j.result()
	if result == nil || result.Result.Status != contracts.StatusCancelled {
		return
	}
	for _, r := range j.runs {
		if r.start != nil && r.start.Start.At.After(result.At.Add(c.Slack)) {
			c.say(7, j.Key, "run %s started %v after it was cancelled", r.name, r.start.Start.At.Sub(result.At))
		}
	}
	for _, e := range j.execs {
		if e.Started.After(result.At.Add(c.Slack)) {
			c.say(7, j.Key, "process %d started %v after it was cancelled", e.PID, e.Started.Sub(result.At))
		}
	}
}

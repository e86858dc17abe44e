package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Violation is an invariant that does not hold.
type Violation struct {
	// Invariant is its number; 0 is a message that cannot be read.
	Invariant int
	Key       Key
	Text      string
}

func (v Violation) String() string {
	if v.Key == (Key{}) {
		return fmt.Sprintf("invariant %d: %s", v.Invariant, v.Text)
	}
	return fmt.Sprintf("invariant %d: %s: %s", v.Invariant, v.Key, v.Text)
}

// Report is the verdict on a dump.
type Report struct {
	Violations []Violation
	// Executions counts processes, Second those beyond the first of an invocation, Overlaps pairs that lived at one time.
	Executions, Second, Overlaps int
}

// Check holds d against the invariants.
func Check(d Dump, f Facts) Report {
	c := checker{Dump: d, Facts: f, jobs: map[Key]*job{}}
	c.sort()
	for _, text := range d.Unreadable {
		c.say(0, Key{}, "%s", text)
	}
	c.house()
	c.samples()
	for _, j := range c.ordered() {
		c.results(j)
		c.attempts(j)
		c.output(j)
		c.executions(j)
		c.cancelled(j)
	}
	for _, follower := range f.Followers {
		c.follower(follower)
	}
	return c.report
}

// job gathers all that is known of one invocation.
type job struct {
	Key
	waiting *Waiting
	runs    map[string]*run
	results []Reply
	dead    []Letter
	execs   []Execution
}

// run is what is stored of one run.
type run struct {
	name   string
	start  *Reply
	end    *Reply
	chunks map[int]Reply
}

type checker struct {
	Dump
	Facts
	jobs   map[Key]*job
	report Report
}

func (c *checker) say(invariant int, k Key, format string, a ...any) {
	c.report.Violations = append(c.report.Violations, Violation{invariant, k, fmt.Sprintf(format, a...)})
}

func (c *checker) job(k Key) *job {
	j := c.jobs[k]
	if j == nil {
		j = &job{Key: k, runs: map[string]*run{}}
		c.jobs[k] = j
	}
	return j
}

func (j *job) run(name string) *run {
	r := j.runs[name]
	if r == nil {
		r = &run{name: name, chunks: map[int]Reply{}}
		j.runs[name] = r
	}
	return r
}

// result returns the one result, or nil.
func (j *job) result() *Reply {
	if len(j.results) == 0 {
		return nil
	}
	return &j.results[0]
}

// sort files every message under its invocation and run.
func (c *checker) sort() {
	for k := range c.Submitted {
		c.job(k)
	}
	for i := range c.Invoke {
		c.job(c.Invoke[i].Key).waiting = &c.Invoke[i]
	}
	for i, r := range c.Replies {
		j := c.job(r.Key)
		switch {
		case r.Result != nil:
			j.results = append(j.results, r)
		case r.Start != nil:
			j.run(r.Run).start = &c.Replies[i]
		case r.End != nil:
			j.run(r.Run).end = &c.Replies[i]
		case r.Chunk != nil:
			j.run(r.Run).chunks[r.Chunk.N] = r
		}
	}
	for _, l := range c.Dead {
		c.job(l.Key).dead = append(c.job(l.Key).dead, l)
	}
	for _, e := range c.Executions {
		c.job(e.Key).execs = append(c.job(e.Key).execs, e)
	}
}

func (c *checker) ordered() []*job {
	jobs := make([]*job, 0, len(c.jobs))
	for _, j := range c.jobs {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b *job) int {
		return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.ID, b.ID))
	})
	return jobs
}

// results holds invariant 1: one result each, and nothing left over.
func (c *checker) results(j *job) {
	asked, known := c.Submitted[j.Key]
	result := j.result()
	switch {
	case len(j.results) > 1:
		c.say(1, j.Key, "%d results are stored", len(j.results))
	case len(slices.Compact(slices.Sorted(slices.Values(c.Results[j.Key])))) > 1:
		c.say(1, j.Key, "results were stored at %v", c.Results[j.Key])
	case result == nil && known && !asked.Maybe:
		c.say(1, j.Key, "submitted, and has no result")
	case result == nil && asked.Maybe && j.waiting != nil:
		c.say(1, j.Key, "waits and has no result")
	case result != nil && !known:
		c.say(1, j.Key, "has a result and was never submitted")
	}
	for range j.dead {
		if result == nil || (result.Result.Status != contracts.StatusFailed && result.Result.Status != contracts.StatusRejected) {
			c.say(1, j.Key, "is a dead letter without a failed or rejected result")
		}
	}
	if j.waiting != nil && result != nil && c.Taken.Sub(result.At) > c.Settle {
		c.say(1, j.Key, "is in INVOKE %v after its result", c.Taken.Sub(result.At).Round(time.Millisecond))
	}
	if result == nil {
		return
	}
	r := result.Result
	if r.ID != j.ID || r.Tenant != j.Tenant {
		c.say(10, j.Key, "its result says it is of %s/%s", r.Tenant, r.ID)
	}
	if !r.Status.Ended() {
		c.say(1, j.Key, "its result says %q, which is no last word", r.Status)
	}
	if asked.Digest != "" && r.Digest != "" && r.Digest != asked.Digest {
		c.say(1, j.Key, "its result has digest %.8s, what was submitted %.8s", r.Digest, asked.Digest)
	}
}

// samples holds invariant 2: an accepted invocation is always somewhere.
func (c *checker) samples() {
	for _, s := range c.Samples {
		for _, k := range s.Accepted {
			if !s.Invoke[k] && !s.Replied[k] {
				c.say(2, k, "was in neither INVOKE nor REPLY at %s", s.At.Format(time.StampMilli))
			}
		}
	}
}

// house holds what is left of invariant 8 and the settings of invariant 10.
func (c *checker) house() {
	for _, f := range c.Files {
		if f.Err != nil {
			c.say(8, f.Key, "artifact %q: %v", f.Path, f.Err)
		}
	}
	for _, name := range c.Consumers {
		if !slices.Contains(c.Golden, name) {
			c.say(8, Key{}, "consumer %s is not on the list", name)
		}
	}
	for _, name := range c.Orphans {
		c.say(8, Key{}, "object %s has no meta", name)
	}
	for _, left := range c.Left {
		c.say(8, Key{}, "%s was left behind", left)
	}
	for _, s := range c.Streams {
		for setting, wrong := range map[string]bool{
			"AllowRollup":              s.AllowRollup,
			"AllowMsgTTL":              s.AllowMsgTTL,
			"SubjectDeleteMarkerTTL":   s.SubjectDeleteMarkerTTL != 0,
			"MaxMsgsPerSubject not 1":  s.MaxMsgsPerSubject != 1,
			"Discard not new":          s.Discard.String() != "DiscardNew",
			"DiscardNewPerSubject off": !s.DiscardNewPerSubject,
			"AllowDirect off":          !s.AllowDirect,
			"MaxBytes unset":           s.MaxBytes <= 0,
		} {
			if wrong {
				c.say(10, Key{}, "stream %s: %s", s.Name, setting)
			}
		}
	}
}

package container_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// Whatever jobs leave and do, no other one sees anything of it, of its own tenant or of another, and every output and
// every file goes to whom it belongs to.
func TestWarmIsolation(t *testing.T) {
	t.Parallel()
	jobs := 100
	if n, err := strconv.Atoi(os.Getenv("RUNNEL_ROUNDS")); err == nil && n >= 10 {
		jobs = 1000
	}
	// In this order: what comes later would keep what comes before from being done.
	kinds := []string{"files", "links", "ipc", "mqueue", "frames", "deep", "process", "signals", "locked", "holder", "daemon", "closed"}
	// Of each tenant's jobs every other one has its output relayed.
	runners := []*container.Runner{warmed(t, 2, container.Config{WarmJobs: 40}), warmed(t, 2, container.Relayed(container.Config{WarmJobs: 40}))}
	var mu sync.Mutex
	counts, boxes := map[string]int{}, map[string]map[string]int{}
	var bad []string
	name := regexp.MustCompile("HOSTNAME=(.*)")
	one := func(i int) {
		token := fmt.Sprintf("token%dof%d", i, rand.Uint64())
		job := warm(t, "visit", token)
		job.Tenant, job.ID = "tenant"+strconv.Itoa(i%2), token
		var did []string
		for _, kind := range kinds {
			if rand.IntN(4) == 0 {
				did = append(did, kind)
			}
		}
		job.Command = append(job.Command, did...)
		write(t, filepath.Join(job.Dir, "given"), token, 0o600)
		job.Stdin = io.MultiReader(strings.NewReader(token))
		sink := &runnertest.Sink{}
		o, err := runners[i/2%2].Run(t.Context(), job, sink)
		out := sink.Stdout() + sink.Stderr()
		wrong := func(format string, a ...any) {
			mu.Lock()
			defer mu.Unlock()
			bad = append(bad, fmt.Sprintf("job %d, after %v: ", i, did)+fmt.Sprintf(format, a...)+fmt.Sprintf("\n%+v, %v\n%s", o, err, out))
		}
		mu.Lock()
		counts[strings.SplitN(o.Metadata["container.warm"], ":", 2)[0]]++
		if m := name.FindStringSubmatch(out); m != nil && o.Metadata["container.warm"] == "hit" {
			if boxes[m[1]] == nil {
				boxes[m[1]] = map[string]int{}
			}
			boxes[m[1]][job.Tenant]++
		}
		mu.Unlock()
		fresh := o.Metadata["container.warm"] != "hit" // where process 1 is an init, and the same user
		if err != nil || !fresh && o.Status != contracts.StatusSucceeded {
			wrong("it does not end well")
		}
		if strings.Contains(out, "trace ") && !fresh {
			wrong("it sees traces")
		}
		if !strings.Contains(out, "given "+token+" <nil>\n") || !strings.Contains(out, "input "+token+" <nil>\n") || strings.Count(out, "token") != strings.Count(out, token) {
			wrong("it has what is not its own")
		}
		for name := range tree(t, job.Artifacts) {
			if !strings.Contains(name, token) {
				wrong("its artifact is %s", name)
			}
		}
	}
	began := time.Now()
	next := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range next {
				one(i)
			}
		})
	}
	for i := range jobs {
		next <- i
	}
	close(next)
	all.Wait()
	for _, what := range bad[:min(len(bad), 5)] {
		t.Error(what)
	}
	for box, tenants := range boxes {
		if len(tenants) != 1 {
			t.Errorf("container %s ran jobs of %v", box, tenants)
		}
	}
	if counts["hit"] < jobs/2 {
		t.Errorf("%d of %d jobs were in a warm container", counts["hit"], jobs)
	}
	t.Logf("figure: %d jobs of two tenants, each after another's mess: %d in %d warm containers, %d fresh, %d wrong, in %s",
		jobs, counts["hit"], len(boxes), counts["miss"], len(bad), time.Since(began).Round(time.Millisecond))
}

package container

import (
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/system"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// All that a setup's result can depend on is in its digest, and nothing that is the job's alone.
func TestDigestOfASetup(t *testing.T) {
	job := func() runner.Job {
		return runner.Job{Run: contracts.NewRun(), Dir: t.TempDir(), Invocation: contracts.Invocation{
			ID: contracts.NewRun(), Tenant: "alice", Kind: contracts.KindContainer,
			Container: &contracts.Container{Image: "tool", Setup: &contracts.Setup{Command: []string{"a", "b"}}},
		}}
	}
	r := &Runner{owner: &owner{name: "abcd2345", host: "here", path: "/work/.lock"}}
	r.cfg, _ = Config{}.withDefaults()
	e := &engine{info: system.Info{MemTotal: 1 << 40, NCPU: 64}}
	digest := func(r *Runner, job runner.Job, image string) string {
		t.Helper()
		p, err := r.setup(job, e)
		if err != nil {
			t.Fatal(err)
		}
		key, err := r.digest(p, image)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := digest(r, job(), "sha256:1")
	for name, change := range map[string]func(*runner.Job){
		"environment": func(j *runner.Job) { j.Environment = map[string]string{"A": "b"} },
		"command":     func(j *runner.Job) { j.Command = []string{"x"} },
		"user":        func(j *runner.Job) { j.Container.User = "7" },
		"network":     func(j *runner.Job) { j.Container.Network = "bridge" },
		"memory":      func(j *runner.Job) { j.Container.MemoryBytes = 64 << 20 },
		"the default": func(j *runner.Job) { j.Container.Setup.User, j.Container.Setup.Network = "0:0", "none" },
		"its time":    func(j *runner.Job) { j.Container.Setup.TimeoutSeconds = 7 },
	} {
		other := job()
		change(&other)
		if digest(r, other, "sha256:1") != first {
			t.Errorf("with another %s of the job it is another setup", name)
		}
	}
	seen := map[string]string{first: "itself", digest(r, job(), "sha256:2"): "image"}
	there := &Runner{cfg: r.cfg, owner: &owner{name: "abcd2345", host: "there", path: "/work/.lock"}}
	seen[digest(there, job(), "sha256:1")] = "machine"
	there.owner = &owner{name: "abcd2345", host: "here", path: "/other/.lock"}
	seen[digest(there, job(), "sha256:1")] = "work directory"
	for name, change := range map[string]func(*runner.Job){
		"tenant":      func(j *runner.Job) { j.Tenant = "bob" },
		"command":     func(j *runner.Job) { j.Container.Setup.Command = []string{"a b"} },
		"environment": func(j *runner.Job) { j.Container.Setup.Environment = map[string]string{"A": ""} },
		"user":        func(j *runner.Job) { j.Container.Setup.User = "1" },
		"network":     func(j *runner.Job) { j.Container.Setup.Network = "bridge" },
		"platform":    func(j *runner.Job) { j.Container.Platform = "linux/arm64" },
		"tmpfs":       func(j *runner.Job) { j.Container.Tmpfs = []contracts.Tmpfs{{Path: "/opt"}} },
	} {
		other := job()
		change(&other)
		key := digest(r, other, "sha256:1")
		if same := seen[key]; same != "" {
			t.Errorf("another %s makes the same setup as another %s", name, same)
		}
		seen[key] = name
	}
	if len(seen) != 11 {
		t.Errorf("%d digests, want 11", len(seen))
	}
}

// What setups left is bounded in number, size and age, the least lately used goes first, and nothing goes that is in use
// or another's.
func TestSetupsAreSwept(t *testing.T) {
	t.Parallel()
	base := enginetest.Image(t)
	r, err := New(Config{WorkRoot: t.TempDir(), MaxSetups: 3})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var clean []func()
	t.Cleanup(func() {
		for _, f := range slices.Backward(clean) {
			f()
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	contain := func(of, name string) {
		made, err := r.api.ContainerCreate(ctx, &container.Config{Image: of, Cmd: []string{"/job"}}, nil, nil, nil, name+r.owner.name)
		if err != nil {
			t.Fatal(err)
		}
		clean = append(clean, func() {
			if err := r.api.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		})
	}
	contain(base, "runnel-test-base-")
	now := time.Now()
	ids := map[string]string{}
	leave := func(name string, bytes int, until time.Time, more map[string]string) {
		labels := r.owner.labels()
		maps.Copy(labels, map[string]string{
			labelSetup: name, labelSetupUntil: strconv.FormatInt(until.Unix(), 10), labelSetupBytes: strconv.Itoa(bytes), labelRun: name,
		})
		maps.Copy(labels, more)
		made, err := r.api.ContainerCommit(ctx, "runnel-test-base-"+r.owner.name, container.CommitOptions{
			Reference: setupName(name + r.owner.name), Config: &container.Config{Labels: labels},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = made.ID
		clean = append(clean, func() {
			_, _ = r.api.ImageRemove(context.Background(), made.ID, image.RemoveOptions{Force: true})
		})
	}
	left := func() (names []string) {
		for name, id := range ids {
			if _, err := r.api.ImageInspect(ctx, id); err == nil {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	hour := now.Add(time.Hour)
	leave("inuse", 10, hour, nil)
	contain(ids["inuse"], "runnel-test-inuse-")
	for _, name := range []string{"a", "b", "c", "d"} {
		leave(name, 10, hour, nil)
	}
	leave("old", 10, now.Add(-time.Hour), nil)
	leave("elsewhere", 10, now.Add(-time.Hour), map[string]string{labelHost: "another"})
	root2 := filepath.Join(t.TempDir(), lockName("abcd2345"))
	leave("deadroot", 10, now.Add(-time.Hour), map[string]string{labelLock: root2})
	leave("otherroot", 10, hour, map[string]string{labelLock: root2})
	name := setupName("a" + r.owner.name)
	if err := r.api.ImageTag(ctx, name, name); err != nil { // as keptSetup does for who uses it
		t.Fatal(err)
	}

	r.sweepSetups(ctx, now) // all of them were used a moment ago
	if got := left(); len(got) != len(ids) {
		t.Errorf("left are %v of %d used lately", got, len(ids))
	}
	later := now.Add(10 * time.Minute)
	for _, step := range []struct {
		bytes int64
		want  string
	}{
		{1 << 30, "a d elsewhere inuse otherroot"},
		{20, "a elsewhere inuse otherroot"},
		{1, "elsewhere inuse otherroot"},
	} {
		r.cfg.MaxSetupBytes = step.bytes
		r.sweepSetups(ctx, later)
		if got := strings.Join(left(), " "); got != step.want {
			t.Errorf("with %d bytes left are %s, want %s", step.bytes, got, step.want)
		}
	}
	if _, err := r.api.ImageInspect(ctx, base); err != nil {
		t.Errorf("the image that they were made of: %v", err)
	}
}

// An image that was kept for as long as it may be is not used any more, and neither is one that another key names.
func TestAgedSetupIsDoneAnew(t *testing.T) {
	now := time.Now()
	for text, want := range map[string]bool{
		"": true, "soon": true, strconv.FormatInt(now.Unix(), 10): true, strconv.FormatInt(now.Unix()+1, 10): false,
	} {
		if got := aged(map[string]string{labelSetupUntil: text}, now); got != want {
			t.Errorf("aged(%q) = %v, want %v", text, got, want)
		}
	}
}

// Every reader sees every byte; the slowest holds back who writes, and one that leaves does not.
func TestBacklog(t *testing.T) {
	b := newBacklog()
	slow, gone := b.reader(), b.reader()
	piece := strings.Repeat("x", 64<<10)
	const pieces = 40 // more than fits
	var all sync.WaitGroup
	all.Go(func() {
		for range pieces {
			_, _ = io.WriteString(b.Stream(contracts.Stdout, contracts.PhaseMain), piece)
		}
		b.close()
	})
	var quick runnertest.Sink
	first := b.reader()
	all.Go(func() {
		if err := first.copy(t.Context(), &quick); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrCancelled)
	if err := gone.copy(ctx, &runnertest.Sink{OnWrite: func(contracts.Stream, contracts.Phase, []byte) error { return errSlow }}); !errors.Is(err, errSlow) && !errors.Is(err, runner.ErrCancelled) {
		t.Errorf("copy() = %v", err)
	}
	gone.close()
	gone.close()
	b.mu.Lock()
	if b.bytes > backlogBytes {
		t.Errorf("%d bytes are held", b.bytes)
	}
	b.mu.Unlock()
	var sink runnertest.Sink
	if err := slow.copy(t.Context(), &sink); err != nil {
		t.Error(err)
	}
	all.Wait()
	for _, s := range []*runnertest.Sink{&quick, &sink} {
		if got := s.Stdout(); got != strings.Repeat(piece, pieces) || s.Pieces()[0].Phase != contracts.PhaseSetup {
			t.Errorf("a reader got %d bytes, want %d", len(got), pieces*len(piece))
		}
	}
	if err := b.reader().copy(t.Context(), &sink); err != nil {
		t.Errorf("copy() of who comes late = %v", err)
	}
}

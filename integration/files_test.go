//go:build linux

package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

const artifactBucket = "RUNNEL_ARTIFACTS_default"

// Everything that a job may leave comes back through a worker as it was: 5,000 files of 4 KiB, a large one, an empty one,
// an executable and names of all kinds. What is no file is named in a warning. (must-shows 1 and 2 of artifacts)
func TestFilesOfAJob(t *testing.T) {
	t.Parallel()
	large := 24 << 20
	if os.Getenv("RUNNEL_ROUNDS") != "" && rounds(t, 1) >= 20 {
		large = 256 << 20
	}
	const small = 5000
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{})
	c := f.Client("default", "")
	inv := contracts.Invocation{ID: f.ID("files"), Kind: contracts.KindSubprocess, TimeoutSeconds: 120, Command: []string{"sh", "-ec", fmt.Sprintf(`
		cd "$RUNNEL_ARTIFACTS"
		head -c %d /dev/urandom | split -b 4096 -a 4 - part-
		head -c %d /dev/urandom >large
		cat part-* large | sha256sum
		: >empty
		printf x >tool; chmod 750 tool
		mkdir -p 'a directory'; printf x >'a directory/with spaces'
		printf x >"$(printf 'new\nline')"
		printf x >"$(printf 'not-utf8-\377\376')"
		mkfifo pipe
		ln -s /etc/passwd link`, small*4096, large)}}
	f.Submit(c, inv)
	r := result(t, c, inv.ID, 2*fleet.Patience)
	if r.Status != contracts.StatusSucceeded {
		t.Fatalf("the job ended %s: %s", r.Status, r.Error)
	}
	const others = 5
	if r.ArtifactCount != small+1+others || len(r.Artifacts) > 0 || r.Manifest == "" {
		t.Errorf("the result names %d artifacts, %d of them itself, want %d in a manifest", r.ArtifactCount, len(r.Artifacts), small+1+others)
	}
	for _, want := range []string{`"pipe"`, `"link"`} {
		if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("no warning names %s: %q", want, r.Warnings)
		}
	}
	if len(r.Warnings) != 2 {
		t.Errorf("%d warnings, want two: %q", len(r.Warnings), r.Warnings)
	}

	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*fleet.Patience)
	defer cancel()
	began := time.Now()
	written, err := c.Download(ctx, inv.ID, dir)
	if err != nil || len(written) != r.ArtifactCount {
		t.Fatalf("Download() = %d files, %v; want %d", len(written), err, r.ArtifactCount)
	}
	figure(t, "files fetched within", "%v", since(began))
	// In the order in which the shell had them, which is that of their names.
	sum := sha256.New()
	names, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil || len(names) != small {
		t.Fatalf("%d parts came back, %v; want %d", len(names), err, small)
	}
	slices.Sort(names)
	for _, name := range append(names, filepath.Join(dir, "large")) {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(sum, file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	said := ""
	for _, piece := range output(t, c, inv.ID) {
		said += string(piece.Data)
	}
	if got, _, _ := strings.Cut(said, " "); got != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("what came back has another SHA-256 than what was left, %s", got)
	}
	for name, want := range map[string]struct {
		size int64
		mode fs.FileMode
	}{
		"empty": {0, 0o600}, "tool": {1, 0o750}, "a directory/with spaces": {1, 0o600}, "new\nline": {1, 0o600}, "not-utf8-\xff\xfe": {1, 0o600},
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		// The others' bits are those that the worker's umask left.
		if info.Size() != want.size || info.Mode()&0o700 != want.mode&0o700 || !info.Mode().IsRegular() {
			t.Errorf("%q came back with mode %v and %d bytes, want %v and %d", name, info.Mode(), info.Size(), want.mode, want.size)
		}
	}
}

// output returns what is stored of an invocation's output.
func output(t *testing.T, c *runnel.Client, id string) (pieces []contracts.Piece) {
	t.Helper()
	for e, err := range c.WatchRun(t.Context(), id, queue.AllRuns) {
		if err != nil {
			t.Fatalf("output of %s: %v", id, err)
		}
		switch {
		case e.Output != nil:
			pieces = append(pieces, *e.Output)
		case e.Result != nil:
			pieces = append(pieces, e.Result.Tail...)
		}
	}
	return pieces
}

// A worker is killed at each step of storing what a job left: the job ends once, on another one, and everything that
// its result names can be read.
func TestKillDuringUpload(t *testing.T) {
	for name, test := range map[string]struct {
		at queue.Step
		// until says when to kill, by what the bucket holds; nil is at once, where the worker stands.
		until func(chunks, metas uint64) bool
	}{
		"before the first blob":             {queue.StepCollecting, nil},
		"in the first blob":                 {queue.StepCollecting, func(chunks, _ uint64) bool { return chunks > 0 }},
		"between blobs":                     {queue.StepCollecting, func(_, metas uint64) bool { return metas > 0 }},
		"in a large blob":                   {queue.StepCollecting, func(chunks, metas uint64) bool { return metas > 0 && chunks > 64 }},
		"between the result and everything": {queue.StepCollected, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet.Start(t, fleet.Config{})
			c := f.Client("default", "")
			victim := f.StartWorker(fleet.WorkerConfig{At: test.at})
			inv := contracts.Invocation{ID: f.ID("files"), Kind: contracts.KindSubprocess, TimeoutSeconds: 120, Command: []string{"sh", "-ec",
				`cd "$RUNNEL_ARTIFACTS"; head -c 245760 /dev/urandom | split -b 4096 -a 4 - part-; head -c 50331648 /dev/urandom >large`}}
			f.Submit(c, inv)
			victim.Reached(fleet.Patience)
			if test.until != nil {
				victim.GoOn()
				f.Await("the upload gets there", fleet.Patience, func(ctx context.Context) (bool, string) {
					chunks, metas := stored(ctx, f)
					return test.until(chunks, metas), fmt.Sprintf("%d chunks and %d metas", chunks, metas)
				})
			}
			victim.Kill()
			f.StartWorker(fleet.WorkerConfig{})
			r := result(t, c, inv.ID, 2*fleet.Patience)
			if r.Status != contracts.StatusSucceeded || r.Attempt != 1 || r.ArtifactCount != 61 {
				t.Errorf("the job ended %s, attempt %d, with %d artifacts, want succeeded, 1 and 61: %s", r.Status, r.Attempt, r.ArtifactCount, r.Error)
			}
			if test.until == nil && r.Worker == victim.Name {
				t.Error("the worker that was killed ended it")
			}
			f.Verify() // reads every artifact
		})
	}
}

// stored counts what the artifact bucket holds.
func stored(ctx context.Context, f *fleet.Fleet) (chunks, metas uint64) {
	js, err := jetstream.New(f.Conn)
	if err != nil {
		return 0, 0
	}
	s, err := js.Stream(ctx, "OBJ_"+artifactBucket)
	if err != nil {
		return 0, 0
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("$O."+artifactBucket+".>"))
	if err != nil {
		return 0, 0
	}
	for subject, n := range info.State.Subjects {
		if strings.HasPrefix(subject, "$O."+artifactBucket+".M.") {
			metas += n
		} else {
			chunks += n
		}
	}
	return chunks, metas
}

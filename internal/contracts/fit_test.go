package contracts_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Whatever a run leaves behind, what Fit makes of it can be stored, read back, and passes its reader's check.
func TestFitAlwaysFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string {
			n := rapid.SampledFrom([]int{0, 1, 300, 5000, 20_000}).Draw(t, name+" length")
			part := rapid.SampledFrom([]string{"x", "\u00e9", "\xff", "\x00", "\U0001F600"}).Draw(t, name)
			return strings.Repeat(part, n)
		}
		texts := func(name string) map[string]string {
			m := map[string]string{}
			prefix := text(name + " prefix")
			n := rapid.SampledFrom([]int{0, 1, 5, 40, 3000}).Draw(t, name+" entries")
			value := rapid.SampledFrom([]string{"", "v", prefix}).Draw(t, name+" value")
			for i := range min(n, 100_000/(len(value)+1)) {
				m[prefix[:min(len(prefix), i)]+itoa(i)] = value
			}
			return m
		}
		r := ran(result(contracts.StatusFailed, contracts.ReasonExit))
		r.Name, r.Error, r.Killed = text("name"), text("error"), text("killed")
		r.Metadata, r.Labels = texts("metadata"), texts("labels")
		r.Warnings = slices.Repeat([]string{text("warning")}, rapid.SampledFrom([]int{0, 1, 40}).Draw(t, "warnings"))
		phases := []contracts.Phase{contracts.PhaseMain, contracts.PhaseSetup, contracts.PhaseCleanup, contracts.Phase(long(64))}
		var some []contracts.Piece
		for range rapid.IntRange(0, 5).Draw(t, "different pieces") {
			piece := contracts.Piece{
				Stream: rapid.SampledFrom([]contracts.Stream{contracts.Stdout, contracts.Stderr}).Draw(t, "stream"),
				Phase:  rapid.SampledFrom(phases).Draw(t, "phase"),
			}
			if n := rapid.SampledFrom([]int{-7, 1, 30, 1000, 70_000}).Draw(t, "size"); n < 0 {
				piece.Cut = int64(-n)
			} else {
				piece.Data = bytes.Repeat([]byte{'o'}, n)
			}
			some = append(some, piece)
		}
		r.Tail = slices.Repeat(some, rapid.SampledFrom([]int{1, 60, 1000}).Draw(t, "pieces"))
		var wrote int64
		for _, piece := range r.Tail {
			r.CutBytes += piece.Cut
			wrote += int64(len(piece.Data)) + piece.Cut
		}
		for i := range rapid.SampledFrom([]int{0, 1, 49, 51, 400}).Draw(t, "artifacts") {
			a := artifact()
			a.Path, a.PathBytes = "d/"+itoa(i)+long(rapid.SampledFrom([]int{0, 4000}).Draw(t, "path")), nil
			r.Artifacts = append(r.Artifacts, a)
		}

		fitted := r.Fit()
		data, err := contracts.Encode(fitted)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > contracts.MaxResultBytes {
			t.Fatalf("Fit() leaves %d bytes", len(data))
		}
		if err := fitted.Validate(); err != nil {
			t.Fatalf("Validate() = %v", err)
		}
		if _, err := contracts.Decode[contracts.Result](data, contracts.Meta{}); err != nil {
			t.Fatal(err)
		}
		var stored, marked int64
		for _, piece := range fitted.Tail {
			stored += int64(len(piece.Data))
			marked += piece.Cut
		}
		if stored+marked != wrote || marked != fitted.CutBytes {
			t.Fatalf("tail has %d bytes and marks %d of %d, cut_bytes %d", stored, marked, wrote, fitted.CutBytes)
		}
		if again := must(contracts.Encode(fitted.Fit())); !bytes.Equal(again, data) {
			t.Fatalf("Fit() twice is %d bytes, once %d", len(again), len(data))
		}

		end := contracts.End{Run: "abcd2345", Attempt: 1, Status: r.Status, Error: r.Error, Killed: r.Killed, Tail: r.Tail, At: at(1)}.Fit()
		if data, err := contracts.Encode(end); err != nil || len(data) > contracts.MaxResultBytes {
			t.Fatalf("End.Fit() leaves %d bytes, %v", len(data), err)
		}
		if err := end.Validate(); err != nil {
			t.Fatalf("End.Validate() = %v", err)
		}

		minimal := contracts.MinimalFailed(r, text("why"))
		if data, err := contracts.Encode(minimal); err != nil || len(data) > 8<<10 {
			t.Fatalf("MinimalFailed() is %d bytes, %v", len(data), err)
		}
		if err := minimal.Validate(); err != nil {
			t.Fatalf("MinimalFailed().Validate() = %v", err)
		}
	})
}

// All caps reached at once still make a result that can be stored.
func TestTheCapsAddUp(t *testing.T) {
	r := ran(result(contracts.StatusFailed, contracts.ReasonNotExecutable))
	r.ID, r.Kind, r.Tenant, r.Pool = long(128), contracts.Kind(long(64)), long(64), long(64)
	r.Name, r.Error, r.Killed = long(9999), long(9999), long(9999)
	r.Worker, r.Host, r.Manifest = long(9999), long(9999), blobName
	r.ExitCode, r.Attempt, r.Chunks = ptr(-1<<62), 1<<62, 1<<62
	r.StdoutBytes, r.StderrBytes, r.CutBytes, r.ArtifactCount = 1<<62, 1<<62, 1<<61, 1<<62
	r.Tail = slices.Repeat([]contracts.Piece{
		{Stream: contracts.Stdout, Data: []byte(long(120))}, {Stream: contracts.Stderr, Phase: contracts.PhaseCleanup, Data: []byte(long(120))},
	}, 500)
	r.Warnings = slices.Repeat([]string{long(9999)}, 99)
	r.Labels, r.Metadata = map[string]string{}, map[string]string{}
	for i := range 32 {
		r.Labels[itoa(100+i)+long(61)] = long(64)
	}
	for i := range 5000 {
		r.Metadata[itoa(i)] = "v"
	}
	for i := range 50 {
		a := artifact()
		a.Path, a.PathBytes = itoa(i), nil
		a.Segments[0].Offset = 1 << 40
		if i == 0 {
			a.Path = long(3000)
		}
		r.Artifacts = append(r.Artifacts, a)
	}
	fitted := r.Fit()
	if n := len(must(contracts.Encode(fitted))); n > contracts.MaxResultBytes || n < contracts.MaxResultBytes-16<<10 {
		t.Errorf("Fit() leaves %d bytes of %d", n, contracts.MaxResultBytes)
	}
	if err := fitted.Validate(); err != nil {
		t.Error(err)
	}
	if len(fitted.Artifacts) != 50 || len(fitted.Labels) != 32 || fitted.ArtifactCount != 1<<62 {
		t.Errorf("%d artifacts, %d labels", len(fitted.Artifacts), len(fitted.Labels))
	}
}

func TestFitLeavesAloneWhatFits(t *testing.T) {
	for status, r := range resultsByStatus() {
		if diff := cmp.Diff(r, r.Fit()); diff != "" {
			t.Errorf("Fit() of %s (-before +after):\n%s", status, diff)
		}
	}
	if diff := cmp.Diff(fullEnd(), fullEnd().Fit()); diff != "" {
		t.Errorf("End.Fit() (-before +after):\n%s", diff)
	}
}

func TestFitKeepsTheEndOfTheOutput(t *testing.T) {
	r := succeededResult()
	r.Tail = []contracts.Piece{
		{Stream: contracts.Stdout, Data: []byte(long(100))},
		{Stream: contracts.Stderr, Cut: 5},
		{Stream: contracts.Stdout, Data: []byte("begin" + long(contracts.MaxTailBytes-2))},
		{Stream: contracts.Stderr, Data: []byte("end")},
	}
	r.CutBytes = 5
	before := len(r.Tail[2].Data)
	got := r.Fit()
	want := []contracts.Piece{
		{Stream: contracts.Stderr, Cut: 5},
		{Stream: contracts.Stdout, Cut: 100 + 6},
		{Stream: contracts.Stdout, Data: []byte(long(contracts.MaxTailBytes - 3))},
		{Stream: contracts.Stderr, Data: []byte("end")},
	}
	if diff := cmp.Diff(want, got.Tail); diff != "" {
		t.Errorf("Tail (-want +got):\n%s", diff)
	}
	if got.CutBytes != 111 {
		t.Errorf("CutBytes = %d, want 111", got.CutBytes)
	}
	if len(r.Tail) != 4 || len(r.Tail[2].Data) != before {
		t.Error("Fit() changed the result it was called on")
	}
}

// A script with "set -x" changes between the streams with every line.
func TestTailOfAlternatingOutput(t *testing.T) {
	line := []contracts.Piece{
		{Stream: contracts.Stderr, Data: []byte("+ echo another line of it\n")},
		{Stream: contracts.Stdout, Data: []byte("another line of it\n")},
	}
	r := succeededResult()
	r.Tail = slices.Repeat(line, 500)
	if !contracts.TailFits(r.Tail) || len(r.Fit().Tail) != 1000 {
		t.Error("1,000 pieces of 22 KB do not fit")
	}
	r.Tail = slices.Repeat(line, 1000)
	got := r.Fit()
	if contracts.TailFits(r.Tail) || len(got.Tail) >= 2000 || got.CutBytes == 0 {
		t.Errorf("2,000 pieces fit: %d are left", len(got.Tail))
	}
	if !contracts.TailFits(nil) {
		t.Error("nothing does not fit")
	}
}

func TestFitSaysWhatItLeftOut(t *testing.T) {
	r := succeededResult()
	r.Metadata = map[string]string{"small": "1", "large": long(10_000), "larger": long(12_000)}
	r.Labels = map[string]string{"good": "1", "bad": "\xff"}
	r.Warnings = []string{"first"}
	for i := range 60 {
		a := artifact()
		a.Path, a.PathBytes = "f"+itoa(i), nil
		r.Artifacts = append(r.Artifacts, a)
	}
	got := r.Fit()
	want := []string{`metadata left out, too large: "larger"`, `labels left out: "bad"`, `10 of 60 artifacts are not named here, from "f50" on`, "first"}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("Warnings (-want +got):\n%s", diff)
	}
	if len(got.Metadata) != 2 || len(got.Labels) != 1 || len(got.Artifacts) != 50 || got.ArtifactCount != 60 {
		t.Errorf("metadata %d, labels %d, artifacts %d of %d", len(got.Metadata), len(got.Labels), len(got.Artifacts), got.ArtifactCount)
	}

	r.Manifest = blobName // has them all
	if got := r.Fit().Warnings; len(got) != 3 {
		t.Errorf("Warnings = %q with a manifest", got)
	}
}

func TestFitCutsAnErrorBetweenCharacters(t *testing.T) {
	r := succeededResult()
	r.Error = strings.Repeat("\u00e9", contracts.MaxErrorBytes)
	got := r.Fit().Error
	if want := strings.Repeat("\u00e9", (contracts.MaxErrorBytes-3)/2) + "..."; got != want {
		t.Errorf("Error has %d bytes and ends %q", len(got), got[len(got)-8:])
	}
	r.Error = "a\xffb\x00c"
	if got := r.Fit().Error; got != "a\uFFFDb\uFFFDc" {
		t.Errorf("Error = %q", got)
	}
}

func TestInlineArtifacts(t *testing.T) {
	a := artifact()
	large := a
	large.Path = long(1000)
	repeat := func(a contracts.Artifact, n int) (list []contracts.Artifact) {
		for range n {
			list = append(list, a)
		}
		return list
	}
	for name, tt := range map[string]struct {
		list []contracts.Artifact
		want bool
	}{
		"none": {nil, true}, "50": {repeat(a, 50), true}, "51": {repeat(a, 51), false}, "large": {repeat(large, 20), false},
	} {
		if got := contracts.InlineArtifacts(tt.list); got != tt.want {
			t.Errorf("InlineArtifacts(%s) = %v", name, got)
		}
	}
}

func TestMinimalFailedKeepsWhoAndWhen(t *testing.T) {
	r := fullResult()
	got := contracts.MinimalFailed(r, "result refused: maximum payload exceeded")
	if got.ID != r.ID || got.Digest != r.Digest || got.Run != r.Run || got.Chunks != r.Chunks || got.FinishedAt != r.FinishedAt ||
		got.Manifest != r.Manifest || *got.ExitCode != 3 || got.StartedAt.Equal(time.Time{}) {
		t.Errorf("MinimalFailed() = %+v", got)
	}
	if got.Status != contracts.StatusFailed || got.Reason != contracts.ReasonInfra || got.Error != "result refused: maximum payload exceeded" {
		t.Errorf("MinimalFailed() = %s/%s %q", got.Status, got.Reason, got.Error)
	}
}

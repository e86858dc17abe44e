package contracts

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"
)

// The Validate methods of what workers store are for its readers: a stranger who may publish
// can write to a reply subject too. They return nil or a *ValidationError, and check what a reader would
// stumble over: names that become subjects and paths, counts, sizes, and that a last word is one.

// Validate says what is wrong with a chunk.
func (c Chunk) Validate() error {
	var p problems
	if c.N < 1 {
		p.add("n", "%d is not the number of a chunk: they begin at 1", c.N)
	}
	p.present("at", c.At)
	if len(c.Pieces) == 0 && len(c.State) == 0 {
		p.add("pieces", "must not be empty")
	}
	p.pieces("pieces", c.Pieces, MaxFloodChunkBytes)
	if len(c.State) > MaxStateBytes {
		p.add("state", "is %d bytes, more than %d", len(c.State), MaxStateBytes)
	}
	p.count("state_bytes", c.StateBytes, 0)
	return p.err()
}

// Validate says what is wrong with a start.
func (s Start) Validate() error {
	var p problems
	p.run(s.Run)
	p.count("attempt", int64(s.Attempt), 1)
	p.text("worker", s.Worker, MaxNameBytes)
	p.text("host", s.Host, MaxNameBytes)
	p.present("at", s.At)
	p.digest(s.Digest)
	return p.err()
}

// Validate says what is wrong with an end.
func (e End) Validate() error {
	var p problems
	p.run(e.Run)
	p.count("attempt", int64(e.Attempt), 1)
	p.ended(e.Status, e.Reason)
	p.text("error_summary", e.Error, MaxErrorBytes)
	p.text("killed", e.Killed, MaxKilledBytes)
	p.text("worker", e.Worker, MaxNameBytes)
	p.present("at", e.At)
	p.count("chunks", int64(e.Chunks), 0)
	p.pieces("tail", e.Tail, MaxTailBytes)
	return p.err()
}

// Validate says what is wrong with a result.
func (r Result) Validate() error {
	var p problems
	if !validStoredID(r.ID) {
		p.add("invocation_id", "%s is not an id", quote(r.ID))
	}
	p.text("runtime_name", r.Name, MaxNameBytes)
	p.token("runtime_kind", string(r.Kind))
	p.token("tenant", r.Tenant)
	p.token("pool", r.Pool)
	if !slices.Contains(Lanes(), r.Lane) {
		p.add("lane", "%s is not high, normal or low", quote(string(r.Lane)))
	}
	p.labels(r.Labels)
	p.digest(r.Digest)
	p.ended(r.Status, r.Reason)
	p.text("error_summary", r.Error, MaxErrorBytes)
	p.text("killed", r.Killed, MaxKilledBytes)
	if r.Run != "" {
		p.run(r.Run)
	} else if r.Chunks > 0 {
		p.add("chunks", "%d chunks without a run", r.Chunks)
	}
	p.count("attempt", int64(r.Attempt), 0)
	p.count("chunks", int64(r.Chunks), 0)
	p.pieces("tail", r.Tail, MaxTailBytes)
	p.count("stdout_bytes", r.StdoutBytes, 0)
	p.count("stderr_bytes", r.StderrBytes, 0)
	p.count("cut_bytes", r.CutBytes, 0)
	if len(r.Artifacts) > MaxInlineArtifacts {
		p.add("artifacts", "are %d, more than %d", len(r.Artifacts), MaxInlineArtifacts)
	}
	p.artifacts(r.Artifacts)
	p.count("artifact_count", int64(r.ArtifactCount), 0)
	if r.Manifest != "" && !ValidBlob(r.Manifest) {
		p.add("manifest", "%s is not <epoch>.<sha256>", quote(r.Manifest))
	}
	if len(r.Warnings) > MaxWarnings {
		p.add("warnings", "are %d, more than %d", len(r.Warnings), MaxWarnings)
	}
	p.texts("warnings", r.Warnings, MaxWarningBytes)
	p.textMap("metadata", r.Metadata, MaxMetadataBytes, MaxMetadataBytes, nil)
	p.text("worker", r.Worker, MaxNameBytes)
	p.text("host", r.Host, MaxNameBytes)
	p.present("finished_at", r.FinishedAt)
	return p.err()
}

// Validate says what is wrong with an artifact: a path that leads elsewhere than below the directory
// it is unpacked to, segments that do not add up to the file.
func (a Artifact) Validate() error {
	var p problems
	p.artifact("", a)
	return p.err()
}

// Validate says what is wrong with a manifest.
func (m Manifest) Validate() error {
	var p problems
	p.artifacts(m.Artifacts)
	return p.err()
}

// Validate says what is wrong with a dead letter.
func (d Dead) Validate() error {
	var p problems
	p.token("reason", string(d.Reason))
	p.text("error_summary", d.Error, MaxErrorBytes)
	p.present("at", d.At)
	if d.Subject == "" {
		p.add("subject", "must not be empty")
	}
	p.text("subject", d.Subject, MaxPathBytes)
	return p.err()
}

// Validate says what is wrong with a worker's presence.
func (w Presence) Validate() error {
	var p problems
	if w.Name == "" {
		p.add("name", "must not be empty")
	}
	p.text("name", w.Name, MaxNameBytes)
	p.text("host", w.Host, MaxNameBytes)
	p.text("version", w.Version, MaxNameBytes)
	p.token("pool", w.Pool)
	for i, kind := range w.Kinds {
		if !ValidToken(string(kind)) {
			p.token(fmt.Sprintf("kinds[%d]", i), string(kind))
		}
	}
	p.labels(w.Labels)
	p.count("slots", int64(w.Slots), 0)
	p.count("busy", int64(w.Busy), 0)
	for i, run := range w.Runs {
		if !ValidRun(run) {
			p.add(fmt.Sprintf("runs[%d]", i), "%s is not the name of a run", quote(run))
		}
	}
	p.textMap("capabilities", w.Capabilities, MaxNameBytes, MaxErrorBytes, nil)
	p.text("blocked", w.Blocked, MaxErrorBytes)
	return p.err()
}

// validStoredID also takes '~', which ids that Runnel makes itself may have.
func validStoredID(s string) bool {
	return !strings.HasPrefix(s, "~") && ValidID(strings.ReplaceAll(s, "~", "_"))
}

func (p *problems) run(run string) {
	if !ValidRun(run) {
		p.add("run", "%s is not the name of a run: 8 of a-z and 2-7", quote(run))
	}
}

func (p *problems) digest(digest string) {
	if !validSHA256(digest) {
		p.add("digest", "%s is not a SHA-256 in lower-case hex", quote(digest))
	}
}

func (p *problems) present(field string, t time.Time) {
	if t.IsZero() {
		p.add(field, "must not be zero")
	}
}

func (p *problems) ended(status Status, reason Reason) {
	if !status.Ended() {
		p.add("status", "%s is not a last word", quote(string(status)))
	}
	if reason != "" {
		p.token("reason", string(reason))
	}
}

func (p *problems) count(field string, n, least int64) {
	if n < least {
		p.add(field, "%d is less than %d", n, least)
	}
}

func (p *problems) pieces(field string, pieces []Piece, most int) {
	size := 0
	for i, piece := range pieces {
		field := func() string { return fmt.Sprintf("%s[%d]", field, i) }
		size += len(piece.Data)
		if piece.Stream != Stdout && piece.Stream != Stderr {
			p.add(field()+".stream", "%s is not stdout or stderr", quote(string(piece.Stream)))
		}
		if piece.Phase != PhaseMain && !ValidToken(string(piece.Phase)) {
			p.token(field()+".phase", string(piece.Phase))
		}
		switch {
		case piece.Cut < 0:
			p.add(field()+".cut", "%d is negative", piece.Cut)
		case piece.Cut > 0 && len(piece.Data) > 0:
			p.add(field(), "must have one of data and cut, not both")
		}
	}
	if size > most {
		p.add(field, "have %d bytes of output, more than %d", size, most)
	}
}

func (p *problems) artifacts(artifacts []Artifact) {
	seen := make(map[string]struct{}, len(artifacts))
	for i, a := range artifacts {
		name := a.Path
		if len(a.PathBytes) > 0 {
			name = string(a.PathBytes)
		}
		if _, twice := seen[name]; twice {
			p.add(fmt.Sprintf("artifacts[%d].path", i), "%s is there twice", quote(name))
		}
		seen[name] = struct{}{}
		if err := a.Validate(); err != nil {
			p.artifact(fmt.Sprintf("artifacts[%d].", i), a)
		}
	}
}

// artifact is called again with the prefix of a bad one only.
func (p *problems) artifact(prefix string, a Artifact) {
	p.text(prefix+"path", a.Path, MaxPathBytes)
	if !fs.ValidPath(a.Path) || a.Path == "." {
		p.add(prefix+"path", "%s is not a relative path without '.' and '..'", quote(a.Path))
	}
	if len(a.PathBytes) > 0 {
		if len(a.PathBytes) > MaxPathBytes || bytes.IndexByte(a.PathBytes, 0) >= 0 || !fs.ValidPath(strings.ToValidUTF8(string(a.PathBytes), "_")) {
			p.add(prefix+"path_bytes", "%s is not a relative path without '.' and '..'", quote(string(a.PathBytes)))
		}
	}
	if a.Mode > 0o777 {
		p.add(prefix+"mode", "%#o is more than 0777", a.Mode)
	}
	if !validSHA256(a.SHA256) {
		p.add(prefix+"sha256", "%s is not a SHA-256 in lower-case hex", quote(a.SHA256))
	}
	left := a.Size
	for i, s := range a.Segments {
		switch field := func() string { return fmt.Sprintf("%ssegments[%d]", prefix, i) }; {
		case !ValidBlob(s.Blob):
			p.add(field()+".blob", "%s is not <epoch>.<sha256>", quote(s.Blob))
			return
		case s.Offset < 0 || s.Length < 0 || s.Length > left || s.Offset > math.MaxInt64-s.Length:
			p.add(field(), "offset %d and length %d do not lie within %d bytes", s.Offset, s.Length, a.Size)
			return
		}
		left -= s.Length
	}
	if a.Size < 0 || left != 0 {
		p.add(prefix+"size", "%d is not the sum of the segments", a.Size)
	}
}

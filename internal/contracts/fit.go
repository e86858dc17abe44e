package contracts

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Caps of a result beside those of words.go. Together with the tail, the error and the
// metadata they stay within MaxResultBytes.
const (
	MaxTailEncodedBytes    = 76 << 10 // a tail, encoded: its output and what says whose it is
	MaxWarnings            = 32       // warnings of a result
	MaxWarningBytes        = 256      // one warning
	MaxKilledBytes         = 512      // what was killed, for people
	MaxInlineArtifactBytes = 16 << 10 // artifacts named in a result, encoded
	MaxManifestBytes       = 32 << 20 // a manifest object
)

// TailFits reports whether pieces may ride in a result or an end. Where they may not, their beginning belongs
// into a chunk: Fit cuts it off. Output that changes between the streams with every few bytes reaches the
// cap of the encoding before that of the output.
func TailFits(pieces []Piece) bool {
	first, _ := tailFrom(pieces)
	return first == 0
}

// InlineArtifacts reports whether a result may name these artifacts itself. Where it may not,
// they belong into a Manifest: Fit drops what does not fit.
func InlineArtifacts(artifacts []Artifact) bool {
	if n := len(artifacts); n == 0 || n > MaxInlineArtifacts {
		return n == 0
	}
	data, err := Encode(artifacts)
	return err == nil && len(data) <= MaxInlineArtifactBytes
}

// FitError returns the beginning of an error text, as much as may be sent.
func FitError(s string) string { return fitText(s, MaxErrorBytes) }

// Fit returns r cut to the caps of a result, so that it can be stored. It never fails. The tail keeps the end of
// the output and marks what was cut, the error keeps its beginning, metadata loses its largest
// values first; warnings say so, and name artifacts that are neither inline nor in a manifest.
// r itself is not changed.
func (r Result) Fit() Result {
	var cut int64
	r.Name = fitText(r.Name, MaxNameBytes)
	r.Error = fitText(r.Error, MaxErrorBytes)
	r.Killed = fitText(r.Killed, MaxKilledBytes)
	r.Worker, r.Host = fitText(r.Worker, MaxNameBytes), fitText(r.Host, MaxNameBytes)
	r.Tail, cut = fitTail(r.Tail)
	r.CutBytes += cut

	var warnings []string
	var dropped []string
	if r.Metadata, dropped = fitMap(r.Metadata, MaxMetadataBytes); len(dropped) > 0 {
		warnings = append(warnings, "metadata left out, too large: "+strings.Join(dropped, ", "))
	}
	if r.Labels, dropped = fitLabels(r.Labels); len(dropped) > 0 {
		warnings = append(warnings, "labels left out: "+strings.Join(dropped, ", "))
	}
	r.ArtifactCount = max(r.ArtifactCount, len(r.Artifacts))
	r.Artifacts, warnings = fitArtifacts(r, warnings)
	r.Warnings = fitWarnings(append(warnings, r.Warnings...))
	return r
}

// Fit returns e cut to the caps of an end, as Result.Fit does.
func (e End) Fit() End {
	e.Error = fitText(e.Error, MaxErrorBytes)
	e.Killed = fitText(e.Killed, MaxKilledBytes)
	e.Worker = fitText(e.Worker, MaxNameBytes)
	e.Tail, _ = fitTail(e.Tail)
	return e
}

// MinimalFailed returns what is stored where r cannot be, however small Fit made it: failed, reason infra,
// with who, when and which run as in r, and why as the error. It always fits.
func MinimalFailed(r Result, why string) Result {
	return Result{
		ID:            fitText(r.ID, MaxIDBytes),
		Kind:          Kind(fitText(string(r.Kind), MaxTokenBytes)),
		Tenant:        fitText(r.Tenant, MaxTokenBytes),
		Pool:          fitText(r.Pool, MaxTokenBytes),
		Lane:          Lane(fitText(string(r.Lane), MaxTokenBytes)),
		Digest:        fitText(r.Digest, MaxIDBytes),
		Status:        StatusFailed,
		Reason:        ReasonInfra,
		ExitCode:      r.ExitCode,
		Error:         fitText(why, MaxErrorBytes),
		Run:           fitText(r.Run, MaxTokenBytes),
		Attempt:       r.Attempt,
		Chunks:        r.Chunks,
		StdoutBytes:   r.StdoutBytes,
		StderrBytes:   r.StderrBytes,
		CutBytes:      r.CutBytes,
		ArtifactCount: r.ArtifactCount,
		Manifest:      fitText(r.Manifest, MaxIDBytes),
		Worker:        fitText(r.Worker, MaxNameBytes),
		Host:          fitText(r.Host, MaxNameBytes),
		SubmittedAt:   r.SubmittedAt,
		StartedAt:     r.StartedAt,
		FinishedAt:    r.FinishedAt,
	}
}

// fitText returns s as text of at most most bytes, marked where it was cut.
func fitText(s string, most int) string {
	const mark = "..."
	if s = cleanText(s); len(s) <= most {
		return s
	}
	return cutString(s, most-len(mark)) + mark
}

// cleanText returns s with U+FFFD for what text must not have: a program's own words end up in an error.
func cleanText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// tailFrom returns the index from which on the pieces fit as they are, and how many
// bytes of the piece before fit beside them.
func tailFrom(pieces []Piece) (first, room int) {
	room, encoded := MaxTailBytes, MaxTailEncodedBytes
	for first = len(pieces); first > 0; first-- {
		size, whole := len(pieces[first-1].Data), pieces[first-1].encodedSize()
		if size > room || whole > encoded {
			return first, max(0, min(room, encoded-(whole-size)))
		}
		room -= size
		encoded -= whole
	}
	return 0, room
}

// encodedSize returns no less than what p takes in its tail.
func (p Piece) encodedSize() int {
	n := 26 + len(p.Data) // the names, the stream, both headers
	if p.Phase != PhaseMain {
		n += 8 + len(p.Phase)
	}
	if p.Cut != 0 {
		n += 13
	}
	return n
}

// fitTail returns the end of the pieces within the caps of a tail, and before them one mark for
// each stream and phase of which something was cut. It returns the bytes that it cut.
func fitTail(pieces []Piece) (kept []Piece, cut int64) {
	first, room := tailFrom(pieces)
	if first == 0 {
		return pieces, 0
	}
	lost := pieces[:first]
	kept = slices.Clone(pieces[first:])
	if last := lost[first-1]; room > 0 && len(last.Data) > room {
		part := last
		part.Data, part.Cut = last.Data[len(last.Data)-room:], 0
		kept = slices.Insert(kept, 0, part)
		last.Data = last.Data[:len(last.Data)-room]
		lost = append(slices.Clone(lost[:first-1]), last)
	}
	// Marks that were there already move into the new ones; their bytes were counted when they were made.
	type source struct {
		stream Stream
		phase  Phase
	}
	marks := map[source]*Piece{}
	var order []*Piece
	for _, piece := range lost {
		at := source{piece.Stream, piece.Phase}
		if marks[at] == nil {
			marks[at] = &Piece{Stream: piece.Stream, Phase: piece.Phase}
			order = append(order, marks[at])
		}
		marks[at].Cut += int64(len(piece.Data)) + piece.Cut
		cut += int64(len(piece.Data))
	}
	slices.SortFunc(order, func(a, b *Piece) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Phase, b.Phase))
	})
	tail := make([]Piece, 0, len(order)+len(kept))
	for _, mark := range order {
		tail = append(tail, *mark)
	}
	return append(tail, kept...), cut
}

// fitLabels returns the labels that keep the rules: those of a rejected invocation may not.
func fitLabels(labels map[string]string) (kept map[string]string, dropped []string) {
	var p problems
	if p.labels(labels); len(p.list) == 0 {
		return labels, nil
	}
	kept = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if name == "" || textProblem(name, MaxLabelBytes) != "" || textProblem(labels[name], MaxLabelBytes) != "" || len(kept) == MaxLabels {
			dropped = append(dropped, quote(name))
		} else {
			kept[name] = labels[name]
		}
	}
	return kept, dropped
}

// fitMap returns m without its largest entries, so that names, values and 8 bytes for each
// entry are at most size bytes together, and the names of what was left out.
func fitMap(m map[string]string, size int) (kept map[string]string, dropped []string) {
	cost := func(name, value string) int { return len(name) + len(value) + 8 }
	total, clean := 0, true
	for name, value := range m {
		total += cost(name, value)
		clean = clean && name != "" && textProblem(name, size) == "" && textProblem(value, size) == ""
	}
	if clean && total <= size {
		return m, nil
	}
	kept, total = make(map[string]string, len(m)), 0
	for name, value := range m {
		if name != "" {
			kept[cleanText(name)] = cleanText(value)
		}
	}
	for name, value := range kept {
		total += cost(name, value)
	}
	names := slices.SortedFunc(maps.Keys(kept), func(a, b string) int {
		return cmp.Or(cmp.Compare(cost(b, kept[b]), cost(a, kept[a])), cmp.Compare(a, b))
	})
	for _, name := range names {
		if total <= size {
			break
		}
		total -= cost(name, kept[name])
		delete(kept, name)
		dropped = append(dropped, quote(name))
	}
	return kept, dropped
}

// fitArtifacts returns the first artifacts that may be inline, and says in the warnings if the rest is nowhere else.
func fitArtifacts(r Result, warnings []string) ([]Artifact, []string) {
	kept := r.Artifacts
	if len(kept) > MaxInlineArtifacts {
		kept = kept[:MaxInlineArtifacts]
	}
	for len(kept) > 0 && !InlineArtifacts(kept) {
		kept = kept[:len(kept)/2]
	}
	if left := len(r.Artifacts) - len(kept); left > 0 && r.Manifest == "" {
		warnings = append(warnings, fmt.Sprintf("%d of %d artifacts are not named here, from %s on", left, len(r.Artifacts), quote(r.Artifacts[len(kept)].Path)))
	}
	return slices.Clip(kept), warnings
}

func fitWarnings(warnings []string) []string {
	if len(warnings) == 0 {
		return nil
	}
	fitted := make([]string, 0, min(len(warnings), MaxWarnings))
	for i, w := range warnings {
		if i == MaxWarnings-1 && len(warnings) > MaxWarnings {
			return append(fitted, fmt.Sprintf("and %d more warnings", len(warnings)-i))
		}
		fitted = append(fitted, fitText(w, MaxWarningBytes))
	}
	return fitted
}

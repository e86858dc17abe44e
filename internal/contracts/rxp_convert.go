package contracts

import (
	"cmp"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"
)

// RxPPaths is what RxP says of files. They are on the submitter's side, and no worker hears of them.
type RxPPaths struct {
	InputPayload      string // what the work reads on standard input (E12); "" is nothing
	OutputResult      string // where the result is written (E11); "" is nowhere
	ArtifactDirectory string // where output and files are kept, below the invocation's id (E14); "" says nothing
}

// RxPCapture says where the submitter keeps what an invocation wrote and left.
type RxPCapture struct {
	Stdout, Stderr string        // "" where nothing was kept
	Artifacts      []RxPArtifact // beside the two outputs
}

// Names under which the metadata of an RxPResult holds what RxP has no field for.
const (
	RxPReason   = "runnel.reason"
	RxPRun      = "runnel.run"
	RxPAttempt  = "runnel.attempt"
	RxPWorker   = "runnel.worker"
	RxPKilled   = "runnel.killed"
	RxPCutBytes = "runnel.cut_bytes"
	RxPWarnings = "runnel.warnings" // one a line
)

// httpStatus is where the http runner says which status it was answered (E29).
const httpStatus = "http.status"

// RxPImage is the metadata of an RxPInvocation that names the image of kind container: RxP has no field for it.
const RxPImage = "container.image"

// unusedCommand is what kinds without a command have in RxP, which asks for one (E2).
const unusedCommand = "unused"

// Invocation returns what a worker is to hear, and what stays here.
func (inv RxPInvocation) Invocation() (Invocation, RxPPaths) {
	out := Invocation{
		ID: inv.ID, Name: inv.Name, Kind: inv.Kind,
		Command: inv.Command, Environment: inv.Environment, WorkingDirectory: inv.WorkingDirectory,
		Metadata: inv.Metadata,
	}
	if inv.TimeoutSeconds != nil {
		out.TimeoutSeconds = float64(*inv.TimeoutSeconds)
	}
	if image, ok := inv.Metadata[RxPImage]; ok && inv.Kind == KindContainer {
		out.Container = &Container{Image: image}
	}
	return out, RxPPaths{
		InputPayload: value(inv.InputPayloadPath), OutputResult: value(inv.OutputResultPath), ArtifactDirectory: value(inv.ArtifactDirectory),
	}
}

// RxP returns inv as RxP says it. Fractions of timeout_seconds round up. What RxP has no field for is left out: tenant, pool,
// lane, labels, standard input, retry, stop, the limits of output and queue, which variables are passed on, and of a container all
// but its image.
func (inv Invocation) RxP(paths RxPPaths) RxPInvocation {
	out := RxPInvocation{
		ID: inv.ID, Name: cmp.Or(inv.Name, string(inv.Kind)), Kind: inv.Kind,
		WorkingDirectory: cmp.Or(inv.WorkingDirectory, "."), Command: inv.Command,
		Environment: inv.Environment, Metadata: inv.Metadata,
		InputPayloadPath: orNull(paths.InputPayload), OutputResultPath: orNull(paths.OutputResult), ArtifactDirectory: orNull(paths.ArtifactDirectory),
	}
	if len(out.Command) == 0 {
		out.Command = []string{unusedCommand}
	}
	if inv.Container != nil {
		out.Metadata = maps.Clone(inv.Metadata)
		if out.Metadata == nil {
			out.Metadata = map[string]string{}
		}
		out.Metadata[RxPImage] = inv.Container.Image
	}
	if s := inv.TimeoutSeconds; s > 0 {
		out.TimeoutSeconds = new(int64(math.Ceil(s)))
	}
	return out.withDefaults()
}

// RxP returns r as RxP says it, with the files that the submitter kept of it. Of what was rejected there are none (E10, E13).
func (r Result) RxP(kept RxPCapture) RxPResult {
	out := RxPResult{
		ID: r.ID, Name: cmp.Or(r.Name, string(r.Kind)), Kind: r.Kind, Status: r.Status,
		StartedAt: rxpTime(r.StartedAt), FinishedAt: rxpTime(r.FinishedAt),
		Artifacts: []RxPArtifact{}, ErrorSummary: orNull(r.Error), Metadata: r.rxpMetadata(),
	}
	if r.StartedAt.IsZero() {
		out.StartedAt = out.FinishedAt
	}
	if r.Status == StatusRejected {
		return out.withDefaults()
	}
	if r.ExitCode != nil {
		out.ExitCode = new(int64(*r.ExitCode))
	}
	// Where RxP's http runner answered with the status of the request, ours has it in the metadata (E29).
	if code, err := strconv.ParseInt(r.Metadata[httpStatus], 10, 32); err == nil && r.Kind == KindHTTP {
		out.ExitCode = &code
	}
	out.StdoutPath, out.StderrPath = orNull(kept.Stdout), orNull(kept.Stderr)
	for _, stream := range []struct {
		name Stream
		path string
	}{{Stdout, kept.Stdout}, {Stderr, kept.Stderr}} {
		if stream.path != "" {
			out.Artifacts = append(out.Artifacts, RxPArtifact{
				ID: string(stream.name), Path: stream.path, Kind: "log_excerpt", Description: "captured " + string(stream.name), Metadata: map[string]string{},
			})
		}
	}
	out.Artifacts = append(out.Artifacts, kept.Artifacts...)
	return out.withDefaults()
}

func (r Result) rxpMetadata() map[string]string {
	m := map[string]string{}
	maps.Copy(m, r.Metadata)
	for name, text := range map[string]string{
		RxPReason: string(r.Reason), RxPRun: r.Run, RxPWorker: r.Worker, RxPKilled: r.Killed,
		RxPWarnings: strings.Join(r.Warnings, "\n"), RxPAttempt: number(int64(r.Attempt)), RxPCutBytes: number(r.CutBytes),
	} {
		if text != "" {
			m[name] = text
		}
	}
	return m
}

// RxP describes the file that the submitter has at path.
func (a Artifact) RxP(path string) RxPArtifact {
	return RxPArtifact{
		ID: "file:" + a.Path, Path: path, Kind: "file",
		Metadata: map[string]string{"sha256": a.SHA256, "size": strconv.FormatInt(a.Size, 10), "mode": strconv.FormatUint(uint64(a.Mode), 8)},
	}.withDefaults()
}

// Reject returns the result of an invocation that was not handed in: rejected, with why (E10).
func (inv RxPInvocation) Reject(reason Reason, why string, at time.Time) RxPResult {
	return Result{
		ID: inv.ID, Name: inv.Name, Kind: inv.Kind, Status: StatusRejected, Reason: reason, Error: why, FinishedAt: at,
	}.RxP(RxPCapture{})
}

// rxpTime cuts t to what readers of ISO 8601 commonly keep.
func rxpTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

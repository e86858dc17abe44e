package contracts

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Caps of an invocation that Validate checks beside those of words.go.
const (
	MaxNameBytes     = 256
	MaxLabels        = 32
	MaxLabelBytes    = 64
	MaxMetadataCount = 256
	MaxPathBytes     = 4096
	MaxAttempts      = 1000
	MaxSeconds       = 1e9 // 31 years: fits a time.Duration with room to add
	MaxArtifactGlobs = 32
	MaxGlobBytes     = 1024
)

// ReservedEnvironment begins the names that Runnel itself sets for the work.
const ReservedEnvironment = "RUNNEL_"

// WithDefaults returns inv with tenant, pool and lane named.
func (inv Invocation) WithDefaults() Invocation {
	if inv.Tenant == "" {
		inv.Tenant = DefaultTenant
	}
	if inv.Pool == "" {
		inv.Pool = DefaultPool
	}
	if inv.Lane == "" {
		inv.Lane = LaneNormal
	}
	return inv
}

// Digest returns the SHA-256, in lower-case hex, of the canonical encoding of inv with its
// defaults. Two submissions under one id are the same if their digests are. Standard input
// counts by its content, not by the way it travels: in the message or in a blob of whatever epoch.
func (inv Invocation) Digest() (string, error) {
	inv = inv.WithDefaults()
	if in := inv.Stdin; in != nil {
		switch {
		case in.Blob != "":
			inv.Stdin = &Input{Size: in.Size, SHA256: in.SHA256}
		case len(in.Data) > 0:
			inv.Stdin = &Input{Size: int64(len(in.Data)), SHA256: hexSHA256(in.Data)}
		default:
			inv.Stdin = nil
		}
	}
	data, err := Encode(inv)
	if err != nil {
		return "", err
	}
	return hexSHA256(data), nil
}

// Validate returns nil, or a *ValidationError with every rule that inv breaks. An empty tenant, pool and lane are
// those of WithDefaults. The metadata of the HTTP kinds is checked here (see HTTP), that of others is their runner's.
func (inv Invocation) Validate() error {
	inv = inv.WithDefaults()
	var p problems
	if !ValidID(inv.ID) {
		p.add("invocation_id", "%s is not an id: 1 to %d letters, digits, '_' and '-', beginning with a letter or digit", quote(inv.ID), MaxIDBytes)
	}
	p.text("runtime_name", inv.Name, MaxNameBytes)
	if inv.Kind == KindManual {
		p.token("runtime_name", inv.Name) // it is a token of the subject that responders listen on
	}
	p.token("runtime_kind", string(inv.Kind))
	p.token("tenant", inv.Tenant)
	p.token("pool", inv.Pool)
	if !slices.Contains(Lanes(), inv.Lane) {
		p.add("lane", "%s is not high, normal or low", quote(string(inv.Lane)))
	}
	p.command(inv)
	p.environment(inv)
	p.workingDirectory(inv.WorkingDirectory)
	p.stdin(inv.Stdin)
	p.seconds("timeout_seconds", inv.TimeoutSeconds)
	p.seconds("queue_timeout_seconds", inv.QueueTimeoutSeconds)
	p.stop(inv.Stop)
	if inv.OutputLimitBytes < 0 {
		p.add("output_limit_bytes", "%d is negative", inv.OutputLimitBytes)
	}
	p.artifactGlobs(inv.ArtifactGlobs)
	p.retry(inv.Retry)
	p.labels(inv.Labels)
	p.container(inv)
	p.metadata(inv.Metadata)
	p.http(inv)
	if len(p.list) == 0 && inv.sizeBound() > MaxMessageBytes {
		// Only then worth the encoding: the bound is above the true size.
		data, err := Encode(inv)
		if err != nil {
			return err
		}
		if len(data) > MaxMessageBytes {
			p.add("", "the invocation is %d bytes, more than the %d of a message", len(data), MaxMessageBytes)
		}
	}
	return p.err()
}

func (p *problems) token(field, s string) {
	switch {
	case s == "":
		p.add(field, "must not be empty")
	case !ValidToken(s):
		p.add(field, "%s is not a name: 1 to %d of a-z, 0-9, '_' and '-'", quote(s), MaxTokenBytes)
	}
}

// text checks what ends up in argument vectors, environments, paths and other people's JSON.
func (p *problems) text(field, s string, most int) {
	if problem := textProblem(s, most); problem != "" {
		p.add(field, "%s", problem)
	}
}

// textProblem is apart from text so that the path of a list's or map's entry is only put together for a bad one.
func textProblem(s string, most int) string {
	switch {
	case len(s) > most:
		return fmt.Sprintf("is %d bytes, more than %d", len(s), most)
	case strings.IndexByte(s, 0) >= 0:
		return quote(s) + " contains a NUL byte"
	case !utf8.ValidString(s):
		return quote(s) + " is not UTF-8"
	}
	return ""
}

// texts checks every entry of a list.
func (p *problems) texts(field string, list []string, most int) {
	for i, s := range list {
		if problem := textProblem(s, most); problem != "" {
			p.add(fmt.Sprintf("%s[%d]", field, i), "%s", problem)
		}
	}
}

// textMap checks the names and values of a map; name says what else is wrong with a name, or is nil.
func (p *problems) textMap(field string, m map[string]string, mostName, mostValue int, name func(string) string) {
	for k, v := range m {
		if textProblem(k, mostName) != "" || textProblem(v, mostValue) != "" || k == "" || name != nil && name(k) != "" {
			// Something is wrong: look again in an order that is the same every time.
			p.badMap(field, m, mostName, mostValue, name)
			return
		}
	}
}

func (p *problems) badMap(field string, m map[string]string, mostName, mostValue int, name func(string) string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k == "" {
			p.add(key(field, k), "the name must not be empty")
		} else if name != nil && name(k) != "" {
			p.add(key(field, k), "%s", name(k))
		}
		if problem := textProblem(k, mostName); problem != "" {
			p.add(key(field, k), "the name %s", problem)
		}
		p.text(key(field, k), m[k], mostValue)
	}
}

func (p *problems) seconds(field string, s float64) {
	switch {
	case math.IsNaN(s) || math.IsInf(s, 0):
		p.add(field, "%v is not a number of seconds", s)
	case s < 0:
		p.add(field, "%v is negative", s)
	case s > MaxSeconds:
		p.add(field, "%v is more than %.0f", s, MaxSeconds)
	}
}

func (p *problems) stop(s *Stop) {
	if s == nil {
		return
	}
	p.seconds("stop.interrupt_seconds", s.InterruptSeconds)
	if s.GraceSeconds != nil {
		p.seconds("stop.grace_seconds", *s.GraceSeconds)
	}
}

func (p *problems) command(inv Invocation) {
	if inv.Kind == KindSubprocess && len(inv.Command) == 0 {
		p.add("command", "must not be empty for kind %s", inv.Kind)
	}
	if len(inv.Command) > 0 && inv.Command[0] == "" && inv.Kind == KindSubprocess {
		p.add("command[0]", "must not be empty: it names the program")
	}
	p.texts("command", inv.Command, MaxMessageBytes)
}

func (p *problems) environment(inv Invocation) {
	p.variables("environment", inv.Environment)
	p.globs("environment_pass", inv.EnvironmentPass)
	p.globs("environment_deny", inv.EnvironmentDeny)
}

func (p *problems) globs(field string, globs []string) {
	for i, glob := range globs {
		field := fmt.Sprintf("%s[%d]", field, i)
		if glob == "" {
			p.add(field, "must not be empty")
		} else if _, err := path.Match(glob, ""); err != nil {
			p.add(field, "%s is not a pattern of names", quote(glob))
		} else if strings.Contains(glob, "=") {
			p.add(field, "%s contains '=', which no name does", quote(glob))
		}
	}
	p.texts(field, globs, MaxPathBytes)
}

func (p *problems) workingDirectory(dir string) {
	p.text("working_directory", dir, MaxPathBytes)
	if clean := path.Clean(dir); clean == ".." || strings.HasPrefix(clean, "../") {
		p.add("working_directory", "%s leads out of the workspace", quote(dir))
	}
}

func (p *problems) stdin(in *Input) {
	switch {
	case in == nil:
	case in.Blob == "":
		if in.Size != 0 {
			p.add("stdin.size", "goes with blob only")
		}
		if in.SHA256 != "" {
			p.add("stdin.sha256", "goes with blob only")
		}
	default:
		if len(in.Data) > 0 {
			p.add("stdin", "must have one of data and blob, not both")
		}
		if !ValidBlob(in.Blob) {
			p.add("stdin.blob", "%s is not <epoch>.<sha256>", quote(in.Blob))
		}
		if in.Size < 0 {
			p.add("stdin.size", "%d is negative", in.Size)
		}
		if !validSHA256(in.SHA256) {
			p.add("stdin.sha256", "%s is not a SHA-256 in lower-case hex", quote(in.SHA256))
		}
	}
}

func (p *problems) retry(r *Retry) {
	if r == nil {
		return
	}
	if r.Attempts < 1 || r.Attempts > MaxAttempts {
		p.add("retry.attempts", "%d is not within 1 to %d", r.Attempts, MaxAttempts)
	}
	p.seconds("retry.delay_seconds", r.DelaySeconds)
	p.seconds("retry.max_delay_seconds", r.MaxDelaySeconds)
	for i, s := range r.On {
		field := fmt.Sprintf("retry.on[%d]", i)
		switch {
		case s != StatusFailed && s != StatusTimedOut:
			p.add(field, "%s is not failed or timed_out", quote(string(s)))
		case slices.Contains(r.On[:i], s):
			p.add(field, "%s is there twice", quote(string(s)))
		}
	}
}

func (p *problems) labels(labels map[string]string) {
	if len(labels) > MaxLabels {
		p.add("labels", "are %d, more than %d", len(labels), MaxLabels)
	}
	p.textMap("labels", labels, MaxLabelBytes, MaxLabelBytes, nil)
}

func (p *problems) metadata(metadata map[string]string) {
	if len(metadata) > MaxMetadataCount {
		p.add("metadata", "has %d entries, more than %d", len(metadata), MaxMetadataCount)
	}
	p.textMap("metadata", metadata, MaxNameBytes, MaxMessageBytes, nil)
}

// sizeBound returns no less than the length of inv's encoding.
func (inv Invocation) sizeBound() int {
	// The names and numbers of all fields are below 1 KiB; a text costs 5 bytes at most beside its own.
	n := 1024 + len(inv.ID) + len(inv.Name) + len(inv.Kind) + len(inv.Tenant) + len(inv.Pool) + len(inv.Lane) + len(inv.WorkingDirectory)
	for _, list := range [][]string{inv.Command, inv.EnvironmentPass, inv.EnvironmentDeny, inv.ArtifactGlobs} {
		for _, s := range list {
			n += len(s) + 5
		}
	}
	for _, m := range []map[string]string{inv.Environment, inv.Labels, inv.Metadata} {
		for k, v := range m {
			n += len(k) + len(v) + 10
		}
	}
	if in := inv.Stdin; in != nil {
		n += len(in.Data) + len(in.Blob) + len(in.SHA256)
	}
	if inv.Retry != nil {
		n += 20 * len(inv.Retry.On)
	}
	return n + inv.Container.size()
}

package contracts

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// base32Lower is RFC 4648's alphabet in lower case: every character is a legal part of a
// token, an id, a file name and a host name, and none changes when somebody folds case.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a new invocation id: 16 random lower-case base32 characters (80 bits).
func NewID() string { return random(10) }

// NewRun returns a new run name: 8 random lower-case base32 characters (40 bits).
// It only has to differ among the runs of one invocation.
func NewRun() string { return random(5) }

func random(n int) string {
	var b [10]byte
	rand.Read(b[:n]) // never fails: it ends the process where the system has no randomness
	return base32Lower.EncodeToString(b[:n])
}

// ValidToken reports whether s may be a kind, a pool, a tenant or a lane in a subject: [a-z0-9_-]{1,64}.
func ValidToken(s string) bool {
	if len(s) == 0 || len(s) > MaxTokenBytes {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lowerOrDigit(c) && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ValidID reports whether s may name an invocation: [A-Za-z0-9][A-Za-z0-9_-]{0,127}.
// Such a name is one subject token and one path element, and is never read as a flag.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > MaxIDBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case lowerOrDigit(c), 'A' <= c && c <= 'Z':
		case (c == '_' || c == '-') && i > 0:
		default:
			return false
		}
	}
	return true
}

// ValidRun reports whether s may name a run: 8 lower-case base32 characters, as NewRun makes them.
func ValidRun(s string) bool {
	if len(s) != 8 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// ValidBlob reports whether s may name an object of an artifact or input store: "<epoch>.<64 hex>",
// the epoch in decimal without leading zeros, the SHA-256 in lower case.
func ValidBlob(s string) bool {
	epoch, sum, ok := strings.Cut(s, ".")
	if !ok || len(epoch) == 0 || len(epoch) > 12 || !validSHA256(sum) {
		return false
	}
	for i := range len(epoch) {
		if epoch[i] < '0' || epoch[i] > '9' {
			return false
		}
	}
	return epoch == "0" || epoch[0] != '0'
}

func validSHA256(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func lowerOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// BodyDigest returns the SHA-256 of a message's body in lower-case hex. It stands in for
// the digest of an invocation whose header has none.
func BodyDigest(body []byte) string { return hexSHA256(body) }

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

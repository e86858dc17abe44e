package artifacts

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What can go wrong with a store, as callers branch on it. Every error of this
// package that means one of these wraps it and says of what, and what to do.
var (
	// ErrNoBucket says that the tenant has no such bucket: nothing was ever stored in it, or somebody deleted it.
	ErrNoBucket = errors.New("no such bucket")
	// ErrNoBlob says that a bucket does not hold a blob that something names.
	ErrNoBlob = errors.New("not in the store")
	// ErrFull says that the bucket, the account or the server has no room. Nothing that was stored is harmed; try again later.
	ErrFull = errors.New("storage is full")
	// ErrDenied says that this user may not use a subject. Permanent until somebody changes the permissions.
	ErrDenied = errors.New("permission denied")
	// ErrNoAnswer says that the server did not answer, or not decidedly, for longer than we wait. Try again.
	ErrNoAnswer = errors.New("no answer from JetStream")
	// ErrCorrupt says that what is stored is not what its name, its size or its digest says.
	ErrCorrupt = errors.New("stored content is damaged")
	// ErrManifest says that a list of artifacts breaks a rule, and that nothing was done with it.
	ErrManifest = errors.New("list of artifacts refused")
	// ErrLimit says that what was asked for is more than this side takes.
	ErrLimit = errors.New("beyond the limit")
	// ErrNoMatch says that no artifact has the name or matches the pattern.
	ErrNoMatch = errors.New("no such artifact")
	// ErrChanged says that an input changed while it was read.
	ErrChanged = errors.New("changed while it was read")
)

// Codes of the server's errors (server/errors.json).
const (
	codeAccountResources = 10002
	codeClusterNoLeader  = 10008
	codeTemporarily      = 10009 // the cluster has no leader for the stream right now
	codeResources        = 10023
	codeMemoryResources  = 10028
	codeNoMessage        = 10037
	codeNotEnabled       = 10039
	codeStorageResources = 10047
	codeTooLarge         = 10054
	codeNoStream         = 10059
	codeWrongSequence    = 10071
	codeNotEnabledServer = 10076
	codeStoreFailed      = 10077
	codeWrongSequenceNow = 10164
)

// apiError is the error part of the server's answers.
type apiError struct {
	Code        int    `json:"code"`
	ErrorCode   int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrorCode) }

// told turns an error that the server gave into one of ours.
func (b *bucket) told(doing string, code int, err error) error {
	switch code {
	case codeNoStream:
		return fmt.Errorf("%s: bucket %s: %w: nothing was stored for this tenant yet, or it was deleted", doing, b.name, ErrNoBucket)
	case codeStoreFailed, codeAccountResources, codeResources, codeMemoryResources, codeStorageResources:
		return fmt.Errorf("%s: bucket %s: %w: %w: free space on the server, raise the bucket's limit, or wait for old blobs to age out", doing, b.name, ErrFull, err)
	case codeTemporarily, codeClusterNoLeader:
		return fmt.Errorf("%s: bucket %s: %w: %w: try again", doing, b.name, ErrNoAnswer, err)
	case codeNotEnabled, codeNotEnabledServer:
		return fmt.Errorf("%s: bucket %s: %w: enable JetStream on the server and for this account", doing, b.name, err)
	case codeTooLarge:
		return fmt.Errorf("%s: bucket %s: %w: the bucket's stream takes smaller messages than Runnel sends: remove its max_msg_size", doing, b.name, err)
	}
	return fmt.Errorf("%s: bucket %s: %w", doing, b.name, err)
}

// errTry ends one try of a request.
var errTry = fmt.Errorf("none within %v", requestWait)

// failed turns an error of the client's into one of ours. A denied subject is
// not answered: it shows as a timeout, and as the connection's last error.
func (b *bucket) failed(ctx context.Context, doing, subject string, err error) error {
	var api *jetstream.APIError
	denied := b.denied(subject)
	switch {
	case errors.As(err, &api):
		return b.told(doing, int(api.ErrorCode), err)
	case denied != nil:
		return fmt.Errorf("%s: %w", doing, denied)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: bucket %s: %w: nobody hears %s: see whether JetStream is enabled on the server and for this account, and has a leader", doing, b.name, ErrNoAnswer, subject)
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%s: bucket %s: %w", doing, b.name, err)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		if err != errTry {
			return fmt.Errorf("%s: bucket %s: %w", doing, b.name, err)
		}
	}
	// The client's own words are kept, its identity is not: a deadline of one try is not the caller's.
	return fmt.Errorf("%s: bucket %s: %w: %v: see whether the server runs and try again", doing, b.name, ErrNoAnswer, err)
}

// denied returns an error if the connection was told that it may not use subject.
func (b *bucket) denied(subject string) error {
	last := b.nc.LastError()
	if last == nil || !errors.Is(last, nats.ErrPermissionViolation) || !strings.Contains(last.Error(), `"`+subject+`"`) {
		return nil
	}
	return fmt.Errorf("bucket %s: %w: %s: allow this user the subject on the server", b.name, ErrDenied, subject)
}

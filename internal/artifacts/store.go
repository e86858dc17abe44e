package artifacts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
)

// What a Config leaves open.
const (
	// DefaultTTL is how long artifacts are kept: TTLFor results that are kept for a day.
	DefaultTTL = 50 * time.Hour
	// DefaultInputTTL is how long inputs are kept: longer than a dead letter that names one.
	DefaultInputTTL = 31 * 24 * time.Hour
	// DefaultMaxFiles and DefaultMaxRunBytes bound what one run leaves, and what is unpacked of one.
	DefaultMaxFiles    = 10_000
	DefaultMaxRunBytes = 16 << 30
	// DefaultPrefix is the fleet's name where a Config gives none.
	DefaultPrefix = "runnel"
)

// TTLFor is how long artifacts must be kept where results are kept for age. What is found to be
// stored already is not stored again, and lives for half of it at least; and a result may follow its
// files by a while, an hour where results are kept for a day.
func TTLFor(age time.Duration) time.Duration { return 2 * (age + age/24) }

// Config says whose files a Store keeps and how. The zero value is that of the
// default tenant on one server.
type Config struct {
	// Tenant says whose; "" is contracts.DefaultTenant.
	Tenant string
	// Prefix is the fleet's name, in upper case the beginning of the buckets' names; "" is DefaultPrefix.
	Prefix string
	// TTL is how long a new artifact bucket keeps its blobs, TTLFor the age of results; 0 is DefaultTTL. A bucket that exists keeps its own.
	TTL time.Duration
	// InputTTL is the same for the input bucket; 0 is DefaultInputTTL.
	InputTTL time.Duration
	// Replicas is how many servers keep a new bucket; 0 is 1.
	Replicas int
	// MaxBytes bounds each new bucket; 0 is as much as the account and the server let it have.
	MaxBytes int64
	// MaxFiles and MaxRunBytes bound what Collect takes from one run, and what Unpack writes; 0 is the default.
	MaxFiles    int
	MaxRunBytes int64
	// Now is the clock of the epochs. nil is the server's, as told when the bucket was looked up.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&c.TTL, DefaultTTL)
	or(&c.InputTTL, DefaultInputTTL)
	if c.Tenant == "" {
		c.Tenant = contracts.DefaultTenant
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = DefaultMaxFiles
	}
	if c.MaxRunBytes == 0 {
		c.MaxRunBytes = DefaultMaxRunBytes
	}
	return c
}

// ArtifactBucket is the name of the bucket of what the tenant's runs leave.
func (c Config) ArtifactBucket() string {
	c = c.withDefaults()
	return strings.ToUpper(c.Prefix) + "_ARTIFACTS_" + c.Tenant
}

// InputBucket is the name of the bucket of the tenant's inputs.
func (c Config) InputBucket() string {
	c = c.withDefaults()
	return strings.ToUpper(c.Prefix) + "_INPUTS_" + c.Tenant
}

// Store keeps the files of one tenant. Its methods may be called from many
// goroutines at once; together they hold at most maxParts buffers of a part.
type Store struct {
	cfg       Config
	artifacts *bucket
	inputs    *bucket
}

// Open returns the store of a tenant. It asks the server nothing: a bucket is
// made when it is first written to, and reading one that is not there is ErrNoBucket.
func Open(_ context.Context, js jetstream.JetStream, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	var errs []error
	if !contracts.ValidToken(cfg.Tenant) {
		errs = append(errs, fmt.Errorf("tenant %q is not a name: up to 64 of a-z, 0-9, '_' and '-'", cfg.Tenant))
	}
	if !contracts.ValidToken(cfg.Prefix) {
		errs = append(errs, fmt.Errorf("prefix %q is not a name: up to 64 of a-z, 0-9, '_' and '-'", cfg.Prefix))
	}
	if cfg.TTL < 0 || cfg.InputTTL < 0 || cfg.Replicas < 0 || cfg.MaxBytes < 0 || cfg.MaxFiles < 0 || cfg.MaxRunBytes < 0 {
		errs = append(errs, errors.New("no setting of a store may be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	s := &Store{cfg: cfg}
	s.artifacts = newBucket(js, cfg, cfg.ArtifactBucket(), "files that runs left", "run the work again", cfg.TTL)
	s.inputs = newBucket(js, cfg, cfg.InputBucket(), "inputs beyond the size of a message", "submit it again", cfg.InputTTL)
	return s, nil
}

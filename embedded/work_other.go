//go:build !linux && !darwin

package embedded

import (
	"context"
	"errors"
	"runtime"

	"github.com/nats-io/nats.go"
)

var errSystem = errors.New("a worker needs Linux or macOS, not " + runtime.GOOS + ": start one there with `worker start` and name its server with --server")

// Work runs a worker in this process; on this system it is an error that says that none can.
func Work(context.Context, *nats.Conn, *nats.Conn, WorkerConfig) error { return errSystem }

// Capabilities says what a worker could do on this machine; on this system it is the error of Work.
func Capabilities(WorkerConfig) (map[string]string, error) { return nil, errSystem }

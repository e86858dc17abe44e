package container_test

import (
	"context"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
)

// background returns a context that a cleanup may still use, bounded.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func contextWithCause(t testing.TB) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}

func contextOfChild() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 5*time.Minute)
}

func engineClient(t testing.TB) *client.Client {
	t.Helper()
	return enginetest.Client(t)
}

func await(t testing.TB, what <-chan struct{}) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(runnertest.Limit):
		t.Fatal("it does not come")
	}
}

// until waits for what must become so.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(runnertest.Limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not become so that %s", what)
		}
	}
}

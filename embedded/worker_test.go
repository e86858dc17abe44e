//go:build linux || darwin

package embedded_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

func TestRunsWork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := start(t, embedded.Config{})
	nc, _ := connect(t, node)
	client, err := runnel.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var out, problems bytes.Buffer
	result, err := client.Run(ctx, runnel.Invocation{
		Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", "echo out; echo err >&2; exit 3"},
	}, runnel.RunOptions{Stdout: &out, Stderr: &problems})
	if err != nil {
		t.Fatalf("Run() = %v", err)
	}
	if result.Status != runnel.StatusFailed || result.ExitCode == nil || *result.ExitCode != 3 {
		t.Errorf("Run() = %s, exit code %v, want failed with 3", result.Status, result.ExitCode)
	}
	if out.String() != "out\n" || problems.String() != "err\n" {
		t.Errorf("Run() wrote %q and %q, want out and err", &out, &problems)
	}
}

// A test's time is over before its work is: Close ends both.
func TestCloseEndsRunningWork(t *testing.T) {
	node := start(t, embedded.Config{})
	nc, _ := connect(t, node)
	client, err := runnel.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := client.Submit(t.Context(), runnel.Invocation{
		Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", "echo begun; exec sleep 600"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range client.Watch(t.Context(), receipt.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == runnel.EventOutput {
			break
		}
	}
	nc.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no patience left for a drain
	if err := node.Close(ctx); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

package main_test

import (
	"os"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
)

func clientOf(t *testing.T, url string) *runnel.Client {
	t.Helper()
	nc, err := nats.Connect(url, runnel.ConnectOptions(t.Name())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := runnel.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func withoutJetStream(o *server.Options) { o.JetStream = false }

// touch makes an empty file: the gate that a job waits at.
func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

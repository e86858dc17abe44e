package contracts_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/contracts"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// The goldens are the wire: a change here is a new version of it.
func TestGoldens(t *testing.T) {
	golden(t, "invocation-minimal", minimalInvocation())
	golden(t, "invocation-full", fullInvocation())
	golden(t, "invocation-blob", blobInvocation())
	golden(t, "invocation-container", containerInvocation())
	golden(t, "chunk", fullChunk())
	golden(t, "chunk-state", stateChunk())
	golden(t, "start", fullStart())
	golden(t, "end-minimal", minimalEnd())
	golden(t, "end-full", fullEnd())
	for status, r := range resultsByStatus() {
		golden(t, "result-"+status, r)
	}
	golden(t, "dead", fullDead())
	golden(t, "presence", fullPresence())
	golden(t, "manifest", fullManifest())
	for name, r := range manualReplies() {
		golden(t, "manual_reply-"+name, r)
	}
	golden(t, "manual_request", manualRequest())
	golden(t, "manual_control-ack", contracts.ManualControl{Type: contracts.ManualAck, ID: "a2b3c4d5e6f7a2b3", Run: "abcd2345", N: 1})
	golden(t, "manual_control-stop", manualStop())
	golden(t, "manual_answer", manualAnswer())
	golden(t, "manual_receipt", contracts.ManualReceipt{Answer: "zyxwvutsrqponmlk"})
	golden(t, "invocation-sandbox", sandboxInvocation())
	for name, c := range sandboxCalls() {
		golden(t, "sandbox_call-"+name, c)
	}
	for name, r := range sandboxReplies() {
		golden(t, "sandbox_reply-"+name, r)
	}
	golden(t, "cancelreply-killing", contracts.CancelReply{State: contracts.CancelKilling})
	golden(t, "cancelreply-done", contracts.CancelReply{
		State: contracts.CancelDone, Status: contracts.StatusCancelled, Killed: "3 processes (TERM, then KILL)",
	})
}

func golden[T contracts.Document](t *testing.T, name string, doc T) {
	t.Run(name, func(t *testing.T) {
		packed, err := contracts.Encode(doc)
		if err != nil {
			t.Fatal(err)
		}
		text, err := contracts.EncodeJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		packedFile := filepath.Join("testdata", name+".msgpack.hex")
		textFile := filepath.Join("testdata", name+".json")
		if *update {
			write(t, packedFile, []byte(toHex(packed)))
			write(t, textFile, append(bytes.Clone(text), '\n'))
		}
		if want := fromHex(t, read(t, packedFile)); !bytes.Equal(packed, want) {
			t.Errorf("Encode() = %x\nwant %x", packed, want)
		}
		if want := read(t, textFile); string(text)+"\n" != string(want) {
			t.Errorf("EncodeJSON() = %s\nwant %s", text, want)
		}
		for _, data := range [][]byte{packed, text} {
			got, err := contracts.Decode[T](data, contracts.Meta{})
			if err != nil {
				t.Fatalf("Decode(%q): %v", data, err)
			}
			if diff := cmp.Diff(doc, got); diff != "" {
				t.Errorf("Decode(%q) (-want +got):\n%s", data, diff)
			}
		}
		if v, ok := any(doc).(interface{ Validate() error }); !ok {
			t.Errorf("%T has no Validate", doc)
		} else if err := v.Validate(); err != nil {
			t.Errorf("Validate() = %v", err)
		}
	})
}

// toHex writes 32 bytes a line: small enough to read a change in review.
func toHex(data []byte) string {
	var b strings.Builder
	for len(data) > 0 {
		n := min(32, len(data))
		b.WriteString(hex.EncodeToString(data[:n]) + "\n")
		data = data[n:]
	}
	return b.String()
}

func fromHex(t testing.TB, text []byte) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

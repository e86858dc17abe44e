package contracts_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

func FuzzDecodeInvocation(f *testing.F)  { fuzzDecode[contracts.Invocation](f, "invocation") }
func FuzzDecodeChunk(f *testing.F)       { fuzzDecode[contracts.Chunk](f, "chunk") }
func FuzzDecodeStart(f *testing.F)       { fuzzDecode[contracts.Start](f, "start") }
func FuzzDecodeEnd(f *testing.F)         { fuzzDecode[contracts.End](f, "end") }
func FuzzDecodeResult(f *testing.F)      { fuzzDecode[contracts.Result](f, "result") }
func FuzzDecodeDead(f *testing.F)        { fuzzDecode[contracts.Dead](f, "dead") }
func FuzzDecodePresence(f *testing.F)    { fuzzDecode[contracts.Presence](f, "presence") }
func FuzzDecodeManifest(f *testing.F)    { fuzzDecode[contracts.Manifest](f, "manifest") }
func FuzzDecodeCancelReply(f *testing.F) { fuzzDecode[contracts.CancelReply](f, "cancelreply") }

func FuzzDecodeManualRequest(f *testing.F) { fuzzDecode[contracts.ManualRequest](f, "manual_request") }
func FuzzDecodeManualReply(f *testing.F)   { fuzzDecode[contracts.ManualReply](f, "manual_reply") }
func FuzzDecodeManualControl(f *testing.F) { fuzzDecode[contracts.ManualControl](f, "manual_control") }
func FuzzDecodeManualAnswer(f *testing.F)  { fuzzDecode[contracts.ManualAnswer](f, "manual_answer") }
func FuzzDecodeManualReceipt(f *testing.F) { fuzzDecode[contracts.ManualReceipt](f, "manual_receipt") }
func FuzzDecodeSandboxCall(f *testing.F)   { fuzzDecode[contracts.SandboxCall](f, "sandbox_call") }
func FuzzDecodeSandboxReply(f *testing.F)  { fuzzDecode[contracts.SandboxReply](f, "sandbox_reply") }

// fuzzDecode holds that what Decode takes, of whatever version, is the same document
// however often and in whichever encoding it is written and read again.
func fuzzDecode[T contracts.Document](f *testing.F, name string) {
	for _, pattern := range []string{".msgpack.hex", ".json"} {
		files, err := filepath.Glob(filepath.Join("testdata", name+"*"+pattern))
		if err != nil || len(files) == 0 {
			f.Fatalf("no goldens of %s: %v", name, err)
		}
		for _, file := range files {
			data := read(f, file)
			if strings.HasSuffix(file, ".hex") {
				data = fromHex(f, data)
			}
			f.Add(data, "")
			f.Add(data, "1.1")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		doc, err := contracts.Decode[T](data, contracts.Meta{Version: version})
		if err != nil {
			return
		}
		packed, err := contracts.Encode(doc)
		if err != nil {
			t.Fatalf("decoded, and does not encode: %v", err)
		}
		text, err := contracts.EncodeJSON(doc)
		if err != nil {
			t.Fatalf("decoded, and does not encode as JSON: %v", err)
		}
		for _, again := range [][]byte{packed, text} {
			if len(again) > contracts.MaxMessageBytes {
				continue // base64 is longer than what it stands for
			}
			back, err := contracts.Decode[T](again, contracts.Meta{})
			if err != nil {
				t.Fatalf("encoded as %q, and does not decode: %v", again, err)
			}
			if got := must(contracts.Encode(back)); !bytes.Equal(got, packed) {
				t.Fatalf("%q decodes to\n%x, not\n%x", again, got, packed)
			}
			if got := must(contracts.EncodeJSON(back)); !bytes.Equal(got, text) {
				t.Fatalf("%q decodes to\n%s, not\n%s", again, got, text)
			}
		}
		_ = any(doc).(interface{ Validate() error }).Validate()
		switch doc := any(doc).(type) {
		case contracts.Invocation:
			if doc.Validate() == nil {
				if _, err := doc.Digest(); err != nil {
					t.Fatalf("valid, and has no digest: %v", err)
				}
			}
		case contracts.Result:
			if data, err := contracts.Encode(doc.Fit()); err != nil {
				t.Fatalf("fitted, and does not encode: %v (%d bytes)", err, len(data))
			}
		}
	})
}

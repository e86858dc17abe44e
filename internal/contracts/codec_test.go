package contracts_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/runnel-project/runnel/internal/contracts"
)

func TestRoundTripBothWays(t *testing.T) {
	grace := 0.0
	want := contracts.Invocation{
		ID: "a1", Kind: contracts.KindSubprocess, Command: []string{"sh", "-c", "echo hi"},
		Environment: map[string]string{"B": "", "A": "1"}, TimeoutSeconds: 1.5,
		Stop: &contracts.Stop{GraceSeconds: &grace}, Stdin: &contracts.Input{Data: []byte{0, 255}},
	}
	data, err := contracts.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := contracts.Decode[contracts.Invocation](data, contracts.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("msgpack (-want +got):\n%s", diff)
	}
	text, err := contracts.EncodeJSON(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err = contracts.Decode[contracts.Invocation](text, contracts.Meta{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func TestTimesComeBackInUTC(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))
	data, err := contracts.Encode(contracts.Result{FinishedAt: at})
	if err != nil {
		t.Fatal(err)
	}
	got, err := contracts.Decode[contracts.Result](data, contracts.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if got.FinishedAt != at.UTC() || !got.StartedAt.IsZero() {
		t.Errorf("FinishedAt = %v, StartedAt = %v", got.FinishedAt, got.StartedAt)
	}
}

func TestNewNamesAreValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if id := contracts.NewID(); len(id) != 16 || !contracts.ValidID(id) {
			t.Fatalf("NewID() = %q", id)
		}
		if run := contracts.NewRun(); !contracts.ValidRun(run) {
			t.Fatalf("NewRun() = %q", run)
		}
	})
}

// A chunk is read in place, and what is appended to a piece of it leaves the next one as it is.
func TestDecodeChunkInPlace(t *testing.T) {
	chunk := contracts.Chunk{N: 1, At: time.Unix(1, 0).UTC(), Pieces: []contracts.Piece{
		{Stream: contracts.Stdout, Data: []byte("one")}, {Stream: contracts.Stderr, Data: []byte("two")},
	}}
	data := must(contracts.Encode(chunk))
	got := must(contracts.Decode[contracts.Chunk](data, contracts.Meta{}))
	_ = append(got.Pieces[0].Data, "overwritten"...)
	if diff := cmp.Diff(chunk, got); diff != "" || !bytes.Equal(data, must(contracts.Encode(chunk))) {
		t.Errorf("Decode() differs:\n%s", diff)
	}
}

// What is encoded into memory that is there is what Encode returns, whether it has room or not.
func TestEncodeInto(t *testing.T) {
	chunk := contracts.Chunk{N: 1, At: time.Unix(1, 0), Pieces: []contracts.Piece{{Stream: contracts.Stdout, Data: bytes.Repeat([]byte("x"), 1000)}}}
	want := must(contracts.Encode(chunk))
	for _, room := range []int{0, 10, len(want), 4096} {
		buf := bytes.Repeat([]byte("old"), room)[:room]
		got, err := contracts.EncodeInto(buf, chunk)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("EncodeInto() of %d bytes = %x, %v", room, got, err)
		}
		if room > len(want) && &got[0] != &buf[0] {
			t.Errorf("EncodeInto() of %d bytes used other memory", room)
		}
		if again := must(contracts.Encode(chunk)); !bytes.Equal(again, want) {
			t.Errorf("Encode() after it = %x", again)
		}
	}
	if _, err := contracts.EncodeInto(nil, contracts.Chunk{At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil || !strings.Contains(err.Error(), "encode chunk") {
		t.Errorf("EncodeInto() of what Decode refuses = %v", err)
	}
}

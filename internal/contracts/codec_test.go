package contracts_test

import (
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

package contracts_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/contracts"
)

// A document of every kind and every status, and each of the six example shapes in every kind and status that it can
// have, is read, written, turned into ours and back, and is the same (E3, E4, E8).
func TestRxPRoundTrips(t *testing.T) {
	kinds := append(contracts.RxPKinds(), contracts.KindHTTPSSE, contracts.KindNoop)
	for name, example := range examples(t) {
		for _, kind := range kinds {
			if name == "invocation-subprocess" || name == "invocation-http" {
				doc := must(contracts.DecodeRxP[contracts.RxPInvocation](example))
				doc.Kind = kind
				text := must(contracts.EncodeRxP(doc))
				if err := contracts.ValidateRxP(text); err != nil {
					t.Errorf("%s as %s: %v", name, kind, err)
				}
				again := must(contracts.DecodeRxP[contracts.RxPInvocation](text))
				if diff := cmp.Diff(doc, again); diff != "" {
					t.Errorf("%s as %s, read again (-want +got):\n%s", name, kind, diff)
				}
				inv, paths := again.Invocation()
				if diff := cmp.Diff(doc, inv.RxP(paths)); diff != "" {
					t.Errorf("%s as %s, turned into ours and back (-want +got):\n%s", name, kind, diff)
				}
				continue
			}
			for _, status := range contracts.RxPStatuses() {
				doc := must(contracts.DecodeRxP[contracts.RxPResult](example))
				doc.Kind, doc.Status = kind, status
				text := must(contracts.EncodeRxP(doc))
				if err := contracts.ValidateRxP(text); err != nil {
					t.Errorf("%s as %s, %s: %v", name, kind, status, err)
				}
				again := must(contracts.DecodeRxP[contracts.RxPResult](text))
				if diff := cmp.Diff(doc, again); diff != "" {
					t.Errorf("%s as %s, %s, read again (-want +got):\n%s", name, kind, status, diff)
				}
				if got := must(contracts.EncodeRxP(again)); !bytes.Equal(got, text) {
					t.Errorf("%s as %s, %s: written again it is\n%s", name, kind, status, got)
				}
			}
		}
	}
}

// What each of our results says comes back from RxP's text, for every status that a result can have in every kind.
func TestResultsOfEveryKindInRxP(t *testing.T) {
	kept := contracts.RxPCapture{}
	for _, kind := range append(contracts.RxPKinds(), contracts.KindHTTPSSE, contracts.KindNoop) {
		for status, r := range resultsByStatus() {
			r.Kind = kind
			got := r.RxP(kept)
			text := must(contracts.EncodeRxP(got))
			if err := contracts.ValidateRxP(text); err != nil {
				t.Errorf("%s %s: %v", kind, status, err)
			}
			if back := must(contracts.DecodeRxP[contracts.RxPResult](text)); string(back.Status) != status || back.Kind != kind || back.ID != r.ID {
				t.Errorf("%s %s came back as %s %s of %s", kind, status, back.Kind, back.Status, back.ID)
			}
		}
	}
}

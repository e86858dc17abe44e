package runnel

import "github.com/runnel-project/runnel/internal/contracts"

// The documents of RxP v0.1, for programs that speak it. See docs/rxp.md.
type (
	// RxPInvocation is RxP's ask; its Invocation method makes one of ours of it.
	RxPInvocation = contracts.RxPInvocation
	// RxPResult is RxP's last word; Result.RxP makes one of ours.
	RxPResult = contracts.RxPResult
	// RxPArtifact is a file that an invocation left, as RxP describes it.
	RxPArtifact = contracts.RxPArtifact
	// RxPPaths is what an RxPInvocation says of files on the submitter's side.
	RxPPaths = contracts.RxPPaths
	// RxPCapture says where the submitter keeps what an invocation wrote and left.
	RxPCapture = contracts.RxPCapture
)

// ParseRxP reads and checks an invocation of RxP v0.1. It is as strict as ParseInvocation: an unknown, doubled or wrongly
// spelled field is an error that names it, and so is another contract_kind or schema_version.
func ParseRxP(data []byte) (RxPInvocation, error) {
	return contracts.DecodeRxP[contracts.RxPInvocation](data)
}

// ParseRxPResult reads and checks a result of RxP v0.1.
func ParseRxPResult(data []byte) (RxPResult, error) {
	return contracts.DecodeRxP[contracts.RxPResult](data)
}

// EncodeRxP writes a result as RxP v0.1 does: JSON with every field, indented by two, and a new line at the end.
func EncodeRxP(r RxPResult) ([]byte, error) { return contracts.EncodeRxP(r) }

// ValidateRxP checks a document of RxP v0.1 of whatever kind: its contract_kind says which.
func ValidateRxP(data []byte) error { return contracts.ValidateRxP(data) }

// Schemas returns the names of the documents that Schema knows.
func Schemas() []string { return contracts.SchemaNames() }

// Schema returns the JSON Schema (draft 2020-12) of a document: one of ours, as JSON has it, or of RxP v0.1.
func Schema(name string) ([]byte, error) { return contracts.Schema(name) }

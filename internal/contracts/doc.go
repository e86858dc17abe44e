// Package contracts holds what Runnel says on the wire and stores: the
// invocation, the steps of its runs, its one result, and the rules that each
// must keep. It knows nothing of how they travel.
//
// Every document is a map with the field names of RxP v0.1 where RxP has one
// (the `json` tags below; msgpack uses the same names). Decoding is strict:
// an unknown, duplicate or wrong-case field is an error that names it.
package contracts

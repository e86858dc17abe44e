// Package artifacts keeps the files that runs leave, and inputs that are too
// large for a message, in object stores of JetStream.
//
// A tenant has two buckets, <PREFIX>_ARTIFACTS_<tenant> and
// <PREFIX>_INPUTS_<tenant>, which are made when they are first written to. They
// are ordinary NATS object stores: any client of NATS reads them.
//
// What a bucket holds are blobs, named "<epoch>.<sha256 of the content>". The
// epoch is the time in units of half the bucket's TTL, so that the same content
// is stored once within an epoch, and again in the next one: what was found to
// be there lives for at least another half TTL, which is longer than any result
// that names it. A blob that exists is never written again.
//
// An artifact is a list of stretches of blobs. A file beyond a MiB is a blob of its
// own; small files, sorted by their names, lie one behind
// the other in packs of at most [PartBytes]: contents alone, since names,
// modes and sizes stand in the manifest. Where a result cannot name all its
// artifacts, a blob with a [contracts.Manifest] does.
package artifacts

// Package integration proves Runnel as a whole: real NATS servers, real workers
// and submitters as processes of their own, killed, frozen and cut off at every
// step, and a checker over all that is stored afterwards.
// docs/testing.md says what must hold.
package integration

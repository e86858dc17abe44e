// Package runnel is the client of Runnel, a worker fleet whose queue is NATS JetStream. A Client hands in
// invocations, follows their output, waits for their results, fetches the files they left and cancels them.
// There is no other server: whoever can connect to NATS can do all of it.
//
//	nc, err := nats.Connect("nats://127.0.0.1:4222", runnel.ConnectOptions("my program")...)
//	if err != nil { … }
//	defer nc.Close()
//	client, err := runnel.New(nc)
//	if err != nil { … }
//	result, err := client.Run(ctx, runnel.Invocation{
//		Kind:    runnel.KindSubprocess,
//		Command: []string{"echo", "hello"},
//	}, runnel.RunOptions{Stdout: os.Stdout})
//
// An invocation is accepted once and has exactly one result, whatever is killed in between. How the work ended is in
// the result's Status, Reason and ExitCode; an error means that we do not know, or that nothing was accepted.
//
// # Where the fields are
//
// The types of what travels and is stored are those of the workers too, and stand here as aliases. Their fields, with units,
// bounds and defaults:
//
//	go doc github.com/runnel-project/runnel/internal/contracts.Invocation
//
// and so on for Input, Stop, Retry, Container, Setup, Mount, Tmpfs, Sandbox (which is SandboxLimits here), Result, Event, Piece, Start, End, Gap,
// Artifact, Presence, ManualOutcome and ValidationError; in internal/queue are Receipt, Info, ListOptions, CancelReport, ExecRequest, ExecResult,
// Drift, Inspection, AmbiguousError and SandboxEndedError. docs/protocol.md has them by their wire names. Names that end with
// Seconds count seconds, fractions and all; those that end with Bytes, bytes. A zero value is the default that its comment says.
//
// # Same id, same invocation
//
// An id is made where none is given. Under a chosen id a submission can be repeated safely: the same content is
// the same invocation and runs once, other content is ErrIDInUse. That holds for as long as results are kept,
// 24 hours unless the fleet is set up otherwise.
//
// # Servers that do not answer
//
// Calls that ask for one answer go on asking until their context ends, or for 30 seconds if it has no deadline, and
// then return an error that wraps ErrUnknown. Calls that follow or wait go on for as long as their context lasts.
package runnel

// Package queue speaks Runnel's protocol on NATS JetStream: where invocations
// wait, where their output and results are stored, and the rules by which
// both sides read and write them. The streams are the state; nothing else is.
//
// It holds the subjects (Names), the streams and consumers as data (Topology,
// Ensure), reading and writing one stream by the rules that make it safe
// (Store), and on top of these the producer's side and the worker's side.
package queue

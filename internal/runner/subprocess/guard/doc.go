// Package guard sees to it that nothing of a worker's runs outlives the worker,
// however it dies: a guard process, one per worker, holds a pipe from it, sees
// the end of the pipe when the worker is gone, and kills what it left.
//
// The guard is the worker's own binary, started again under another argv[0]:
// importing this package gives a program an init function that, when its name
// is Argv0, does the guard's work and exits before main begins. A program that
// embeds a worker therefore owes that its own init functions do nothing which
// should not be done twice. It works on Linux only.
package guard

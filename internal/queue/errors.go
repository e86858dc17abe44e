package queue

import "errors"

// What can go wrong with the queue, as callers branch on it. Every error of
// this package that means one of these wraps it and names the subject or stream.
var (
	// ErrNotFound says that nothing is stored under the subject: it is a proof of absence.
	ErrNotFound = errors.New("not found")
	// ErrUnknown says that there was no answer, or none that decides: what was asked for may have
	// happened or not. Ask again; never take it for absence.
	ErrUnknown = errors.New("no answer: unknown whether it happened")
	// ErrOccupied says that the fence held: the subject has its one message already. Read it to see whose it is.
	ErrOccupied = errors.New("already there")
	// ErrIDInUse says that another invocation with other content has the id.
	ErrIDInUse = errors.New("id is in use by an invocation with other content")
	// ErrFull says that the stream or the server has no room: nothing was stored. Back off and try again.
	ErrFull = errors.New("storage is full")
	// ErrDenied says that this user may not use the subject. Permanent; never tried again in a loop.
	ErrDenied = errors.New("permission denied")
	// ErrNoStream says that the stream does not exist, or takes no such subject. Permanent until somebody creates it.
	ErrNoStream = errors.New("no such stream")
	// ErrTooLarge says that the message is beyond the stream's or the server's cap. Permanent.
	ErrTooLarge = errors.New("message too large")
	// ErrRefused says that the server refused the message for its content, a header mostly. Permanent.
	ErrRefused = errors.New("refused by the server")
	// ErrForbidden says that a stream exists with a setting under which Runnel is not safe.
	ErrForbidden = errors.New("stream has a forbidden setting")
	// ErrLeaseLost says that another run, or nobody, owns the invocation now.
	ErrLeaseLost = errors.New("lease lost")
	// ErrCancelled says that the invocation was cancelled.
	ErrCancelled = errors.New("cancelled")
	// ErrClosed says that the connection, or the side of the queue that was asked, is closed.
	ErrClosed = errors.New("closed")
)

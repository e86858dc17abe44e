package web

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// ReadError is an answer that could not be read to its end.
type ReadError struct{ err error }

func (r *ReadError) Error() string { return r.err.Error() }

// Unwrap returns what reading came to.
func (r *ReadError) Unwrap() error { return r.err }

const copyBytes = 32 << 10

// Copy copies an answer to w as it comes. An error of reading is a *ReadError, one of writing is as w returned it.
func Copy(w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, copyBytes)
	for {
		got, failed := r.Read(buf)
		if got > 0 {
			if _, err := w.Write(buf[:got]); err != nil {
				return n, err
			}
			n += int64(got)
		}
		if failed == io.EOF {
			return n, nil
		}
		if failed != nil {
			return n, &ReadError{failed}
		}
	}
}

// Input reports whether err is that of reading the job's own input.
func Input(err error) bool {
	var input *inputError
	return errors.As(err, &input)
}

// Ended turns the error of a call into what a runner returns: an outcome for a Failure, and otherwise the error, with
// what was ended if that is the end of ctx or of the output.
func Ended(ctx context.Context, err error) (contracts.Outcome, error) {
	var f *Failure
	if errors.As(err, &f) {
		return Failed(contracts.Outcome{Reason: f.Reason}, f.Text), nil
	}
	if errors.Is(err, runner.ErrRejected) {
		return contracts.Outcome{}, err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return contracts.Outcome{Killed: "the connection"}, fmt.Errorf("http: %w", err)
}

// Failed returns o as failed by the work's own doing, with exit code 1.
func Failed(o contracts.Outcome, text string) contracts.Outcome {
	o.Status, o.ExitCode, o.Error = contracts.StatusFailed, new(1), text
	if o.Reason == "" {
		o.Reason = contracts.ReasonExit
	}
	return o
}

package runnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Submit hands in an invocation and returns once it is accepted. An empty ID is made. Under an id that is in use the same
// content is the same invocation (Receipt.Existed), other content is ErrIDInUse. What breaks a rule is a
// *ValidationError that names every broken one, and leaves no trace. Stdin beyond MaxInlineStdinBytes is put into the
// tenant's input bucket first. An error that wraps ErrUnknown leaves open whether it was accepted: submit it again
// under the same id.
func (c *Client) Submit(ctx context.Context, inv Invocation) (Receipt, error) {
	inv, err := c.withStdin(ctx, inv, nil)
	if err != nil {
		return Receipt{}, err
	}
	return c.queue.Submit(ctx, inv)
}

// SubmitReader is Submit with standard input read from stdin to its end, whatever its length; inv.Stdin is to be nil. An
// error of reading it comes back wrapped, and nothing is handed in.
func (c *Client) SubmitReader(ctx context.Context, inv Invocation, stdin io.Reader) (Receipt, error) {
	inv, err := c.withStdin(ctx, inv, stdin)
	if err != nil {
		return Receipt{}, err
	}
	return c.queue.Submit(ctx, inv)
}

// withStdin puts standard input where it belongs: into the invocation, or beside it.
func (c *Client) withStdin(ctx context.Context, inv Invocation, r io.Reader) (Invocation, error) {
	switch {
	case r != nil && inv.Stdin != nil:
		return inv, errors.New("stdin is given twice: in the invocation and as a reader")
	case r == nil && (inv.Stdin == nil || len(inv.Stdin.Data) <= MaxInlineStdinBytes):
		return inv, nil
	case r == nil:
		r = bytes.NewReader(inv.Stdin.Data)
	}
	head, err := io.ReadAll(io.LimitReader(r, MaxInlineStdinBytes+1))
	if err != nil {
		return inv, fmt.Errorf("read stdin: %w", err)
	}
	if len(head) <= MaxInlineStdinBytes {
		inv.Stdin = nil
		if len(head) > 0 {
			inv.Stdin = &Input{Data: head}
		}
		return inv, nil
	}
	// What is refused leaves no trace, so not an input either.
	check := inv
	check.Stdin = nil
	if err := c.queue.Check(check); err != nil {
		return inv, err
	}
	// What can be read again needs no copy of it on the disk.
	whole := io.MultiReader(bytes.NewReader(head), r)
	if again, ok := r.(io.Seeker); ok {
		if _, err := again.Seek(-int64(len(head)), io.SeekCurrent); err == nil {
			whole = r
		}
	}
	in, err := c.files.PutInput(ctx, whole)
	if err != nil {
		return inv, fmt.Errorf("store stdin: %w", public(err))
	}
	inv.Stdin = &in
	return inv, nil
}

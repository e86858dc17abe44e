package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

type replyFlags struct {
	exitCode       int
	stdout, stderr string
	text, reject   string
	metadata       []string
	timeout        seconds
}

// maxReplyOutput is what an answer may bring of output, both streams together.
const maxReplyOutput = 64 << 10

func newReply(a *app) *cobra.Command {
	f := replyFlags{timeout: seconds{30, true}}
	cmd := &cobra.Command{
		Use:   "reply [ID]",
		Short: "End an invocation of kind manual by hand; without an ID, list those that wait",
		Long: `reply says how an invocation of kind manual ended, in place of the program that it was meant for:
a person's approval, or their refusal. The first reply counts; a responder that is at it is told to stop.

Without an ID it lists the manual invocations that have not ended.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listManual(cmd.Context())
			}
			outcome, err := f.outcome(cmd.Flags().Changed("exit-code"))
			if err != nil {
				return err
			}
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				return a.reply(ctx, s, id, outcome, f.timeout.value)
			})
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.exitCode, "exit-code", 0, "end with exit code `N`: 0 is succeeded, any other failed")
	fs.StringVar(&f.text, "error", "", "why it failed: `TEXT`")
	fs.StringVar(&f.reject, "reject", "", "end it rejected, which nobody tries again: `TEXT` says why")
	fs.StringVar(&f.stdout, "stdout", "", "standard output of it: `FILE`, at most 64 KiB")
	fs.StringVar(&f.stderr, "stderr", "", "standard error of it: `FILE`, at most 64 KiB")
	fs.StringArrayVar(&f.metadata, "metadata", nil, "`KEY=VALUE` for the result (repeatable)")
	fs.Var(&f.timeout, "timeout", "give up after `DURATION` without a worker that takes it")
	return cmd
}

func (f *replyFlags) outcome(coded bool) (o runnel.ManualOutcome, err error) {
	switch {
	case f.reject != "" && (coded || f.text != ""):
		return o, errors.New("--reject: goes without --exit-code and --error")
	case f.reject != "":
		o.Status, o.Error = runnel.StatusRejected, f.reject
	case f.exitCode != 0:
		o.Status, o.ExitCode, o.Error = runnel.StatusFailed, &f.exitCode, f.text
	case coded && f.text != "":
		return o, errors.New("--error: goes with an --exit-code that is not 0")
	case f.text != "":
		o.Status, o.Error = runnel.StatusFailed, f.text
	default:
		o.Status, o.ExitCode = runnel.StatusSucceeded, &f.exitCode
	}
	if o.Metadata, err = pairs("metadata", f.metadata); err != nil {
		return o, err
	}
	size := 0
	for _, out := range []struct {
		flag, file string
		stream     runnel.Stream
	}{{"stdout", f.stdout, runnel.Stdout}, {"stderr", f.stderr, runnel.Stderr}} {
		if out.file == "" {
			continue
		}
		data, err := os.ReadFile(out.file)
		if err != nil {
			return o, fmt.Errorf("--%s: %w", out.flag, err)
		}
		if size += len(data); size > maxReplyOutput {
			return o, fmt.Errorf("--%s %s: %d bytes of output in all, more than the %d of a reply", out.flag, out.file, size, maxReplyOutput)
		}
		if len(data) > 0 {
			o.Tail = append(o.Tail, runnel.Piece{Stream: out.stream, Data: data})
		}
	}
	return o, nil
}

func (a *app) reply(ctx context.Context, s *session, id string, o runnel.ManualOutcome, timeout float64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(timeout*float64(time.Second)), fmt.Errorf("nothing within %vs (--timeout)", timeout))
	defer cancel()
	r, err := s.Answer(ctx, id, o)
	if errors.Is(err, runnel.ErrAnswered) {
		return fmt.Errorf("%s has ended by another's word: %s", id, r.Status)
	}
	if err != nil {
		return err
	}
	return a.ended(r)
}

// listManual shows what waits for a word.
func (a *app) listManual(ctx context.Context) error {
	return a.onSession(ctx, a.open, func(ctx context.Context, s *session) error {
		open := []runnel.Status{runnel.StatusPending, runnel.StatusRunning}
		return a.list(s.List(ctx, runnel.ListOptions{Kind: runnel.KindManual, Status: open}), 0)
	})
}

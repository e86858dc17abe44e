package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
)

// maxDocument bounds what send reads: a document beyond it could not be sent.
const maxDocument = 8 << 20

func newSend(a *app) *cobra.Command {
	var file string
	var wait, noWaitWorker, rxp bool
	cmd := &cobra.Command{
		Use:   "send -f FILE|-",
		Short: "Submit an invocation that is written down as JSON or msgpack",
		Long: `send submits a document with the fields of an invocation as it is. Unknown, doubled and
wrongly spelled fields are refused by name. It prints the id; with --wait it goes on like run.

With --rxp the document is an invocation of RxP v0.1, and what is printed is its result as RxP
has it. The files that it names are this side's: input_payload_path is sent as standard input,
output_result_path receives the result, and artifact_directory (default .executor_runtime) the
output and the files that were left, under the invocation's id.`,
		Example:     `  echo '{"runtime_kind":"subprocess","command":["uname","-a"]}' | submit send -f - --wait`,
		Args:        cobra.NoArgs,
		Annotations: mayEmbed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rxp {
				return a.sendRxP(cmd.Context(), file, wait, noWaitWorker)
			}
			return a.send(cmd.Context(), file, wait, noWaitWorker)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the document, `FILE` or - for standard input")
	cmd.Flags().BoolVar(&wait, "wait", false, "print its output as it comes and exit with its exit code, as run does")
	cmd.Flags().BoolVar(&noWaitWorker, "no-wait-worker", false, "fail when no worker is there that could take it")
	cmd.Flags().BoolVar(&rxp, "rxp", false, "the document and what is printed are those of RxP v0.1 (with --wait)")
	return cmd
}

func (a *app) send(ctx context.Context, file string, wait, noWaitWorker bool) error {
	if file == "" {
		return errors.New("send: which document? -f FILE names it, -f - reads standard input")
	}
	if a.embedded && !wait {
		return errors.New("send --embedded: the worker ends with this process, so nothing would be left to run it: add --wait, or start `worker dev` and leave out --embedded")
	}
	data, shown, err := a.document(file)
	if err != nil {
		return err
	}
	inv, err := runnel.ParseInvocation(data)
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	s, receipt, err := a.handIn(ctx, func(ctx context.Context, s *session) (runnel.Receipt, error) {
		return s.Submit(ctx, inv)
	})
	if err != nil {
		return err
	}
	defer s.close()
	a.remember(s, receipt.ID)
	return a.submitted(ctx, s, receipt, attachment{inv: inv, failUnserved: noWaitWorker}, !wait)
}

// document reads a document, and says what its errors call it.
func (a *app) document(file string) (data []byte, shown string, err error) {
	var in io.Reader = a.stdin
	shown = "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, file, fmt.Errorf("-f: %w", err)
		}
		defer f.Close()
		in, shown = f, file
	}
	data, err = io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, shown, fmt.Errorf("read %s: %w", shown, err)
	}
	if len(data) > maxDocument {
		return nil, shown, fmt.Errorf("%s: more than %d bytes: put what is large into standard input (submit run --stdin)", shown, maxDocument)
	}
	return data, shown, nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

// runFlags are the flags of run.
type runFlags struct {
	id, name, kind, pool, lane, workdir, stdin, folder string
	env, pass, labels, retryOn, globs                  []string
	timeout, queueTimeout, grace, retryDelay           seconds
	outputLimit                                        settings.Size
	retries                                            int
	keepLog, detach, noWaitWorker                      bool
	container                                          containerFlags
}

func newRun(a *app) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command on a worker and print its output as it comes",
		Long: `run submits a command, prints its output as it comes, and exits with its exit code.
Everything after -- is the command; no shell is added.

Standard input is sent if it is a pipe or a file. Ctrl-C cancels the run and waits until
it is over; a second one leaves.`,
		Example: `  submit run -- sh -c 'echo hello from $(uname -n)'
  echo hi | submit run -- cat
  submit run --image alpine --network bridge -- wget -qO- https://example.org
  submit run -d --timeout 10m --retries 2 -e MODE=full -- ./nightly.sh`,
		Annotations: mayEmbed,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), f, args)
		},
	}
	cmd.Flags().SetInterspersed(false) // what comes after the command's name is the command's
	f.bind(cmd.Flags())
	return cmd
}

func (f *runFlags) bind(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&f.env, "env", "e", nil, "`KEY=VALUE` sets a variable, KEY takes this process's, !KEY keeps the worker's out (repeatable)")
	fs.StringArrayVar(&f.pass, "pass", nil, "`GLOB` of variables that the worker passes on from its own (repeatable)")
	fs.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` in the workspace to start in; an absolute one must be allowed by the worker")
	fs.StringVar(&f.stdin, "stdin", "", "`FILE` to send as standard input, - for this process's, none for none")
	fs.Var(&f.timeout, "timeout", "end a run that takes longer, exit code 124: `DURATION` as 90, 1.5s, 2m")
	fs.Var(&f.queueTimeout, "queue-timeout", "give up when no run started for so long: `DURATION`")
	fs.Var(&f.grace, "grace", "wait between TERM and KILL: `DURATION` (default 5s, 0 kills at once)")
	fs.StringVar(&f.kind, "kind", string(runnel.KindSubprocess), "`KIND` of runner")
	f.container.bind(fs)
	fs.StringVar(&f.pool, "pool", "", "`NAME` of the set of workers (default "+runnel.DefaultPool+")")
	fs.StringVar(&f.lane, "lane", "", "high, normal or low (default normal)")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "`KEY=VALUE` to find it by (repeatable)")
	fs.IntVar(&f.retries, "retries", 0, "run it up to `N` times more if it fails")
	fs.Var(&f.retryDelay, "retry-delay", "wait before the second attempt, doubled with each: `DURATION` (default 1s)")
	fs.StringSliceVar(&f.retryOn, "retry-on", nil, "which ends are tried again: failed, timed_out (default failed)")
	fs.StringVar(&f.id, "id", "", "`ID` instead of a made one: the same submitted twice runs once")
	fs.StringVar(&f.name, "name", "", "what it is, for people: `TEXT`")
	fs.Var(&f.outputLimit, "output-limit", "keep so much output: `SIZE` as 1048576, 64MiB (default is the worker's)")
	fs.BoolVar(&f.keepLog, "keep-log", false, "keep all output, also beyond the limit, as the artifacts .runnel/stdout.log and .runnel/stderr.log")
	fs.StringArrayVar(&f.globs, "artifacts", nil, "keep what `GLOB` matches in the workspace beside the files in $RUNNEL_ARTIFACTS (repeatable)")
	fs.StringVarP(&f.folder, "output", "o", "", "put the files that it leaves into `DIR`")
	fs.BoolVarP(&f.detach, "detach", "d", false, "print the id and leave")
	fs.BoolVar(&f.noWaitWorker, "no-wait-worker", false, "fail when no worker is there that could take it")
}

// invocation makes the document of the flags. What it says is checked by the client.
func (f *runFlags) invocation(args []string) (runnel.Invocation, error) {
	inv := runnel.Invocation{
		ID:                  f.id,
		Name:                f.name,
		Kind:                runnel.Kind(f.kind),
		Pool:                f.pool,
		Lane:                runnel.Lane(f.lane),
		Command:             args,
		EnvironmentPass:     f.pass,
		WorkingDirectory:    f.workdir,
		TimeoutSeconds:      f.timeout.value,
		QueueTimeoutSeconds: f.queueTimeout.value,
		OutputLimitBytes:    f.outputLimit.Bytes,
		KeepLog:             f.keepLog,
		ArtifactGlobs:       f.globs,
	}
	var errs []error
	for _, item := range f.env {
		if err := setVariable(&inv, item); err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	if inv.Labels, err = pairs("label", f.labels); err != nil {
		errs = append(errs, err)
	}
	if f.grace.set {
		inv.Stop = &runnel.Stop{GraceSeconds: &f.grace.value}
	}
	switch {
	case f.retries < 0:
		errs = append(errs, fmt.Errorf("--retries %d: must not be negative", f.retries))
	case f.retries > 0:
		inv.Retry = &runnel.Retry{Attempts: f.retries + 1, DelaySeconds: f.retryDelay.value}
		for _, on := range f.retryOn {
			inv.Retry.On = append(inv.Retry.On, runnel.Status(on))
		}
	case f.retryDelay.set || len(f.retryOn) > 0:
		errs = append(errs, errors.New("--retry-delay and --retry-on say how to try again: say how often with --retries"))
	}
	if err := f.container.set(&inv); err != nil {
		errs = append(errs, err)
	}
	return inv, errors.Join(errs...)
}

func setVariable(inv *runnel.Invocation, item string) error {
	if name, ok := strings.CutPrefix(item, "!"); ok {
		if name == "" || strings.Contains(name, "=") {
			return fmt.Errorf("--env %q: it is !KEY", item)
		}
		inv.EnvironmentDeny = append(inv.EnvironmentDeny, name)
		return nil
	}
	key, value, ok := strings.Cut(item, "=")
	if key == "" {
		return fmt.Errorf("--env %q: it is KEY=VALUE, KEY or !KEY", item)
	}
	if !ok {
		if value, ok = os.LookupEnv(key); !ok {
			return fmt.Errorf("--env %s: this process has no such variable to take the value from", key)
		}
	}
	if inv.Environment == nil {
		inv.Environment = map[string]string{}
	}
	inv.Environment[key] = value
	return nil
}

// mayLeave says why a command that is to leave at once cannot.
func (a *app) mayLeave(command string, f runFlags) error {
	switch {
	case f.detach && a.embedded:
		return fmt.Errorf("%s --embedded: the worker ends with this process, so nothing would be left to run it: leave that out, or start `worker dev` and leave out --embedded", command)
	case f.detach && f.folder != "":
		return fmt.Errorf("%s -o: the files are there when it has ended: `submit artifact get ID -o DIR` fetches them then", command)
	}
	return nil
}

func (a *app) run(ctx context.Context, f runFlags, args []string) error {
	if err := a.mayLeave("run -d", f); err != nil {
		return err
	}
	if a.embedded && f.container.image != "" {
		return errors.New("run --image --embedded: only Runnel's own worker runs containers: start `worker dev` and leave out --embedded")
	}
	inv, err := f.invocation(args)
	if err != nil {
		return err
	}
	stdin, err := a.input(f.stdin)
	if err != nil {
		return err
	}
	return a.submit(ctx, f, inv, stdin)
}

// submit hands an invocation in, with standard input unless that is nil, which it closes, and stays with it as the flags say.
func (a *app) submit(ctx context.Context, f runFlags, inv runnel.Invocation, stdin io.ReadCloser) error {
	if stdin != nil {
		defer stdin.Close()
	}
	s, receipt, err := a.handIn(ctx, func(ctx context.Context, s *session) (runnel.Receipt, error) {
		if stdin == nil {
			return s.Submit(ctx, inv)
		}
		r, done := a.told(stdin)
		defer done()
		return s.SubmitReader(ctx, inv, r)
	})
	if err != nil {
		return err
	}
	defer s.close()
	a.remember(s, receipt.ID)
	return a.submitted(ctx, s, receipt, attachment{inv: inv, failUnserved: f.noWaitWorker, folder: f.folder}, f.detach)
}

// handIn connects and submits. An interrupt ends it at once, also while standard input is read.
func (a *app) handIn(ctx context.Context, submit func(context.Context, *session) (runnel.Receipt, error)) (*session, runnel.Receipt, error) {
	ctx, done := leaving(ctx)
	defer done()
	s, err := a.open(ctx)
	if err != nil {
		return nil, runnel.Receipt{}, cmp.Or(context.Cause(ctx), err)
	}
	type answer struct {
		receipt runnel.Receipt
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		receipt, err := submit(ctx, s)
		answers <- answer{receipt, err}
	}()
	select {
	case got := <-answers:
		if got.err != nil {
			s.close()
		}
		return s, got.receipt, got.err
	case <-ctx.Done():
		s.close()
		return nil, runnel.Receipt{}, context.Cause(ctx)
	}
}

// submitted stays with an invocation, or prints its id and leaves.
func (a *app) submitted(ctx context.Context, s *session, receipt runnel.Receipt, at attachment, detach bool) error {
	if at.failUnserved {
		if err := a.withdrawUnserved(ctx, s, receipt.ID, at.inv); err != nil {
			return err
		}
	}
	if !detach {
		return a.attach(ctx, s, receipt.ID, at)
	}
	if a.json {
		return a.object(map[string]any{"invocation_id": receipt.ID, "digest": receipt.Digest, "existed": receipt.Existed, "submitted_at": receipt.Submitted})
	}
	return a.printf("%s\n", receipt.ID)
}

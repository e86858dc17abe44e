package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
)

func newSandbox(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Keep a container open for many commands over the same files",
		Long: `A sandbox is a container that stays open on one worker: open it once, run as many commands
in it as you like, a few milliseconds each, and close it. Files stay from one command to the next;
processes do not. What is left in $RUNNEL_ARTIFACTS becomes its artifacts when it ends.

It ends when it is closed or cancelled, when no command has run for --idle, after --timeout,
and with its worker. It is an invocation: show, ls, wait and cancel take its id.`,
		Example: `  id=$(submit sandbox open --image python:3.13 --network bridge)
  submit sandbox exec $id -- pip install --user requests
  submit sandbox exec $id -- python3 - < job.py
  submit sandbox close $id -o out`,
	}
	cmd.AddCommand(newSandboxOpen(a), newSandboxExec(a), newSandboxLs(a), newSandboxClose(a))
	return cmd
}

func newSandboxOpen(a *app) *cobra.Command {
	var f runFlags
	var idle, wait seconds
	cmd := &cobra.Command{
		Use:   "open --image IMAGE",
		Short: "Open a sandbox, and print its id once it takes commands",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.container.image == "" {
				return errors.New("sandbox open: name its image with --image")
			}
			inv, err := f.invocation(nil)
			if err != nil {
				return err
			}
			inv.Container.Sandbox = &runnel.SandboxLimits{IdleSeconds: idle.value, WaitSeconds: wait.value}
			return a.openSandbox(cmd.Context(), inv)
		},
	}
	fs := cmd.Flags()
	f.container.bind(fs)
	f.bindSandbox(fs)
	fs.Var(&idle, "idle", "end it when no command has run for `DURATION` (default 10m)")
	fs.Var(&wait, "wait", "have a command wait for the one before it for `DURATION`, then refuse it (default 10s)")
	return cmd
}

// bindSandbox binds what of a run goes with a sandbox.
func (f *runFlags) bindSandbox(fs *pflag.FlagSet) {
	for _, name := range []string{"entrypoint", "publish", "init"} {
		_ = fs.MarkHidden(name) // it is there: refused by name, with the reason
	}
	fs.StringArrayVarP(&f.env, "env", "e", nil, "`KEY=VALUE` sets a variable for its commands, KEY takes this process's (repeatable)")
	fs.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` in the workspace for its commands to start in")
	fs.Var(&f.timeout, "timeout", "end it after `DURATION`, whatever it does (default 1h)")
	fs.Var(&f.queueTimeout, "queue-timeout", "give up when no worker took it for so long: `DURATION`")
	fs.Var(&f.grace, "grace", "wait between TERM and KILL, of a command that is stopped: `DURATION` (default 5s, 0 kills at once)")
	fs.StringVar(&f.pool, "pool", "", "`NAME` of the set of workers (default "+runnel.DefaultPool+")")
	fs.StringVar(&f.lane, "lane", "", "high, normal or low (default normal)")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "`KEY=VALUE` to find it by (repeatable)")
	fs.StringVar(&f.id, "id", "", "`ID` instead of a made one")
	fs.StringVar(&f.name, "name", "", "what it is, for people: `TEXT`")
	fs.StringArrayVar(&f.globs, "artifacts", nil, "keep what `GLOB` matches in the workspace when it ends (repeatable)")
}

func (a *app) openSandbox(ctx context.Context, inv runnel.Invocation) error {
	return a.onSession(ctx, a.open, func(ctx context.Context, s *session) error {
		slow := time.AfterFunc(3*time.Second, func() {
			if served, err := s.Served(ctx, runnel.KindContainer, inv.Pool); err == nil && !served {
				a.note("no worker that runs containers is there: waiting for one")
			}
		})
		defer slow.Stop()
		box, err := s.OpenSandbox(ctx, inv)
		var ended *runnel.SandboxEndedError
		switch {
		case errors.As(err, &ended):
			if err := a.leave(ended.Result); err != nil {
				return err
			}
			return fmt.Errorf("%s ended before it took a command", ended.Result.ID)
		case err != nil:
			return err
		}
		a.remember(s, box.ID())
		if a.json {
			return a.object(map[string]any{"invocation_id": box.ID()})
		}
		return a.printf("%s\n", box.ID())
	})
}

type execFlags struct {
	env            []string
	workdir, stdin string
	timeout, grace seconds
}

func newSandboxExec(a *app) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec ID [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command in a sandbox, print its output as it comes, and exit with its exit code",
		Long: `exec runs a command in an open sandbox, prints its output as it comes, and exits as run does:
with its exit code, 124 timed out, 126 not executable, 127 not found, 128+n ended by signal n,
130 interrupted, 125 anything else, such as a sandbox that is lost.

Commands of one sandbox run one at a time. When one ends, all processes that it left are killed.
Standard input is sent if it is a pipe or a file. Ctrl-C stops the command; a second one leaves.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.execInSandbox(cmd.Context(), f, args[0], args[1:])
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&f.env, "env", "e", nil, "`KEY=VALUE` sets a variable, KEY takes this process's (repeatable)")
	fs.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` in the workspace to start in, or an absolute one of the container")
	fs.Var(&f.timeout, "timeout", "stop a command that takes longer, exit code 124: `DURATION` as 90, 1.5s, 2m")
	fs.Var(&f.grace, "grace", "wait between TERM and KILL: `DURATION` (default is the sandbox's)")
	fs.StringVar(&f.stdin, "stdin", "", "`FILE` to send as standard input, - for this process's, none for none")
	return cmd
}

func (a *app) execInSandbox(ctx context.Context, f execFlags, given string, command []string) error {
	var inv runnel.Invocation
	for _, item := range f.env {
		if err := setVariable(&inv, item); err != nil {
			return err
		}
	}
	if len(inv.EnvironmentDeny) > 0 {
		return errors.New("--env !KEY: nothing of the worker's environment is in a sandbox")
	}
	r := runnel.ExecRequest{
		Command: command, Environment: inv.Environment, WorkingDirectory: f.workdir, TimeoutSeconds: f.timeout.value, Stdout: a.stdout, Stderr: a.stderr,
	}
	if f.grace.set {
		r.Stop = &runnel.Stop{GraceSeconds: &f.grace.value}
	}
	stdin, err := a.input(f.stdin)
	if err != nil {
		return err
	}
	if stdin != nil {
		defer stdin.Close()
		r.Stdin = stdin
	}
	var catch *capture
	if a.json {
		catch = &capture{}
		r.Stdout, r.Stderr = catch.of(runnel.Stdout), catch.of(runnel.Stderr)
	}
	ctx, left, done := a.stopping(ctx)
	defer done()
	s, err := a.open(ctx)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer s.close()
	id, err := a.resolve(ctx, s, given)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	type answer struct {
		result runnel.ExecResult
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := s.Sandbox(id).Exec(ctx, r)
		answers <- answer{result, err}
	}()
	select {
	case <-left:
		return errLeft
	case got := <-answers:
		return a.execEnded(id, got.result, got.err, catch)
	}
}

// execEnded says how a command ended, and ends with its exit code.
func (a *app) execEnded(id string, r runnel.ExecResult, err error, catch *capture) error {
	switch {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return &exitError{code: exitPipe}
	case errors.Is(err, errLeft):
		if r.Killed != "" {
			a.note("stopped: %s", oneLine(r.Killed))
		}
		return errLeft
	case err != nil:
		return err
	}
	as := runnel.Result{ID: id, Status: r.Status, Reason: r.Reason, ExitCode: r.ExitCode, Error: r.Error, Killed: r.Killed}
	if a.json {
		rep := reportOf(as, catch)
		shown := map[string]any{"status": r.Status, "reason": r.Reason, "exit_code": r.ExitCode, "error_summary": r.Error, "killed": r.Killed}
		for name, text := range map[string]*string{"stdout": rep.Stdout, "stderr": rep.Stderr} {
			if text != nil {
				shown[name] = *text
			}
		}
		if rep.StdoutBase64 != "" {
			shown["stdout_base64"] = rep.StdoutBase64
		}
		if rep.StderrBase64 != "" {
			shown["stderr_base64"] = rep.StderrBase64
		}
		if err := a.object(shown); err != nil {
			return err
		}
	}
	return a.leave(as)
}

// stopping returns a context that ends at the first interrupt, and what is closed at the second.
func (a *app) stopping(ctx context.Context) (context.Context, <-chan struct{}, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, left, over := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-over:
			return
		case <-signals:
		}
		cancel(errLeft)
		for first := time.Now(); ; {
			select {
			case <-over:
				return
			case <-signals:
				if time.Since(first) > sameSignal {
					close(left)
					return
				}
			}
		}
	}()
	return ctx, left, func() {
		signal.Stop(signals)
		close(over)
		cancel(nil)
	}
}

func newSandboxLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the sandboxes that are open, or wait to be opened",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onSession(cmd.Context(), a.open, func(ctx context.Context, s *session) error {
				return a.list(s.Sandboxes(ctx), 0)
			})
		},
	}
}

func newSandboxClose(a *app) *cobra.Command {
	folder := ""
	cmd := &cobra.Command{
		Use:   "close ID",
		Short: "Close a sandbox: what it runs is ended, and its artifacts are stored",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onInvocation(cmd.Context(), args[0], func(ctx context.Context, s *session, id string) error {
				r, err := s.Sandbox(id).Close(ctx)
				if err != nil {
					return cmp.Or(context.Cause(ctx), err)
				}
				if folder != "" && r.ArtifactCount > 0 {
					if _, err := a.fetch(ctx, s, id, folder); err != nil {
						return err
					}
				}
				if err := a.ended(r); err != nil {
					return err
				}
				if r.Status == runnel.StatusSucceeded {
					return a.leave(r)
				}
				a.note("%s", verdict(r)) // it is closed, which is what was asked for
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&folder, "output", "o", "", "put the files that it leaves into `DIR`")
	return cmd
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"mirrord/daemon/debug/endpoint"
	"mirrord/layer/keeper"
	"mirrord/protocol/ide"
)

// delve is the name that makes a command Delve, ours (argv[0]) or another.
const delve = "dlv"

const sessionVar = "MIRRORD_SESSION"

// contexts are the variables that ask for a session by themselves.
var contexts = []string{sessionVar, "MIRRORD_IMPERSONATED_TARGET", "MIRRORD_CONFIG_FILE"}

// Delve's commands that start a debuggee, and the others.
var (
	starters = []string{"dap", "debug", "exec", "test", "trace"}
	others   = []string{"attach", "backend", "completion", "connect", "core", "help", "log", "redirect", "replay", "substitute-path", "version"}
)

func isDelve(command string) bool { return filepath.Base(command) == delve }

// delveCommand finds the command in a command line of Delve's, "" for none.
func delveCommand(args []string) string {
	for _, word := range args {
		if slices.Contains(starters, word) || slices.Contains(others, word) {
			return word
		}
	}
	return ""
}

// servesDAP tells whether Delve, called so, may start a debuggee without tracing it.
func servesDAP(args []string) bool { return delveCommand(args) == "dap" || endpoint.Is(args) }

// wantsSession tells whether a dlv with these arguments is to be in a session
// and is not in one already; else it is Delve and no more.
func wantsSession(args []string) bool {
	return os.Getenv(keeper.NestedEnv) == "" && slices.Contains(append(starters, "attach"), delveCommand(args)) &&
		slices.ContainsFunc(contexts, func(name string) bool { return os.Getenv(name) != "" })
}

func dlvCommand() *cobra.Command {
	e := &execution{}
	cmd := &cobra.Command{
		Use:   "dlv [flags] -- DLV-COMMAND [ARGUMENT...]",
		Short: "Debug a Go program in the context of a target",
		Long: `dlv is Delve, the debugger of Go, whose debuggee runs in the context of a target.
DLV-COMMAND and what follows are Delve's own: dap, debug, exec, test and trace,
with their flags, also --headless. Delve itself, and the build it does, see this
machine only; the debuggee sees the target.

Called by the name dlv (bin/dlv is a link), mirrord takes Delve's command line
alone, so that an IDE needs only be told where its dlv is. MIRRORD_SESSION then
names the session, or MIRRORD_IMPERSONATED_TARGET or MIRRORD_CONFIG_FILE say what
to start; without them it is Delve and no more.`,
		Example: `  mirrord dlv -t deployment/web --steal -- debug ./cmd/web
  mirrord dlv -t deployment/web -- exec ./web -- --verbose
  mirrord dlv --session 1f2e3d4c -- dap --listen 127.0.0.1:4711
  mirrord dlv -t pod/web-1 -- --headless --listen 127.0.0.1:2345 --api-version 2 exec ./web
  MIRRORD_SESSION=1f2e3d4c dlv test ./handlers`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("dlv needs a command of Delve, as in mirrord dlv --target deployment/web -- debug ./web")
			}
			return e.check(cmd)
		},
	}
	cmd.RunE = run(func(ctx context.Context, cmd *cobra.Command, args []string) (err error) {
		if err := startsDebuggee(args); err != nil {
			return err
		}
		if id := os.Getenv(sessionVar); id != "" && e.session == "" && e.choice == (choice{}) {
			e.session = id
		}
		if e.path, err = beside(delveProgram); err != nil {
			return err
		}
		argv := append([]string{delve}, args...)
		if endpoint.Is(args) {
			return e.debugSession(ctx, cmd, argv)
		}
		return e.run(ctx, cmd, argv)
	})
	e.add(cmd)
	cmd.Flags().StringVar(&e.dir, "dir", "", "runtime `directory`")
	if err := cmd.Flags().MarkHidden("dir"); err != nil {
		panic(err)
	}
	return cmd
}

// debugSession is run for a daemon (debug/start), which is told what went wrong
// in the place of the endpoint.
func (e *execution) debugSession(ctx context.Context, cmd *cobra.Command, argv []string) error {
	defer endpoint.Remove(argv[1:])
	err := e.run(ctx, cmd, argv)
	if _, ended := errors.AsType[*exit](err); err == nil || ended {
		return err
	}
	told := &ide.Error{Msg: err.Error(), Hint: hintOf(err)}
	if e, ok := errors.AsType[*ide.Error](err); ok {
		told.Code = e.Code
	}
	signal.Ignore(syscall.SIGPIPE) // the daemon's end is closed when it has heard of the endpoint
	if endpoint.Say(cmd.OutOrStdout(), endpoint.Words{Failed: told}) != nil {
		return err // nobody listens: to the log
	}
	return &exit{code: exitFailed}
}

// startsDebuggee refuses command lines of Delve that start nothing.
func startsDebuggee(args []string) error {
	command := delveCommand(args)
	switch {
	case slices.Contains(starters, command), endpoint.Is(args):
		return nil
	case command == "attach":
		return &ide.Error{
			Msg:  "dlv attach: a process that runs already cannot be put into the context of a target",
			Hint: "start it with mirrord dlv exec, or attach with Delve itself to debug it as it is",
		}
	}
	return &ide.Error{
		Msg:  fmt.Sprintf("dlv %s starts no debuggee, so there is nothing to put into the context of a target", cmp.Or(command, args[0])),
		Hint: "the commands are dap, debug, exec, test and trace; run dlv itself for the others",
	}
}

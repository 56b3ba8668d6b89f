package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mirrord/daemon/debug"
	"mirrord/daemon/debug/endpoint"
	"mirrord/protocol/ide"
)

const sessionVar = "MIRRORD_SESSION"

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
  mirrord dlv -t pod/web-1 -- --headless --listen :2345 --api-version 2 exec ./web
  MIRRORD_SESSION=1f2e3d4c dlv test ./handlers`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("dlv needs a command of Delve, as in mirrord dlv --target deployment/web -- debug ./web")
			}
			return e.check()
		},
	}
	cmd.RunE = run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
		if debug.Command(args) == "attach" {
			return &ide.Error{
				Msg:  "dlv attach: a process that runs already cannot be put into the context of a target",
				Hint: "start it with mirrord dlv exec, or attach with Delve itself to debug it as it is",
			}
		}
		if !debug.Starts(args) {
			return &ide.Error{
				Msg:  fmt.Sprintf("dlv %s starts no debuggee, so there is nothing to put into the context of a target", args[0]),
				Hint: "the commands are dap, debug, exec, test and trace; run dlv itself for the others",
			}
		}
		if id := os.Getenv(sessionVar); id != "" && e.session == "" && e.choice == (choice{}) {
			e.session = id
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		e.path = self
		argv := append([]string{debug.Name}, args...)
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

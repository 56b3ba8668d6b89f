package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

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
  mirrord dlv -t pod/web-1 -- --headless --listen :2345 --api-version 2 exec ./web
  MIRRORD_SESSION=1f2e3d4c dlv test ./handlers`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("dlv needs a command of Delve, as in mirrord dlv --target deployment/web -- debug ./web")
			}
			return e.check()
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
		return e.run(ctx, cmd, append([]string{delve}, args...))
	})
	e.add(cmd)
	return cmd
}

// startsDebuggee refuses command lines of Delve that start nothing.
func startsDebuggee(args []string) error {
	command := delveCommand(args)
	switch {
	case slices.Contains(starters, command):
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

// Package cli is the command line: each command is a thin client of the daemon,
// which it starts where none runs. Its rules: stdout is the debuggee's, or holds
// what was asked for; all else goes to stderr; an error is one line that begins
// with "mirrord: ", and a line below it where there is a way out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
	"mirrord/layer"
	"mirrord/layer/launch"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// Exit codes beside the debuggee's own, and 126 and 127 of package launch.
const (
	exitFailed      = 125 // mirrord could not do it, as env(1) and docker run say it
	exitUsage       = 2
	exitInterrupted = 128 + int(syscall.SIGINT)
)

// Full is what only mirrord-full has: the others go on as that where they need it.
type Full struct {
	Manager NewManager
	// Show mounts files at a directory, until it is undone.
	Show func(t *layer.Tree, dir string, writable bool) (undo func() error, err error)
	// Sweep takes away the mount that one that was killed has left at a directory.
	Sweep func(dir string) (was bool)
}

// NewManager makes the sessions of a daemon in its runtime directory.
type NewManager func(log *slog.Logger, dir string) (rpc.Manager, error)

// An exit is an error with its exit code; without err nothing is said.
type exit struct {
	code     int
	err      error
	debuggee launch.Exit // where its end is ours
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}
func (e *exit) Unwrap() error { return e.err }

// Main runs a command line, args[0] being the program's name, and returns its
// exit code. It does not return where the debuggee died by a signal: then so
// does this process. full is nil but in mirrord-full.
func Main(args []string, full *Full) int {
	if full == nil {
		full = &Full{}
	}
	rest := args[1:]
	if isDelve(args[0]) { // called by an IDE: the command line is Delve's
		if !wantsSession(rest) {
			return report(os.Stderr, become(delveProgram, append([]string{delve}, rest...)))
		}
		rest = append([]string{"dlv", "--"}, rest...)
	}
	root := command(full, rest)
	root.SetArgs(rest)
	cmd, err := root.ExecuteC()
	if _, ok := errors.AsType[*exit](err); err != nil && !ok { // cobra's own: flags, commands, arguments
		err = &exit{code: exitUsage, err: &ide.Error{Msg: err.Error(), Hint: "see " + cmd.CommandPath() + " --help"}}
	}
	code := report(os.Stderr, err)
	if e, ok := errors.AsType[*exit](err); ok && e.debuggee.Signal != 0 {
		e.debuggee.End() // by the same signal
	}
	return code
}

// command makes the command line that is to run args.
func command(full *Full, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:     "mirrord",
		Version: protocol.Build,
		Short:   "Run a process of this machine in the context of a Kubernetes pod",
		Long: `mirrord runs a process on this machine in the context of a pod: it sees the pod's
environment, files, names and network, and receives the pod's traffic. Nothing is
installed in the cluster but an agent pod while it is needed.`,
		Example:       "  mirrord exec --target deployment/web -- ./web\n  mirrord ls",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	if len(args) > 0 && args[0] == "exec" { // each start waits for all that is made here
		root.CompletionOptions.DisableDefaultCmd = true
		root.AddCommand(execCommand())
		return root
	}
	root.InitDefaultCompletionCmd(args...)
	for _, c := range root.Commands() { // as the others do that stand for several
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	root.AddCommand(execCommand(), dlvCommand(), lsCommand(), sessionCommand(full), configCommand(), verifyCommand(), explainCommand(), daemonCommand(full.Manager), versionCommand())
	return root
}

// run makes a cobra function of a command's own: its errors are not those of
// usage, and an interrupt or a request to end ends ctx.
func run(f func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := interruptible()
		defer stop()
		err := f(ctx, cmd, args)
		if _, ok := errors.AsType[*exit](err); err == nil || ok {
			return err
		}
		if ctx.Err() != nil {
			return &exit{code: exitInterrupted, err: err}
		}
		if e, ok := errors.AsType[*launch.Error](err); ok && (e.Code == launch.CodeNotFound || e.Code == launch.CodeNotExecutable) {
			return &exit{code: e.Code, err: err}
		}
		return &exit{code: exitFailed, err: err}
	}
}

// interruptible returns a context that an interrupt or a request to end ends. It asks
// for them beside what its caller does: each takes two changes of threads.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(context.Background())
	go func() {
		signalled, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		<-signalled.Done()
		end(context.Cause(signalled))
	}()
	return ctx, func() { end(context.Canceled) }
}

// one is for commands that take one argument; example is what it may be.
func one(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		switch _, name, _ := strings.Cut(path, " "); len(args) {
		case 0:
			return fmt.Errorf("%s needs %s, as in %s %s", name, what, path, example)
		case 1:
			return nil
		default:
			return fmt.Errorf("%s takes one argument, got %q, too", name, args[1])
		}
	}
}

// none is for commands that take no argument.
func none(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	return fmt.Errorf("%s takes no argument, got %q", name, args[0])
}

// report tells err and returns the exit code it stands for.
func report(w io.Writer, err error) int {
	e, ok := errors.AsType[*exit](err)
	switch {
	case err == nil:
		return 0
	case !ok:
		e = &exit{code: exitFailed, err: err}
	case e.err == nil:
		return e.code
	}
	fmt.Fprintf(w, "mirrord: %s\n", indent(e.err.Error()))
	if hint := hintOf(e.err); hint != "" {
		fmt.Fprintf(w, "  %s\n", indent(hint))
	}
	return e.code
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*ide.Error](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*launch.Error](err); ok {
		return e.Hint
	}
	return ""
}

// indent sets further lines of a message off from the next message.
func indent(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ") }

// idleVar says how long a daemon that a client starts waits for the next one.
const idleVar = "MIRRORD_DAEMON_IDLE"

// dial connects to the user's daemon, starting it if need be.
func dial(ctx context.Context) (*rpc.Client, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	return dialIn(ctx, dir)
}

func dialIn(ctx context.Context, dir string) (*rpc.Client, error) {
	command, err := startDaemon()
	if err != nil {
		return nil, err
	}
	return rpc.Dial(ctx, dir, caller, command)
}

// caller is who we are to the daemon.
const caller = "cli"

// startDaemon are the arguments of ours that start one.
func startDaemon() ([]string, error) {
	command := []string{"daemon"}
	if idle := os.Getenv(idleVar); idle != "" {
		if _, err := time.ParseDuration(idle); err != nil {
			return nil, fmt.Errorf("reading %s: %w", idleVar, err)
		}
		command = append(command, "--idle", idle)
	}
	return command, nil
}

func runtimeDir() (string, error) { return rpc.RuntimeDir(os.Getenv("XDG_RUNTIME_DIR")) }

// client is this process, as the daemon must know it.
func client() (ide.Client, error) {
	dir, err := os.Getwd()
	if errors.Is(err, fs.ErrNotExist) {
		return ide.Client{}, &ide.Error{Msg: "the working directory has been deleted", Hint: "change to one that exists, as with `cd`", Err: err}
	}
	if err != nil {
		return ide.Client{}, fmt.Errorf("finding the working directory: %w", err)
	}
	return ide.Client{Dir: dir, Env: os.Environ()}, nil
}

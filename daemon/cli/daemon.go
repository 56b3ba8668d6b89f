package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
)

func daemonCommand(manager NewManager) *cobra.Command {
	d := rpc.Daemon{New: manager}
	var stdio, verbose bool
	var ready string
	cmd := &cobra.Command{
		Use:   "daemon [flags]",
		Short: "Run the daemon in the foreground, or speak to it",
		Long: `daemon runs the process that all mirrord commands of a user share. The first of
them starts it in the background, so that this command is seldom needed. It ends
when it was of no use for some time.

With --stdio it carries JSON-RPC between an IDE and the daemon, which it starts
where none runs.`,
		Example: "  mirrord daemon --verbose\n  mirrord daemon --stdio\n  mirrord daemon stop",
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			var err error
			if d.Dir == "" {
				if d.Dir, err = runtimeDir(); err != nil {
					return err
				}
			}
			if stdio {
				return rpc.Bridge(ctx, d.Dir, []string{"daemon"}, cmd.InOrStdin(), cmd.OutOrStdout())
			}
			switch ready {
			case rpc.Between:
				return rpc.Again(os.Args[1:])
			case rpc.Told:
				d.Ready = rpc.ReadyFile()
			}
			if verbose {
				d.Level = slog.LevelDebug
			}
			d.Stderr = cmd.ErrOrStderr()
			if d.New != nil {
				return d.Run(ctx)
			}
			err = become(fullProgram, os.Args)
			if d.Ready != nil {
				fmt.Fprint(d.Ready, err) // who started us tells the user
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&stdio, "stdio", false, "carry JSON-RPC between standard input and output and the daemon")
	f.DurationVar(&d.Idle, "idle", 30*time.Minute, "end after this `time` without clients and sessions")
	f.BoolVarP(&verbose, "verbose", "v", false, "log each hooked call that fails, and who connects")
	f.StringVar(&d.Dir, "dir", "", "runtime `directory`")
	f.StringVar(&ready, "ready", "", "`how` to tell the client that starts it")
	for _, name := range []string{"dir", "ready"} {
		if err := f.MarkHidden(name); err != nil {
			panic(err)
		}
	}
	cmd.AddCommand(stopCommand())
	return cmd
}

func stopCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "stop", Short: "End the daemon", Args: none,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			c, err := dialRunning(ctx)
			if c == nil || err != nil {
				return err
			}
			defer c.Close()
			if n := c.Info.Busy; n > 0 && !force {
				return fmt.Errorf("ending the daemon: %d session(s) run in it; --force ends them, too", n)
			}
			if err := c.Shutdown(ctx, force); err != nil {
				return err
			}
			return c.Ended(ctx)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "end running sessions, too")
	return cmd
}

// gapTime is how long launchers may take to start the daemon after one that was killed.
const gapTime = time.Second

// dialRunning connects to the daemon, of whatever build; nil: none runs.
func dialRunning(ctx context.Context) (*rpc.Client, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(gapTime); ; {
		c, err := rpc.Dial(ctx, dir, caller, nil)
		if !errors.Is(err, rpc.ErrNoDaemon) {
			return c, err
		}
		if !rpc.WasKilled(dir) || time.Now().After(deadline) || ctx.Err() != nil {
			return nil, nil
		}
		time.Sleep(backPoll)
	}
}

package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

// portsOf tells which of the target's ports a session has, and how.
func portsOf(s ide.Session) string {
	how := "stolen"
	if s.Mirrors {
		how = "mirrored"
	}
	var list []string
	for _, port := range s.Ports {
		list = append(list, fmt.Sprintf("%d %s", port, how))
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}

func sessionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "session", Short: "List, watch, restart or stop running sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use: "ls", Short: "List running sessions", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			c, err := dialRunning(ctx)
			if c == nil || err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Sessions(ctx)
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(t, "ID\tTARGET\tSTARTED\tPROCESSES\tPORTS")
			for _, s := range list {
				fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", s.ID, s.Target, s.Started, s.Launchers, portsOf(s))
			}
			return t.Flush()
		}),
	}, &cobra.Command{
		Use: "stop ID", Short: "Stop a session", Args: cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := dialRunning(ctx)
			if err != nil {
				return err
			}
			if c == nil {
				return fmt.Errorf("stopping session %s: no daemon runs", args[0])
			}
			defer c.Close()
			return c.Stop(ctx, args[0])
		}),
	}, eventsCommand(), restartCommand())
	return cmd
}

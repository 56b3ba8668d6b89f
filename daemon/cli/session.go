package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
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

func sessionCommand(full *Full) *cobra.Command {
	cmd := &cobra.Command{Use: "session", Short: "List, watch, restart, arm, look into or stop running sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(sessionListCommand(), &cobra.Command{
		Use: "stop ID", Short: "Stop a session", Args: oneSession,
		Example:           "  mirrord session stop 1f2e3d4c",
		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := dialSessions(ctx, "stopping session "+args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Stop(ctx, args[0])
		}),
	}, eventsCommand(), restartCommand(), armCommand(), filesCommand(full))
	return cmd
}

// dialSessions connects to the daemon that runs, for what is to be done there.
func dialSessions(ctx context.Context, what string) (*rpc.Client, error) {
	c, err := dialRunning(ctx)
	if c == nil && err == nil {
		err = fmt.Errorf("%s: no daemon runs", what)
	}
	return c, err
}

func sessionListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "ls [flags]", Short: "List running sessions",
		Example: "  mirrord session ls\n  mirrord session ls -o json | jq -r '.sessions[].id'",
		Args: func(cmd *cobra.Command, args []string) error {
			return cmp.Or(cobra.NoArgs(cmd, args), checkOutput(output))
		},
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			list, err := sessions(ctx)
			if err != nil {
				return err
			}
			if output == outputJSON {
				return printJSON(cmd.OutOrStdout(), ide.SessionListResult{Sessions: append([]ide.Session{}, list...)})
			}
			if list == nil {
				return nil
			}
			return printSessions(cmd.OutOrStdout(), list)
		}),
	}
	addOutput(cmd, &output)
	return cmd
}

// sessions lists those that run, nil where no daemon does.
func sessions(ctx context.Context) ([]ide.Session, error) {
	c, err := dialRunning(ctx)
	if c == nil || err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Sessions(ctx)
}

func printSessions(w io.Writer, list []ide.Session) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tTARGET\tSTARTED\tPROCESSES\tPORTS")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", s.ID, s.Target, s.Started, s.Launchers, portsOf(s))
	}
	return t.Flush()
}

// oneSession wants the id of a session.
var oneSession = one("the id of a session, which `mirrord session ls` lists", "1f2e3d4c")

// completeOneSession offers it.
func completeOneSession(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeSession(""), cobra.ShellCompDirectiveNoFileComp
}

// completeSession offers the sessions that run, each with its target.
func completeSession(string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	list, err := sessions(ctx)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
	var words []string
	for _, s := range list {
		words = append(words, cobra.CompletionWithDesc(s.ID, s.Target))
	}
	return words
}

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// portsOf tells which of the target's ports a session has, and how.
func portsOf(s ide.Session) string {
	how := "stolen"
	switch {
	case s.Mirrors:
		how = "mirrored"
	case s.Once && s.Filter == "":
		how = "one connection stolen"
	case s.Once:
		how = "one request stolen by " + s.Filter
	case s.Filter != "":
		how = "stolen by " + s.Filter
	}
	var list []string
	for _, port := range s.Ports {
		list = append(list, fmt.Sprintf("%d %s", port, how))
	}
	return cmp.Or(strings.Join(list, ", "), toCome(s))
}

// toCome tells it of one that has none.
func toCome(s ide.Session) string {
	switch {
	case s.Mirrors:
		return "none yet, to be mirrored"
	case !s.Steals:
		return "none"
	}
	words := "none yet, to be stolen"
	if s.Once {
		words += " once"
	}
	if s.Filter != "" {
		words += " by " + s.Filter
	}
	return words
}

func sessionCommand(full *Full) *cobra.Command {
	cmd := &cobra.Command{Use: "session", Short: "List, watch, restart, arm, look into or stop running sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(sessionListCommand(), &cobra.Command{
		Use: "stop ID", Short: "Stop a session", Args: oneSession,
		Long:              "stop ends session ID: its ports are the pod's again, and its debuggees get SIGTERM, and 10 seconds later SIGKILL.",
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
	var cluster bool
	var c choice
	cmd := &cobra.Command{
		Use: "ls [flags]", Short: "List running sessions, or who holds ports of the cluster's pods",
		Long: "List your running sessions. With --cluster, list who holds which ports of the cluster's pods, by what filter and\n" +
			"since when: your own and all other users' whose agents you may reach.",
		Example: "  mirrord session ls\n  mirrord session ls -o json | jq -r '.sessions[].id'\n  mirrord session ls --cluster\n  mirrord session ls --cluster -n shop",
		Args: func(cmd *cobra.Command, args []string) error {
			if !cluster {
				for _, name := range c.flags() {
					if cmd.Flags().Changed(name) {
						return fmt.Errorf("--%s is of use with --cluster only", name)
					}
				}
			}
			return cmp.Or(none(cmd, args), checkOutput(output))
		},
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			if cluster {
				return listHolders(ctx, cmd, &c, output)
			}
			list, err := sessions(ctx)
			if err != nil {
				return err
			}
			if output == outputJSON {
				return printJSON(cmd.OutOrStdout(), ide.SessionListResult{Sessions: append([]ide.Session{}, list...)})
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "mirrord: no session runs")
				return nil
			}
			return printSessions(cmd.OutOrStdout(), list)
		}),
	}
	c.add(cmd)
	cmd.Flags().BoolVar(&cluster, "cluster", false, "list who holds ports: in the namespace of -n, else in all that you may look into")
	addOutput(cmd, &output)
	return cmd
}

// listHolders prints who has which ports in the cluster.
func listHolders(ctx context.Context, cmd *cobra.Command, c *choice, output string) error {
	var r ide.HoldersResult
	if err := c.ask(ctx, ide.MethodSessionHolders, &r); err != nil {
		return err
	}
	if output == outputJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(cmd.ErrOrStderr(), "mirrord:", problem)
	}
	if len(r.Holders) == 0 && r.Unasked > 0 {
		return fmt.Errorf("listing who holds ports: nobody, as far as agents could be asked; %d could not", r.Unasked)
	}
	if len(r.Holders) == 0 {
		where := ""
		if c.overrides.Namespace != "" {
			where = " in namespace " + c.overrides.Namespace
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "mirrord: nobody holds a port"+where)
		return nil
	}
	return printHolders(cmd.OutOrStdout(), r.Holders)
}

func printHolders(w io.Writer, list []ide.Holder) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tPOD\tPORT\tMODE\tUSER\tSESSION\tSINCE\tFILTER")
	for _, h := range list {
		mode := h.Mode
		if h.Mode == "steal" && h.Redirect != "sk_lookup" {
			mode += " by " + h.Redirect
		}
		if h.Once {
			mode += " once"
		}
		if h.Away {
			mode += " (away)"
		}
		port := strconv.Itoa(int(h.Port))
		if h.Port == 0 { // a pause
			port = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", h.Namespace, h.Pod, port, mode, h.User, h.Session, h.Since, cmp.Or(h.Filter, "-"))
	}
	return t.Flush()
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
		target := s.Target
		if more := len(s.Replicas) - 1; more > 0 {
			target += fmt.Sprintf(" and %d more", more)
		}
		if s.Paused {
			target += " (paused)"
		}
		processes := strconv.Itoa(s.Launchers)
		if s.Stopped > 0 {
			processes += fmt.Sprintf(" (%d stopped)", s.Stopped)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.ID, target, s.Started, processes, portsOf(s))
	}
	return t.Flush()
}

// oneSession wants the id of a session.
var oneSession = one("the id of a session, which `mirrord session ls` lists", "1f2e3d4c")

// oneSessionOrNone is for commands that can do without: there is one, or all are meant.
func oneSessionOrNone(cmd *cobra.Command, args []string) error {
	if len(args) < 2 {
		return nil
	}
	return oneSession(cmd, args)
}

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

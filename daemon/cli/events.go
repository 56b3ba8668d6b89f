package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

func eventsCommand() *cobra.Command {
	var output string
	var traffic bool
	cmd := &cobra.Command{
		Use:   "events [ID]",
		Short: "Tell what happens in a session, or in all",
		Long: `events tells what happens in session ID, or in all of them, first what is the
case: launchers that come and go, ports that are taken and given back, debuggees
that their debugger stops. It ends with the session, or when it is interrupted
or the daemon is stopped. Where the daemon is killed it waits a minute for the next.

With --traffic it also tells of the requests that come to its ports, of its
connections, of the target's files that are opened, and, of a Go program at a
breakpoint, which request it stands in.`,
		Example: "  mirrord session events\n  mirrord session events 1f2e3d4c --traffic\n  mirrord session events 1f2e3d4c -o json",
		Args: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is none of text, json", output)
			}
			return oneSessionOrNone(cmd, args)
		},
		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			n := narrator{}
			show := func(e ide.SessionEvent) {
				at := e.Time
				if t, err := time.Parse(time.RFC3339Nano, e.Time); err == nil {
					at = t.Local().Format("15:04:05.000")
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", at, e.Session, n.words(e))
			}
			if output == "json" {
				encode := json.NewEncoder(cmd.OutOrStdout())
				show = func(e ide.SessionEvent) { _ = encode.Encode(e) } // a reader that is gone ends us by SIGPIPE
			}
			c, err := dial(ctx)
			if err != nil {
				return err
			}
			p := ide.SessionEventsParams{Traffic: traffic}
			if len(args) > 0 {
				p.ID = args[0]
			}
			err = follow(ctx, cmd.ErrOrStderr(), c, p.ID, func(c *rpc.Client) error { return c.Events(ctx, p, show) })
			if err == nil && ctx.Err() == nil && p.ID == "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "mirrord: the daemon was stopped")
			}
			return err
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`format`: text, or json with one event a line")
	cmd.Flags().BoolVar(&traffic, "traffic", false, "also tell of requests, connections and opened files")
	mustComplete(cmd, "output", fixed("text", "json"), cobra.ShellCompDirectiveNoFileComp)
	return cmd
}

func restartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart ID",
		Short: "Read a session's configuration again",
		Long: `restart reads the configuration of session ID again, for the debuggees that are
started in it from now on. Its agent and its connections stay, and its ports as they
are; one that steals a single request steals one more.`,
		Example: "  mirrord session restart 1f2e3d4c",
		Args:    oneSession,

		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			me, err := client()
			if err != nil {
				return err
			}
			c, err := dialSessions(ctx, "restarting session "+args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.Restart(ctx, ide.SessionRestartParams{ID: args[0], Client: me})
			for _, warning := range s.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: warning: %s\n", indent(warning))
			}
			if err == nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "mirrord: the configuration was read again, for what is started in the session from now on")
			}
			return err
		}),
	}
}

func armCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "arm [ID]",
		Short: "Steal one more request, in a session that steals a single one",
		Long: `arm has session ID, or all sessions that steal a single request, steal one more:
the next one that the filter chooses, or without a filter the next connection.

Such a session has {"incoming": {"mode": "steal", "once": true}} in its
configuration, below feature.network; the first request it steals unasked.`,
		Example: "  mirrord session arm\n  mirrord session arm 1f2e3d4c",
		Args:    oneSessionOrNone,

		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			c, err := dialSessions(ctx, "arming")
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Arm(ctx, id)
		}),
	}
}

// wordsOf tells an event to a person.
func wordsOf(e ide.SessionEvent) string {
	how := "stolen"
	if e.Mirror {
		how = "mirrored"
	}
	switch e.Kind {
	case ide.EventStarted:
		return "the session runs: " + e.Message
	case ide.EventLaunched:
		return "a launcher has come"
	case ide.EventLeft:
		return "a launcher has gone"
	case ide.EventDebuggee:
		return fmt.Sprintf("process %d is debugged", e.PID)
	case ide.EventStopped:
		return fmt.Sprintf("process %d is stopped by its debugger", e.PID)
	case ide.EventContinued:
		return fmt.Sprintf("process %d goes on", e.PID)
	case ide.EventExited:
		return strings.TrimSuffix(fmt.Sprintf("process %d has ended: %s", e.PID, e.Message), ": ")
	case ide.EventTaken:
		if e.Message != "" {
			how += " by " + e.Message
		}
		return fmt.Sprintf("port %d is %s", e.Port, how)
	case ide.EventWaiting:
		return fmt.Sprintf("nobody listens at port %d: connections wait", e.Port)
	case ide.EventGivenBack:
		return fmt.Sprintf("port %d is the pod's again: %s", e.Port, e.Message)
	case ide.EventArmed:
		return "the next request is stolen"
	case ide.EventCaught:
		if e.Port == 0 {
			return "the one request was stolen"
		}
		return fmt.Sprintf("the one request was stolen, at port %d: others are the pod's", e.Port)
	case ide.EventConfigured:
		return "the configuration was read again"
	case ide.EventMoved:
		return "the target is " + e.Message + " from now on"
	case ide.EventMissed:
		return "some events are missing here"
	case ide.EventEnded:
		return "the session has ended: " + e.Message
	}
	return e.Message
}

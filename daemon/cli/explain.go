package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

// explained are what can be explained, each with an example.
var explained = []struct{ kind, what, example string }{
	{ide.ExplainPath, "a path", "/etc/shop/config.yaml"},
	{ide.ExplainConnect, "an address and port", "10.96.0.12:80"},
	{ide.ExplainName, "the name of a host", "inventory.shop"},
}

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Tell what would be the target's and what this machine's, and why",
		Long: `explain tells what a process that mirrord runs would get: the target's, or this
machine's; by which rule, and where that rule stands. Nothing is started, and the
cluster is asked only about a path whose target is named, by the configuration or by
--target: for where its volumes are mounted.`,
		Example: `  mirrord explain path /etc/shop/config.yaml
  mirrord explain path /srv/data -t deployment/web --fs-mode read
  mirrord explain connect udp://10.96.0.10:53 -f mirrord.json
  mirrord explain name inventory.shop -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, k := range explained {
		cmd.AddCommand(explainKindCommand(k.kind, k.what, k.example))
	}
	return cmd
}

func explainKindCommand(kind, what, example string) *cobra.Command {
	var e execution
	var output string
	long := "explain " + kind + " tells whose " + what + " is, by the flags that exec takes."
	directive := cobra.ShellCompDirectiveNoFileComp
	switch kind {
	case ide.ExplainPath:
		directive = cobra.ShellCompDirectiveDefault
	case ide.ExplainConnect:
		long += "\nudp:// before it asks about datagrams, and unix:PATH about a unix socket."
	}
	cmd := &cobra.Command{
		Use: kind + " " + strings.ToUpper(kind), Short: "Tell whose " + what + " is, and why", Long: long,
		Example: fmt.Sprintf("  mirrord explain %[1]s %[2]s\n  mirrord explain %[1]s %[2]s -f mirrord.json -t deployment/web -o json", kind, example),
		Args: func(cmd *cobra.Command, args []string) error {
			return cmp.Or(one(what, example)(cmd, args), checkOutput(output), e.check(cmd))
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, directive
		},
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			r, err := e.explain(ctx, kind, args[0])
			if bad, ok := errors.AsType[*ide.Error](err); ok && (bad.Code == ide.CodeParams || bad.Code == ide.CodeUsage && e.choice.judged()) {
				return &exit{code: exitUsage, err: err}
			}
			if err != nil {
				return err
			}
			for _, warning := range r.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: warning: %s\n", indent(warning))
			}
			if output == outputJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return printExplained(cmd.OutOrStdout(), r)
		}),
	}
	e.add(cmd)
	cmd.Flags().SetInterspersed(true)   // there is no command whose flags could be meant
	_ = cmd.Flags().MarkHidden("layer") // it explains the same
	addOutput(cmd, &output)
	return cmd
}

func (e *execution) explain(ctx context.Context, kind, subject string) (r ide.ConfigExplainResult, err error) {
	me, err := client()
	if err != nil {
		return r, err
	}
	c, err := dial(ctx)
	if err != nil {
		return r, err
	}
	defer c.Close()
	err = c.Call(ctx, ide.MethodConfigExplain, ide.ConfigExplainParams{
		Client: me, ConfigFile: e.choice.config, Overrides: e.choice.overrides, Session: e.session, Kind: kind, Subject: subject,
	}, &r)
	return r, err
}

func printExplained(w io.Writer, r ide.ConfigExplainResult) error {
	verdict := r.Verdict
	if r.Kind == ide.ExplainPath && verdict == "remote" {
		verdict += map[bool]string{false: ", read-only", true: ", read-write as far as its user may"}[r.Writable]
	}
	text := fmt.Sprintf("%s: %s\n  rule: %s\n", r.Subject, verdict, r.Rule)
	switch {
	case r.Setting == "":
		text += "  from: built in\n"
	case r.From == "":
		text += fmt.Sprintf("  from: the default of %s\n", r.Setting)
	default:
		text += fmt.Sprintf("  from: %s: %s\n", r.From, r.Setting)
	}
	if r.Path != "" {
		text += fmt.Sprintf("  path: %s, mapped by %s\n", r.Path, r.MappedBy)
	}
	for _, note := range r.Notes {
		text += fmt.Sprintf("  note: %s\n", note)
	}
	_, err := io.WriteString(w, text)
	return err
}

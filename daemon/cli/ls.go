package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

// listed are the kinds of targets that ls lists.
var listed = []string{"pod", "deployment", "rollout", "statefulset"}

func lsCommand() *cobra.Command {
	var c choice
	var output string
	var types []string
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the targets of a namespace",
		Example: `  mirrord ls
  mirrord ls -n shop -t deployment
  mirrord ls -o json | jq -r '.targets[].path'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := none(cmd, args); err != nil {
				return err
			}
			for _, kind := range types {
				if !slices.Contains(listed, kind) {
					return fmt.Errorf("--type: %q is none of %s", kind, strings.Join(listed, ", "))
				}
			}
			return checkOutput(output)
		},
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			r, err := c.targets(ctx)
			if err != nil {
				return err
			}
			r.Targets = ofTypes(r.Targets, types)
			if output == outputJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			if kinds := ofKinds(r.Hidden, types); len(kinds) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: %s of namespace %s are not shown: your user may not list them\n", strings.Join(kinds, " and "), r.Namespace)
			}
			if len(r.Targets) == 0 {
				what := "targets"
				if len(types) > 0 {
					what = strings.Join(types, " or ")
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: no %s in namespace %s; choose another with -n\n", what, r.Namespace)
				return nil
			}
			return printTargets(cmd.OutOrStdout(), r.Targets)
		}),
	}
	c.add(cmd)
	cmd.Flags().StringSliceVarP(&types, "type", "t", nil, "only these `types`: "+strings.Join(listed, ", "))
	addOutput(cmd, &output)
	mustComplete(cmd, "type", fixed(listed...), cobra.ShellCompDirectiveNoFileComp)
	return cmd
}

// outputs are the ways to print a list.
var outputs = []string{"table", outputJSON}

const outputJSON = "json"

func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", outputs[0], "`format`: table or json")
	mustComplete(cmd, "output", fixed(outputs...), cobra.ShellCompDirectiveNoFileComp)
}

func checkOutput(output string) error {
	if !slices.Contains(outputs, output) {
		return fmt.Errorf("--output: %q is none of %s", output, strings.Join(outputs, ", "))
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func ofTypes(targets []ide.Target, types []string) []ide.Target {
	list := []ide.Target{} // an array in JSON
	for _, t := range targets {
		kind, _, _ := strings.Cut(t.Path, "/")
		if len(types) == 0 || slices.Contains(types, kind) {
			list = append(list, t)
		}
	}
	return list
}

// ofKinds leaves those of the kinds, told in the plural, that are asked for.
func ofKinds(kinds, types []string) []string {
	return slices.DeleteFunc(kinds, func(kind string) bool {
		return len(types) > 0 && !slices.Contains(types, strings.TrimSuffix(kind, "s"))
	})
}

func printTargets(w io.Writer, targets []ide.Target) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TARGET\tCONTAINERS\tSTATUS")
	for _, target := range targets {
		status := "available"
		if !target.Available {
			status = cmp.Or(target.Reason, "not available")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", target.Path, strings.Join(target.Containers, ","), status)
	}
	return t.Flush()
}

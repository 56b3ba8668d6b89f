package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "verify-config FILE",
		Short:   "Tell what is wrong with a configuration file",
		Long:    "verify-config lists errors and warnings, one a line. Its exit code is 1 where there is an error.",
		Example: "  mirrord verify-config .mirrord/mirrord.json",
		Args:    one("a file", ".mirrord/mirrord.json"),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			me, err := client()
			if err != nil {
				return err
			}
			c, err := dial(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			var r ide.ConfigVerifyResult
			if err := c.Call(ctx, ide.MethodConfigVerify, ide.ConfigVerifyParams{Client: me, ConfigFile: args[0]}, &r); err != nil {
				return err
			}
			bad := false
			for _, p := range r.Problems {
				kind := "error"
				if p.Warning {
					kind = "warning"
				}
				bad = bad || !p.Warning
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", kind, p)
			}
			if bad {
				return &exit{code: 1}
			}
			return nil
		}),
	}
}

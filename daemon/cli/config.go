package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Begin a configuration file",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "default",
		Short:   "Print a configuration file to begin with",
		Example: "  mkdir -p .mirrord && mirrord config default > .mirrord/mirrord.yaml",
		Args:    none,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			c, err := dial(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			var r ide.ConfigDefaultResult
			if err := c.Call(ctx, ide.MethodConfigDefault, ide.Empty{}, &r); err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), r.Text)
			return err
		}),
	})
	return cmd
}

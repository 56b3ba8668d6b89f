package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the build and the versions of its protocols", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "mirrord %s\nprotocol %d, ide %d\n%s %s/%s\n",
				protocol.Build, protocol.Version, ide.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

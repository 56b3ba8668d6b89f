// Command web is the sample shop's front as a program of its own: what a
// developer builds, changes and runs in the place of the deployed one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"mirrord/testdata/apps/shop/front"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := front.Run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

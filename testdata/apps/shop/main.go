// Command shop is the sample application in one binary, for its image:
//
//	client ──▶ web ──▶ inventory (2 copies)
//
// web shows in each answer what a pod gives a program: environment, a mounted
// ConfigMap and Secret, names, addresses. shop.yaml deploys it.
//
//	shop web        the shop's front; also a program of its own, in web/
//	shop inventory  what it sells
//	shop get URL…   a client to run in a pod
//	shop sleep      keeps a pod open for such clients
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"mirrord/testdata/apps/shop/front"
	"mirrord/testdata/apps/shop/get"
	"mirrord/testdata/apps/shop/inventory"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command: there are web, inventory, get and sleep")
	}
	switch args[0] {
	case "web":
		return front.Run(ctx, args[1:])
	case "inventory":
		return inventory.Run(ctx)
	case "get":
		return get.Run(ctx, args[1:], os.Stdout)
	case "sleep":
		<-ctx.Done()
		return nil
	default:
		return fmt.Errorf("%q is no command: there are web, inventory, get and sleep", args[0])
	}
}

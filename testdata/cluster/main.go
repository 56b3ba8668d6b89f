// Command cluster runs a real single-node Kubernetes in namespaces of its own,
// for tests and demonstrations:
//
//	cluster up                  start it; building it first takes minutes, once
//	cluster load IMAGE.tar...   import images
//	cluster status [-o json]
//	cluster restart COMPONENT   kill one, such as kubelet, and wait until it is back
//	cluster down [--purge]      end it; --purge also deletes its directory
//
// Everything of a cluster lies in one directory, .cluster of the checkout, and
// under one process, the node's pid 1. Package node says how it runs, package
// provision what it is built from. It needs root; nothing of the host changes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"mirrord/testdata/cluster/node"
	"mirrord/testdata/cluster/provision"
)

const usage = `usage: cluster [--dir DIR] COMMAND

  up                  start the cluster; building it first takes minutes, once
  load IMAGE.tar...   import images into it
  restart COMPONENT   kill one (kubelet, kube-apiserver, …) and wait until it is back
  status [-o json]    say whether it runs; the exit code is 1 if not
  down [--purge]      end it; --purge also deletes its directory
`

func main() {
	beNode(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case errors.Is(err, errNotRunning):
		os.Exit(1) // status has said so
	case err != nil:
		fatal(err)
	}
}

// beNode does not return if package node started this process as a node's pid 1.
func beNode(args []string) {
	if len(args) != 3 {
		return
	}
	switch args[1] {
	case node.InitCommand:
		fatal(node.Init(args[2]))
	case node.ServeCommand:
		fatal(node.Serve(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "cluster:", err)
	os.Exit(1)
}

var errUsage = errors.New("usage")

// run does one command; progress goes to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	global := flag.NewFlagSet("cluster", flag.ContinueOnError)
	global.SetOutput(io.Discard)
	dir := global.String("dir", "", "")
	if err := global.Parse(args); err != nil || global.NArg() == 0 {
		return errUsage
	}
	command := flag.NewFlagSet(global.Arg(0), flag.ContinueOnError)
	command.SetOutput(io.Discard)
	command.StringVar(dir, "dir", *dir, "")
	purge := command.Bool("purge", false, "")
	output := command.String("o", "", "")
	if err := command.Parse(global.Args()[1:]); err != nil {
		return errUsage
	}
	c, err := open(*dir, stderr)
	if err != nil {
		return err
	}
	rest := command.Args()
	switch name := command.Name(); {
	case name == "up" && len(rest) == 0:
		return c.up(ctx)
	case name == "down" && len(rest) == 0:
		return c.down(ctx, *purge)
	case name == "load" && len(rest) > 0:
		return c.load(ctx, rest)
	case name == "restart" && len(rest) == 1:
		return c.restart(ctx, rest[0])
	case name == "status" && len(rest) == 0:
		return c.status(ctx, stdout, *output)
	default:
		return errUsage
	}
}

// open finds the checkout from the current directory up; dir "" is its .cluster.
func open(dir string, stderr io.Writer) (*cluster, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the current directory: %w", err)
	}
	for ; !isCheckout(root); root = filepath.Dir(root) {
		if root == filepath.Dir(root) {
			return nil, errors.New("finding the checkout: the current directory is not in one")
		}
	}
	if dir == "" {
		dir = filepath.Join(root, ".cluster")
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", dir, err)
	}
	return &cluster{dir: dir, source: provision.Source{Root: root}, stderr: stderr}, nil
}

func isCheckout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "testdata", "cluster", "kube", "main.go"))
	return err == nil
}

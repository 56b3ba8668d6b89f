// Command mirrord is what users run: the command line, the launcher and its
// keeper. The daemon, which the first command starts, is mirrord-full (package
// daemon), a program of its own beside this one: speaking Kubernetes and FUSE
// takes milliseconds of initialising before main, of every start.
package main

import (
	"os"

	"mirrord/daemon/cli"
	_ "mirrord/daemon/early" // does not return in a launcher's keeper
)

func main() { os.Exit(cli.Main(os.Args, nil)) }

// Command mirrord is what users run: the command line, the launcher and its
// keeper. The daemon, which the first command starts, is mirrord-full (package
// daemon), a program of its own beside this one: speaking Kubernetes and FUSE
// takes milliseconds of initialising before main, of every start.
//
// How much of the machine a control group leaves it does not look up: it and its
// keeper do little at one time, and reading all mounts is time of every start, too.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"mirrord/daemon/cli"
	_ "mirrord/daemon/early" // does not return in a launcher's keeper
)

func main() { os.Exit(cli.Main(os.Args, nil)) }

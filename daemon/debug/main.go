// Command mirrord-dlv is Delve: the command tree of its dlv, which mirrord
// starts inside the layer where it is called as dlv. An IDE that is told to use
// that as its dlv gets a debugger in the context of a session, by the command
// lines that it knows how to write:
//
//	dlv, called by the IDE: mirrord dlv, a launcher
//	  └─ keeper
//	       └─ mirrord-dlv, called dlv: Delve, which is not served
//	            ├─ go build, which is not served either
//	            └─ the debuggee
//
// It is a program of its own, which no start of another debuggee has to initialise.
package main

import (
	"os"

	"github.com/go-delve/delve/cmd/dlv/cmds"
	"github.com/go-delve/delve/pkg/logflags"

	"mirrord/daemon/debug/endpoint"
	"mirrord/layer/keeper"
)

func main() {
	// As Delve's own main does: else the variables of C code are optimised away.
	const cgoFlags = "CGO_CFLAGS"
	if os.Getenv(cgoFlags) == "" {
		os.Setenv(cgoFlags, "-O0 -g")
	} else {
		logflags.WriteCgoFlagsWarning()
	}
	serving := inSession()
	if os.Getenv(keeper.NestedEnv) != "" && endpoint.Is(os.Args[1:]) {
		os.Exit(endpoint.Main(os.Args[1:], serving, serveDAP))
	}
	root := cmds.New(false)
	if serving != nil {
		tapDAP(root, serving)
	}
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}

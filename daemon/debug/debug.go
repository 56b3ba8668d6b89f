// Package debug is Delve: this executable, called as dlv, is Delve's own command
// tree. An IDE that is told to use it as its dlv gets a debugger in the context
// of a session, by the command lines that it knows how to write:
//
//	dlv, called by the IDE: mirrord dlv, a launcher
//	  └─ keeper
//	       └─ dlv: Delve, which is not served
//	            ├─ go build, which is not served either
//	            └─ the debuggee
package debug

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/go-delve/delve/cmd/dlv/cmds"
	"github.com/go-delve/delve/pkg/logflags"

	"mirrord/daemon/debug/endpoint"
	"mirrord/layer/keeper"
)

// Name is Delve's, also as argv[0] of this executable.
const Name = "dlv"

// contexts are the variables that ask for a session by themselves: a dlv that
// finds none of them is Delve and no more.
var contexts = []string{"MIRRORD_SESSION", "MIRRORD_IMPERSONATED_TARGET", "MIRRORD_CONFIG_FILE"}

// starters are the commands of Delve that start a debuggee.
var starters = []string{"dap", "debug", "exec", "test", "trace"}

// Is tells whether a command is Delve, ours or another.
func Is(command string) bool { return filepath.Base(command) == Name }

// Serve is to be called first in main: where this executable is called as dlv,
// and is in its session already or is to be in none, it is Delve and does not return.
func Serve() {
	if !Is(os.Args[0]) || os.Getenv(keeper.NestedEnv) == "" && Wanted() && Starts(os.Args[1:]) {
		return
	}
	// As Delve's own main does: else the variables of C code are optimised away.
	const cgoFlags = "CGO_CFLAGS"
	if os.Getenv(cgoFlags) == "" {
		os.Setenv(cgoFlags, "-O0 -g")
	} else {
		logflags.WriteCgoFlagsWarning()
	}
	if nested := os.Getenv(keeper.NestedEnv) != ""; nested && endpoint.Is(os.Args[1:]) {
		os.Exit(endpoint.Main(os.Args[1:], serveDAP))
	}
	if err := cmds.New(false).Execute(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Wanted tells whether the environment asks for a session.
func Wanted() bool {
	return slices.ContainsFunc(contexts, func(name string) bool { return os.Getenv(name) != "" })
}

// Command returns the command of Delve that a command line means, "" for none.
func Command(args []string) string {
	root := cmds.New(true)
	cmd, _, err := root.Find(args)
	if err != nil || cmd == root {
		return ""
	}
	return cmd.Name()
}

// Starts tells whether a command line starts a debuggee, or attaches to one.
func Starts(args []string) bool {
	name := Command(args)
	return endpoint.Is(args) || name == "attach" || slices.Contains(starters, name)
}

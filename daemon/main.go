// Command mirrord runs debuggees in the context of Kubernetes pods: the
// command line, the daemon and all of its kind in one binary.
package main

import (
	"log/slog"
	"os"

	"mirrord/daemon/cli"
	"mirrord/daemon/debug"
	_ "mirrord/daemon/early" // does not return in a launcher's keeper
	"mirrord/daemon/files"
	"mirrord/daemon/rpc"
	"mirrord/daemon/session"
)

func main() {
	files.Serve() // does not return in a daemon's file server
	debug.Serve() // does not return in a debugger
	os.Exit(cli.Main(os.Args, manager))
}

func manager(log *slog.Logger, dir string) (rpc.Manager, error) {
	m, err := session.NewManager(log, dir)
	if err != nil {
		return nil, err // a nil *Manager is a Manager that is not nil
	}
	return m, nil
}

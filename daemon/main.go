// Command mirrord-full is all of mirrord in one program: the command line, the
// daemon and its file server. It is what mirrord (package daemon/mirrord) goes on
// as where it is to be the daemon.
package main

import (
	"log/slog"
	"os"

	"mirrord/daemon/cli"
	_ "mirrord/daemon/early" // does not return in a launcher's keeper
	"mirrord/daemon/files"
	"mirrord/daemon/files/browse"
	"mirrord/daemon/rpc"
	"mirrord/daemon/session"
	"mirrord/layer"
)

func main() {
	files.Serve()  // does not return in a daemon's file server
	browse.Serve() // nor this in the process beside a mount
	os.Exit(cli.Main(os.Args, &cli.Full{Manager: manager, Show: show, Sweep: browse.Sweep}))
}

func show(t *layer.Tree, dir string, writable bool) (undo func() error, err error) {
	m, err := browse.Start(t, dir, writable)
	if err != nil {
		return nil, err
	}
	return m.End, nil
}

func manager(log *slog.Logger, dir string) (rpc.Manager, error) {
	m, err := session.NewManager(log, dir)
	if err != nil {
		return nil, err // a nil *Manager is a Manager that is not nil
	}
	return m, nil
}

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ServeCommand is the first argument of pid 1's second half.
const ServeCommand = "serve"

// Init is pid 1's first half: it waits to be put into its control groups,
// makes them the root of what it can see, and becomes the second half. That
// takes an exec, since the namespace changes for one thread only.
func Init(state string) error {
	runtime.LockOSThread()
	b := make([]byte, 1)
	if n, err := unix.Read(controlFD, b); n != 1 || err != nil {
		return fmt.Errorf("waiting to go on: whoever started the node is gone (%d, %v)", n, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a control group namespace: %w", err)
	}
	argv := []string{os.Args[0], ServeCommand, state}
	return fmt.Errorf("running pid 1 again: %w", unix.Exec("/proc/self/exe", argv, os.Environ()))
}

// Serve is pid 1's second half. It returns only if the node cannot start;
// a node that runs is ended by SIGKILL.
//
// Goroutines: the reaper of children, one for each component (supervise), and
// those of the forwarder. All end with the process.
func Serve(log *slog.Logger) error {
	unix.CloseOnExec(listenerFD)
	unix.CloseOnExec(controlFD)
	control := os.NewFile(controlFD, "control")
	inherited := os.NewFile(listenerFD, "listener")
	listener, err := net.FileListener(inherited)
	inherited.Close()
	if err != nil {
		return fmt.Errorf("taking over the listener: %w", err)
	}
	var cfg Config
	if err := json.NewDecoder(control).Decode(&cfg); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}

	events := json.NewEncoder(control)
	tell := func(e event) { _ = events.Encode(e) } // who started us may be gone: no matter
	n := &node{
		log:   log,
		procs: newProcesses(log),
		step:  func(s string) { log.Info(s); tell(event{Step: s}) },
	}
	if err := n.start(context.Background(), cfg, listener); err != nil {
		tell(event{Error: err.Error()})
		return err
	}
	log.Info("ready")
	tell(event{Ready: true})
	control.Close()
	select {}
}

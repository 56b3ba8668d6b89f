package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-delve/delve/pkg/config"
	"github.com/go-delve/delve/pkg/logflags"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/dap"
	"github.com/go-delve/delve/service/debugger"
	"github.com/spf13/cobra"

	"mirrord/daemon/debug/endpoint"
)

// stopTime is what Delve has to end the debuggee when it is told to; then the
// keeper does.
const stopTime = 5 * time.Second

func newConfig(gone chan struct{}) *service.Config {
	c := &service.Config{DisconnectChan: gone, Debugger: debugger.Config{Backend: "default", Foreground: true, CheckGoVersion: true}}
	if user, err := config.LoadConfig(); err == nil { // as dlv does, with the defaults otherwise
		c.Debugger.DebugInfoDirectories = user.DebugInfoDirectories
	}
	return c
}

// serveDAP is dlv dap for a client that is there.
func serveDAP(client net.Conn, over <-chan struct{}) {
	gone := make(chan struct{})
	server := dap.NewServer(newConfig(gone))
	server.RunWithClient(client)
	select {
	case <-gone:
	case <-over:
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.Stop()
	}()
	select {
	case <-stopped:
		return
	case <-over:
	}
	select {
	case <-stopped:
	case <-time.After(stopTime):
	}
}

// tapDAP makes dlv dap, of Delve's command tree, one whose client is told which
// requests are served.
func tapDAP(root *cobra.Command, serving endpoint.Serving) {
	command, _, err := root.Find([]string{"dap"})
	if err != nil {
		return
	}
	command.Run = func(cmd *cobra.Command, _ []string) { os.Exit(runDAP(cmd, serving)) }
}

func runDAP(cmd *cobra.Command, serving endpoint.Serving) int {
	text := func(name string) string { return cmd.Flag(name).Value.String() }
	yes := func(name string) bool { return text(name) == "true" }
	if err := logflags.Setup(yes("log"), text("log-output"), text("log-dest")); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 1
	}
	defer logflags.Close()
	gone := make(chan struct{})
	c := newConfig(gone)
	c.Debugger.CheckGoVersion, c.Debugger.DisableASLR = yes("check-go-version"), yes("disable-aslr")
	c.CheckLocalConnUser = yes("only-same-user")
	var client net.Conn
	if addr := text("client-addr"); addr == "" {
		l, err := net.Listen(network(text("listen")))
		if err != nil {
			fmt.Printf("couldn't start listener: %s\n", err)
			return 1
		}
		c.Listener = endpoint.Tapped(l, serving)
	} else {
		kind, path := network(addr) // go vet reads no call in a call here
		nc, err := net.Dial(kind, path)
		if err != nil {
			fmt.Fprintf(os.Stderr, "couldn't connect to the client: %s\n", err)
			return 1
		}
		client = endpoint.Tap(nc, serving)
	}
	server := dap.NewServer(c)
	defer server.Stop()
	if client == nil {
		server.Run()
	} else {
		server.RunWithClient(client)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-signals:
	case <-gone:
	}
	return 0
}

// network splits an address as Delve writes it.
func network(addr string) (string, string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", path
	}
	return "tcp", addr
}

package main

import (
	"net"
	"time"

	"github.com/go-delve/delve/pkg/config"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/dap"
	"github.com/go-delve/delve/service/debugger"
)

// stopTime is what Delve has to end the debuggee when it is told to; then the
// keeper does.
const stopTime = 5 * time.Second

// serveDAP is dlv dap for a client that is there.
func serveDAP(client net.Conn, over <-chan struct{}) {
	gone := make(chan struct{})
	c := &service.Config{DisconnectChan: gone, Debugger: debugger.Config{Backend: "default", Foreground: true, CheckGoVersion: true}}
	if user, err := config.LoadConfig(); err == nil { // as dlv does, with the defaults otherwise
		c.Debugger.DebugInfoDirectories = user.DebugInfoDirectories
	}
	server := dap.NewServer(c)
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

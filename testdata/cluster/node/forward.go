package node

import (
	"io"
	"log/slog"
	"net"
)

// forward carries every connection of l, a listener of the host's network, to
// the API server in the node's. It ends with the process.
func forward(log *slog.Logger, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Error("accepting on the host's port", "err", err)
			return
		}
		go func() {
			defer c.Close()
			server, err := net.Dial("tcp", apiServer)
			if err != nil {
				return // the client sees the connection end, and kubectl says so
			}
			defer server.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				pump(server, c)
			}()
			pump(c, server)
			<-done
		}()
	}
}

func pump(to, from net.Conn) {
	_, _ = io.Copy(to, from) // either end may break off
	to.(*net.TCPConn).CloseWrite()
}

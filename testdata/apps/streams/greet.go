package main

import (
	"fmt"
	"io"
	"net"
)

// greet speaks first on each connection, as a server of mail does: it says its name and
// whom it hears, then gives back what comes.
func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "220 %s hears %s\r\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
			_, _ = io.Copy(c, c)
		}()
	}
}

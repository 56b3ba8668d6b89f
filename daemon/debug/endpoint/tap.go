package endpoint

import (
	"bufio"
	"net"
)

// Tap returns the connection of a client of Delve's own, as Delve is to see it:
// the client is told which requests are served where it stops.
func Tap(client net.Conn, serving Serving) net.Conn {
	return newFilter(client, bufio.NewReader(client), true, serving)
}

// Tapped is l, with each client's connection tapped.
func Tapped(l net.Listener, serving Serving) net.Listener { return tapped{l, serving} }

type tapped struct {
	net.Listener
	serving Serving
}

func (t tapped) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Tap(c, t.serving), nil
}

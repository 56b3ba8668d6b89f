package socket

import (
	"net"
	"sync/atomic"
)

// A TLS is a connection in TLS that ends as one in TCP does: each side its own
// direction, and where it is to be reset, without a word. It hides the connection
// below, whose bytes are not its own.
type TLS struct {
	net.Conn
	end   func() error // of our direction, in TLS
	below ender
	hard  atomic.Bool // Close resets
}

// An ender is what is needed of a connection below TLS.
type ender interface {
	net.Conn
	CloseWrite() error
}

// NewTLS makes a TLS of c, a *tls.Conn over below. (Package crypto/tls takes its time
// to initialise, of launchers, too.)
func NewTLS(c ender, below ender) *TLS {
	return &TLS{Conn: c, end: c.CloseWrite, below: below}
}

func (t *TLS) CloseWrite() error {
	if err := t.end(); err != nil {
		return err
	}
	return t.below.CloseWrite()
}

// SetLinger is TCP's: 0 has Close reset the connection.
func (t *TLS) SetLinger(sec int) error {
	t.hard.Store(sec == 0)
	return SetLinger(t.below, sec)
}

func (t *TLS) Close() error {
	if t.hard.Load() {
		return t.below.Close()
	}
	return t.Conn.Close()
}

// SetLinger is that of a connection that has it, as TCP's does.
func SetLinger(c net.Conn, sec int) error {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

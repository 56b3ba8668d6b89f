package linktest

import (
	"context"
	"net"
	"sync"
)

// Pipes is a listener and its network in memory, for tests in fake time.
type Pipes struct {
	accept chan net.Conn
	closed chan struct{}
	close  func()
}

// NewPipes makes one that listens.
func NewPipes() *Pipes {
	closed := make(chan struct{})
	return &Pipes{make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

// Dial connects to the listener.
func (p *Pipes) Dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.accept <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *Pipes) Close() error {
	p.close()
	return nil
}

func (p *Pipes) Addr() net.Addr { return &net.UnixAddr{Net: "pipe"} }

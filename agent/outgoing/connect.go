// Package outgoing makes connections from the target's network namespace, in
// which the whole agent lives.
package outgoing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"mirrord/protocol"
	"mirrord/protocol/socket"
)

// Connect dials q.Addr over TCP and relays the connection through the stream.
// How long that may take is the kernel's business, as for any process of the
// pod; a client that ends the stream ends the attempt.
func Connect(ctx context.Context, stream net.Conn, q protocol.Connect) error {
	conn, ahead, err := dial(ctx, stream, q)
	if err != nil {
		return protocol.WriteError(stream, "connect", err)
	}
	// Where only the other side is still sending, nobody waits on the stream.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reply := protocol.ConnectReply{Local: conn.Local()}
	if err := protocol.WriteMessage(stream, protocol.KindConnect, reply, nil); err != nil {
		conn.Close()
		return err
	}
	_ = conn.KeepAlive() // now that nobody waits for it
	return protocol.Relay(conn, ahead)
}

// soon is how long a connect may take before its stream is watched: in most
// networks it takes less.
const soon = 20 * time.Millisecond

// dial connects, and if that takes long, watches the stream for its end
// meanwhile. The stream that it returns still has the byte that the watching may
// have read.
func dial(ctx context.Context, stream net.Conn, q protocol.Connect) (*socket.TCP, net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan []byte, 1)
	watch := time.AfterFunc(soon, func() {
		first := make([]byte, 1)
		n, err := stream.Read(first)
		if err != nil && !isTimeout(err) {
			cancel()
		}
		watched <- first[:n]
	})
	c, err := open(ctx, netip.AddrPortFrom(q.Addr.Addr().Unmap(), q.Addr.Port()))
	var first []byte
	if !watch.Stop() {
		_ = stream.SetReadDeadline(time.Unix(1, 0))
		first = <-watched
		_ = stream.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, err
	}
	return c, &prefixed{Conn: stream, first: first}, nil
}

func open(ctx context.Context, to netip.AddrPort) (*socket.TCP, error) {
	fd, err := socket.Open(to)
	if err != nil {
		return nil, err
	}
	c, err := socket.Connect(ctx, fd, netip.AddrPort{}, to, 0)
	if err != nil {
		return nil, fmt.Errorf("connecting to %v: %w", to, err)
	}
	return c.CloseLate(), nil
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// A prefixed stream has had its first bytes read already.
type prefixed struct {
	net.Conn
	first []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.first)
	p.first = p.first[n:]
	return n, nil
}

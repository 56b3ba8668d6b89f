// Package forward is the loopback side of remote connections: the endpoints
// that debuggees' outgoing sockets are connected to, and the delivery of
// incoming connections to debuggees' listeners.
//
//	debuggee's socket ── endpoint (127.0.0.1 or ::1) ── stream ═▶ agent
//	agent ═▶ stream ── connection from a known source ──▶ debuggee's listener
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/socket"
)

// pairing bounds how long a stream waits for its debuggee's socket to connect.
const pairing = 30 * time.Second

// acceptPause is the wait after accept(2) failed: the descriptors or memory it
// lacked come back when others end.
const acceptPause = 50 * time.Millisecond

// Dial opens a connection to addr from the target; see protocol.Relay for the stream.
type Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, protocol.ConnectReply, error)

// An Endpoint is where a debuggee's socket has to connect to.
type Endpoint struct {
	Addr    netip.AddrPort
	Local   netip.AddrPort // the connection's own address in the target
	Pending bool           // the target's answer is still to come; Local is not known
}

// Outgoing holds a session's endpoints for TCP. A connection to one is paired
// with its stream by the full source address; what does not pair is closed.
//
// Goroutines: one accepts at each endpoint, one relays each connection, one
// dials for each that does not wait; Close waits for all.
type Outgoing struct {
	log    *slog.Logger
	dial   Dial
	v4, v6 *socket.Listener // v6: nil where the machine has none
	ctx    context.Context  // until Close
	cancel context.CancelFunc
	team   *crew.Crew

	mu      sync.Mutex
	closed  bool                         // guarded by mu
	pending int                          // guarded by mu; endpoints of their own
	waits   map[netip.AddrPort]*waiting  // guarded by mu, by source
	live    map[protocol.Ending]net.Conn // guarded by mu, connection to stream
}

type waiting struct {
	stream net.Conn
	timer  *time.Timer
	watch  Watch
}

// NewOutgoing opens the endpoints.
func NewOutgoing(log *slog.Logger, dial Dial) (*Outgoing, error) {
	o := &Outgoing{log: log, dial: dial, waits: map[netip.AddrPort]*waiting{}, live: map[protocol.Ending]net.Conn{}, team: crew.New()}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	var err error
	if o.v4, err = socket.Listen(netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		return nil, fmt.Errorf("opening endpoint: %w", err)
	}
	if o.v6, err = socket.Listen(netip.MustParseAddrPort("[::1]:0")); err != nil {
		log.Debug("no IPv6 endpoint", "err", err)
	}
	for _, l := range []*socket.Listener{o.v4, o.v6} {
		if l != nil {
			o.team.Go(func() { o.accept(l) })
		}
	}
	return o, nil
}

var errNoIPv6 = errors.New("this machine has no IPv6 loopback")

// Connect dials dst for the debuggee's socket with the given loopback source.
// w, unless it is nil, watches the connection.
func (o *Outgoing) Connect(ctx context.Context, dst, source netip.AddrPort, w Watch) (Endpoint, error) {
	w = watching(w)
	stream, reply, err := o.dial(ctx, dst)
	w.Answered(err)
	if err != nil {
		return Endpoint{}, err
	}
	addr, err := o.expect(unmap(source), stream, w)
	return Endpoint{Addr: addr, Local: reply.Local}, err
}

// expect pairs stream with the connection that source will make, and returns
// the endpoint it has to be made to. The stream is Outgoing's from here on.
func (o *Outgoing) expect(source netip.AddrPort, stream net.Conn, watch Watch) (addr netip.AddrPort, err error) {
	defer func() {
		if err != nil {
			stream.Close()
			watch.Ended(err)
		}
	}()
	l := o.v4
	if source.Addr().Is6() {
		l = o.v6
	}
	if l == nil {
		return netip.AddrPort{}, errNoIPv6
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return netip.AddrPort{}, net.ErrClosed
	}
	if old := o.waits[source]; old != nil {
		old.end()
	}
	o.waits[source] = &waiting{stream, time.AfterFunc(pairing, func() { o.forget(source, stream) }), watch}
	return l.Addr(), nil
}

func (o *Outgoing) forget(source netip.AddrPort, stream net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.waits[source]; w != nil && w.stream == stream {
		delete(o.waits, source)
		w.end()
	}
}

// end ends what nobody has come for.
func (w *waiting) end() {
	w.timer.Stop()
	w.stream.Close()
	w.watch.Ended(nil)
}

func (o *Outgoing) accept(l *socket.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			o.log.Warn("accepting at endpoint", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		w := o.pair(c)
		if w == nil {
			_ = c.SetLinger(-1)
			c.Close()
			continue
		}
		o.team.Go(func() { o.relay(c, w.stream, w.watch) })
	}
}

// pair finds what waits for a connection that came to an endpoint.
func (o *Outgoing) pair(c *socket.TCP) *waiting {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.waits[c.Remote()]
	if w == nil || o.closed {
		return nil
	}
	w.timer.Stop()
	delete(o.waits, c.Remote())
	o.live[c] = w.stream
	return w
}

// relay has a connection that is doomed.
func (o *Outgoing) relay(c protocol.Ending, stream net.Conn, w Watch) {
	err := protocol.RelayBy(o.team, c, stream, w)
	w.Ended(err)
	o.log.Debug("outgoing connection ended", "err", err)
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.live, c)
}

// Close resets what is open and waits for it.
func (o *Outgoing) Close() {
	o.v4.Close()
	if o.v6 != nil {
		o.v6.Close()
	}
	o.mu.Lock()
	o.closed = true
	o.cancel()
	for _, w := range o.waits {
		w.end()
	}
	clear(o.waits)
	for c, stream := range o.live {
		reset(c)
		stream.SetDeadline(time.Unix(1, 0))
	}
	o.mu.Unlock()
	o.team.Wait()
}

// doom makes a connection end by ECONNRESET if its end is not an orderly one,
// such as this process being killed: protocol.Relay sees to the others.
func doom(c protocol.Ending) { _ = c.SetLinger(0) }

// reset ends a connection so that its other side sees ECONNRESET.
func reset(c protocol.Ending) {
	doom(c)
	c.Close()
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

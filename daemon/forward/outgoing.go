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
	"mirrord/protocol/socket"
)

const (
	// pairing bounds how long a stream waits for its debuggee's socket to connect.
	pairing = 30 * time.Second

	// early is how long a socket that connects ahead may be before its question.
	early = time.Second

	// maxEarly is more such sockets than there are questions on their way; each costs a
	// descriptor, and anybody may connect.
	maxEarly = 1024
)

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
// with its stream by the full source address; what does not pair is closed, at the
// latest after a second.
//
// Goroutines: one accepts at each endpoint, one relays each connection, one
// dials for each that does not wait; Close waits for all.
type Outgoing struct {
	log    *slog.Logger
	dial   Dial
	v4, v6 *socket.Listener // v6: nil where the machine has none
	ctx    context.Context  // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool                         // guarded by mu
	pending int                          // guarded by mu; endpoints of their own
	early   int                          // guarded by mu; of waits
	waits   map[netip.AddrPort]*waiting  // guarded by mu, by source
	live    map[protocol.Ending]net.Conn // guarded by mu, connection to stream
}

// A waiting one lacks its stream, the debuggee's socket or, announced, both.
type waiting struct {
	conn   *socket.TCP // nil: it has not come
	early  bool        // conn is not announced
	stream net.Conn    // nil: the target has not answered
	watch  Watch       // of stream
	timer  *time.Timer // nil: it is announced, and whoever did that ends it
}

// NewOutgoing opens the endpoints.
func NewOutgoing(log *slog.Logger, dial Dial) (*Outgoing, error) {
	o := &Outgoing{log: log, dial: dial, waits: map[netip.AddrPort]*waiting{}, live: map[protocol.Ending]net.Conn{}}
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
			o.wg.Go(func() { o.accept(l) })
		}
	}
	return o, nil
}

var errNoIPv6 = errors.New("this machine has no IPv6 loopback")

// Connect dials dst for the debuggee's socket with the given loopback source.
// ahead: that connects to the endpoint already. w, unless it is nil, watches the
// connection.
func (o *Outgoing) Connect(ctx context.Context, dst, source netip.AddrPort, ahead bool, w Watch) (e Endpoint, err error) {
	source, w = unmap(source), watching(w)
	var announced *waiting
	if ahead {
		announced = o.announce(source)
		defer func() {
			if err != nil {
				o.forget(source, announced)
			}
		}()
	}
	stream, reply, err := o.dial(ctx, dst)
	w.Answered(err)
	if err != nil {
		return e, err
	}
	e.Local = reply.Local
	e.Addr, err = o.expect(source, announced, stream, w)
	return e, err
}

// announce has a connection that source makes, or has made just now, wait for its
// stream; nil: Outgoing is closed.
func (o *Outgoing) announce(source netip.AddrPort) *waiting {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	w := &waiting{}
	if old := o.waits[source]; old != nil && old.early && !closed(old.conn) {
		w.conn, old.conn = old.conn, nil
	}
	o.put(source, w)
	return w
}

// put has w wait, and nobody else from source. Caller holds o.mu.
func (o *Outgoing) put(source netip.AddrPort, w *waiting) {
	o.end(source)
	o.waits[source] = w
}

// expect pairs stream with the connection that source will make, or has made after it
// was announced, and returns the endpoint it has to be made to. The stream is
// Outgoing's from here on.
func (o *Outgoing) expect(source netip.AddrPort, announced *waiting, stream net.Conn, watch Watch) (addr netip.AddrPort, err error) {
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
	if announced != nil && announced.conn != nil && o.waits[source] == announced {
		c := announced.conn
		delete(o.waits, source)
		o.live[c] = stream
		o.wg.Go(func() { o.relay(c, stream, watch) })
		return l.Addr(), nil
	}
	w := &waiting{stream: stream, watch: watch}
	w.timer = time.AfterFunc(pairing, func() { o.forget(source, w) })
	o.put(source, w)
	return l.Addr(), nil
}

// forget ends w, if it still waits.
func (o *Outgoing) forget(source netip.AddrPort, w *waiting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w != nil && o.waits[source] == w {
		o.end(source)
	}
}

// end ends what waits from source, for which nobody has come. Caller holds o.mu.
func (o *Outgoing) end(source netip.AddrPort) {
	w := o.waits[source]
	if w == nil {
		return
	}
	delete(o.waits, source)
	if w.early {
		o.early--
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.stream != nil {
		w.stream.Close()
		w.watch.Ended(nil)
	}
	dismiss(w.conn)
}

// dismiss ends a connection to an endpoint, if there is one, in order.
func dismiss(c *socket.TCP) {
	if c != nil {
		_ = c.SetLinger(-1)
		c.Close()
	}
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
		w, wanted := o.pair(c)
		if !wanted {
			dismiss(c)
		} else if w != nil {
			o.wg.Go(func() { o.relay(c, w.stream, w.watch) })
		}
	}
}

// pair finds what waits for a connection that came to an endpoint; nil: now that waits.
func (o *Outgoing) pair(c *socket.TCP) (_ *waiting, wanted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	source := c.Remote()
	w := o.waits[source]
	switch {
	case o.closed || (w == nil || w.stream == nil) && closed(c):
		return nil, false
	case w == nil && o.early < maxEarly:
		w = &waiting{conn: c, early: true}
		w.timer = time.AfterFunc(early, func() { o.forget(source, w) })
		o.waits[source] = w
		o.early++
		return nil, true
	case w == nil:
		return nil, false
	case w.stream == nil:
		old := w.conn // closed: the sockets have one source
		w.conn = c
		dismiss(old)
		return nil, true
	}
	w.timer.Stop()
	delete(o.waits, source)
	o.live[c] = w.stream
	return w, true
}

// closed tells whether the debuggee's socket has no connection any more. One that was
// refused may ask again from the same source, and is not who waits for that.
func closed(c *socket.TCP) bool {
	_, err := socket.Peek(c, make([]byte, 1), false)
	return err != nil
}

// relay has a connection that is doomed.
func (o *Outgoing) relay(c protocol.Ending, stream net.Conn, w Watch) {
	err := protocol.RelayWatched(c, stream, w)
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
	for source := range o.waits {
		o.end(source)
	}
	for c, stream := range o.live {
		reset(c)
		stream.SetDeadline(time.Unix(1, 0))
	}
	o.mu.Unlock()
	o.wg.Wait()
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

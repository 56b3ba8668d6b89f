package forward

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/socket"
)

// peerKept is how long a connection's client is remembered after its end: the
// debuggee may accept it, or ask for the client, late.
const peerKept = 30 * time.Second

// acceptTime is how long a debuggee's listener may have no room for one more
// connection: less than the agent waits for our answer.
const acceptTime = 4 * time.Second

// drainTime is how long what a debuggee said before it ended may take to its clients.
const drainTime = time.Second

// A Peer is who is behind a connection made to a debuggee.
type Peer struct {
	Client netip.AddrPort // as the target's kernel saw it
	Local  netip.AddrPort // what the client asked for

	TLS *protocol.Opened // the client speaks TLS; nil: not, or the debuggee sees to it
}

// Incoming delivers stolen connections to debuggees' listeners and knows by
// its source who is behind each. Goroutines: one for each connection beside who
// delivers it, and some that wait for the next; they are gone when Close returns.
type Incoming struct {
	team *crew.Crew

	mu    sync.Mutex
	peers map[netip.AddrPort]*Peer // guarded by mu, by source
	ended []ended                  // guarded by mu; those of peers that have, in turn
}

// An ended connection, whose peer is still remembered.
type ended struct {
	source netip.AddrPort
	peer   *Peer
	at     time.Time
}

// NewIncoming makes one that has delivered nothing.
func NewIncoming() *Incoming {
	return &Incoming{team: crew.New(), peers: map[netip.AddrPort]*Peer{}}
}

// Close ends its goroutines. Nothing is being delivered.
func (in *Incoming) Close() { in.team.Wait() }

// Peer tells who is behind the connection made from source.
func (in *Incoming) Peer(source netip.AddrPort) (Peer, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := in.peers[unmap(source)]
	if p == nil {
		return Peer{}, false
	}
	return *p, true
}

// A Listener is where a debuggee listens.
type Listener struct {
	Addr   netip.AddrPort // on loopback
	Inodes []uint64       // of the sockets that do (SO_REUSEPORT: several); none: not known
	TLS    *Delivery      // how it is told what was said in TLS; nil: in the clear
}

// Listens tells whether one of its sockets still listens.
func (l Listener) Listens() bool { return listens(l.Addr, l.Inodes) }

// Deliver connects to the debuggee's listener and relays the connection to it. An
// error means that nothing was delivered, and it may be tried again;
// ECONNREFUSED is among its causes where the listener is gone. ctx ends the
// connection, unless it ends by itself within drainTime. w, unless it is nil, watches it.
func (in *Incoming) Deliver(ctx context.Context, stream *Offer, peer Peer, listener Listener, w Watch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := stream.ask(ctx); err != nil {
		return err
	}
	ctx, end := drained(ctx)
	defer end()
	tcp, source, err := in.open(ctx, &peer, listener)
	if err != nil {
		return fmt.Errorf("connecting to the debuggee's listener: %w", err)
	}
	var conn protocol.Ending = tcp
	if peer.TLS != nil && listener.TLS != nil {
		if conn, err = listener.TLS.secure(ctx, tcp, *peer.TLS); err != nil {
			reset(tcp)
			in.forget(source, &peer)
			return err
		}
	}
	defer in.end(source, &peer)
	defer context.AfterFunc(ctx, func() {
		reset(tcp)
		stream.SetDeadline(time.Unix(1, 0))
	})()
	if err := protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{Lingers: stream.saidAll()}, nil); err != nil {
		reset(tcp)
		return fmt.Errorf("answering the agent: %w", err)
	}
	doom(conn)
	w = watching(w)
	w.Answered(nil)
	w.Ended(protocol.RelayBy(in.team, conn, stream, w))
	return nil
}

// drained is done drainTime after ctx. Even connecting goes on until then: the
// debuggee may have accepted, answered and ended before it returns.
func drained(ctx context.Context) (context.Context, context.CancelFunc) {
	late, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, end) })
	return late, func() { stop(); end() }
}

// errTaken: another process listens where the debuggee did.
var errTaken = fmt.Errorf("another process listens there: %w", unix.ECONNREFUSED)

// open connects to the debuggee's listener and to no other: before, because
// nobody else is to be connected to, and afterwards, because the listener may
// just have changed.
func (in *Incoming) open(ctx context.Context, peer *Peer, l Listener) (*socket.TCP, netip.AddrPort, error) {
	known := len(l.Inodes) > 0
	if known && !l.Listens() {
		return nil, netip.AddrPort{}, fmt.Errorf("it does not listen at %v any more: %w", l.Addr, unix.ECONNREFUSED)
	}
	conn, source, err := in.dial(ctx, peer, l.Addr)
	if err != nil {
		return nil, source, err
	}
	// One that listens for a single connection has it and is closed.
	if known && !l.Listens() && anyListens(l.Addr) {
		reset(conn)
		in.forget(source, peer)
		return nil, source, errTaken
	}
	return conn, source, nil
}

// forget forgets who was behind a connection, but not who has its source now.
func (in *Incoming) forget(source netip.AddrPort, peer *Peer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.peers[source] == peer {
		delete(in.peers, source)
	}
}

// end has the peer of a connection forgotten after peerKept. One timer is for all: Go
// looks through all there are whenever one of them was set anew.
func (in *Incoming) end(source netip.AddrPort, peer *Peer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = append(in.ended, ended{source, peer, time.Now()})
	if len(in.ended) == 1 {
		time.AfterFunc(peerKept, in.sweep)
	}
}

// sweep forgets those whose time is over.
func (in *Incoming) sweep() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.ended) > 0 {
		e := in.ended[0]
		if rest := peerKept - time.Since(e.at); rest > 0 {
			time.AfterFunc(rest, in.sweep)
			return
		}
		if in.peers[e.source] == e.peer {
			delete(in.peers, e.source)
		}
		in.ended = in.ended[1:]
	}
	in.ended = nil
}

// dial binds before it connects, so that the peer is known before the debuggee
// can accept.
func (in *Incoming) dial(ctx context.Context, peer *Peer, listener netip.AddrPort) (*socket.TCP, netip.AddrPort, error) {
	fd, err := socket.Open(listener)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	var from netip.AddrPort
	if err = os.NewSyscallError("bind", socket.Bind(fd, netip.AddrPortFrom(socket.Source(listener.Addr()), 0))); err == nil {
		from, err = socket.LocalAddr(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, netip.AddrPort{}, err
	}
	in.mu.Lock()
	in.peers[from] = peer
	in.mu.Unlock()
	conn, err := socket.Connect(ctx, fd, from, listener, acceptTime)
	if err != nil {
		in.forget(from, peer)
		return nil, from, err
	}
	return conn.CloseLate(), from, nil
}

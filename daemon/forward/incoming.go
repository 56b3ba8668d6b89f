package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// peerKept is how long a connection's client is remembered after its end: the
// debuggee may accept it late.
const peerKept = 30 * time.Second

// A Peer is who is behind a connection made to a debuggee.
type Peer struct {
	Client netip.AddrPort // as the target's kernel saw it
	Local  netip.AddrPort // what the client asked for
}

// Incoming delivers stolen connections to debuggees' listeners and knows by
// its source who is behind each.
type Incoming struct {
	mu    sync.Mutex
	peers map[netip.AddrPort]Peer // guarded by mu, by source
}

// NewIncoming makes one that has delivered nothing.
func NewIncoming() *Incoming { return &Incoming{peers: map[netip.AddrPort]Peer{}} }

// Peer tells who is behind the connection made from source.
func (in *Incoming) Peer(source netip.AddrPort) (Peer, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	p, ok := in.peers[unmap(source)]
	return p, ok
}

// A Listener is where a debuggee listens.
type Listener struct {
	Addr   netip.AddrPort // on loopback
	Inodes []uint64       // of the sockets that do (SO_REUSEPORT: several); none: not known
}

// Listens tells whether one of its sockets still listens.
func (l Listener) Listens() bool { return listens(l.Addr, l.Inodes) }

// Deliver connects to the debuggee's listener and relays the stream to it. An
// error means that nothing was delivered and the stream is untouched;
// ECONNREFUSED is among its causes where the listener is gone. ctx ends the
// connection.
func (in *Incoming) Deliver(ctx context.Context, stream net.Conn, peer Peer, listener Listener) error {
	conn, source, err := in.open(ctx, peer, listener)
	if err != nil {
		return fmt.Errorf("connecting to the debuggee's listener: %w", err)
	}
	defer in.forgetLater(source)
	defer context.AfterFunc(ctx, func() {
		reset(conn)
		stream.SetDeadline(time.Unix(1, 0))
	})()
	if err := protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
		reset(conn)
		stream.Close()
		return nil // the agent's side is gone: there is nobody to deliver from
	}
	doom(conn)
	protocol.Relay(conn, stream)
	return nil
}

// errTaken: another process listens where the debuggee did.
var errTaken = fmt.Errorf("another process listens there: %w", unix.ECONNREFUSED)

// open connects to the debuggee's listener and to no other: before, because
// nobody else is to be connected to, and afterwards, because the listener may
// just have changed.
func (in *Incoming) open(ctx context.Context, peer Peer, l Listener) (*net.TCPConn, netip.AddrPort, error) {
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
		in.forget(source)
		return nil, source, errTaken
	}
	return conn, source, nil
}

func (in *Incoming) forget(source netip.AddrPort) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.peers, source)
}

func (in *Incoming) forgetLater(source netip.AddrPort) {
	time.AfterFunc(peerKept, func() { in.forget(source) })
}

// dial binds before it connects, so that the peer is known before the debuggee
// can accept.
func (in *Incoming) dial(ctx context.Context, peer Peer, listener netip.AddrPort) (*net.TCPConn, netip.AddrPort, error) {
	none := netip.AddrPort{}
	family, source := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if listener.Addr().Is6() {
		family, source = unix.AF_INET6, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, none, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, source); err != nil {
		return nil, none, fmt.Errorf("bind: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, none, fmt.Errorf("getsockname: %w", err)
	}
	from := addrPort(bound)
	in.mu.Lock()
	in.peers[from] = peer
	in.mu.Unlock()
	err = unix.Connect(fd, sockaddr(listener))
	if err == unix.EINPROGRESS {
		err = connected(ctx, fd)
	}
	var conn net.Conn
	if err == nil {
		conn, err = fileConn(fd)
	}
	if err != nil {
		in.forget(from)
		return nil, none, fmt.Errorf("connect to %v: %w", listener, err)
	}
	return conn.(*net.TCPConn), from, nil
}

// acceptTime is how long a debuggee's listener may have no room for one more
// connection: less than the agent waits for our answer.
const acceptTime = 4 * time.Second

// connected waits for a connect on loopback. As a rule it has ended already,
// connected or refused; where the listener's queue is full it goes on.
func connected(ctx context.Context, fd int) error {
	over := func(fd uintptr) (bool, error) {
		no, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || no != 0 {
			return true, cmp.Or(err, error(unix.Errno(no)))
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil, nil
	}
	if done, err := over(uintptr(fd)); done {
		return err
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	if err := f.SetWriteDeadline(time.Now().Add(acceptTime)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		done, failed = over(fd)
		return done
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no room in its queue: %w", unix.ETIMEDOUT)
	}
	return cmp.Or(err, failed)
}

// fileConn makes a net.Conn of a duplicate of fd.
func fileConn(fd int) (net.Conn, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	return net.FileConn(f)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

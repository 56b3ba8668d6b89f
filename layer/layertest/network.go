package layertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

type syscallConn = syscall.RawConn

func loopback(like netip.AddrPort) string {
	if like.Addr().Is6() {
		return "[::1]:0"
	}
	return "127.0.0.1:0"
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// hold is how long a connect that does not block waits for the target.
const hold = 250 * time.Millisecond

// arrival is where the connection from a source to an endpoint comes to.
func (d *Daemon) arrival(source netip.AddrPort) chan net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.arrivals[source]
	if c == nil {
		c = make(chan net.Conn, 1)
		d.arrivals[source] = c
	}
	return c
}

// endpoint is that for TCP of a source's family.
func (d *Daemon) endpoint(source netip.AddrPort) (netip.AddrPort, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.endpoints[loopback(source)]
	if l == nil {
		var err error
		if l, err = listen(loopback(source), false); err != nil {
			return netip.AddrPort{}, err
		}
		d.endpoints[loopback(source)] = l
		d.closers = append(d.closers, l)
		d.wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				d.track(c)
				select {
				case d.arrival(c.RemoteAddr().(*net.TCPAddr).AddrPort()) <- c:
				default:
					c.Close()
				}
			}
		})
	}
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// connect finds the endpoint for a connection from one source, or makes one that is
// pending.
func (d *Daemon) connect(q *wire.Request) (wire.Reply, error) {
	if d.Dial == nil {
		return wire.Reply{}, unix.ECONNREFUSED
	}
	type outcome struct {
		up  net.Conn
		err error
	}
	dialled := make(chan outcome, 1)
	d.wg.Go(func() {
		up, err := d.Dial(q.Addr)
		if err == nil {
			d.track(up)
		}
		dialled <- outcome{up, err}
	})
	late := make(<-chan time.Time)
	if q.Flags&wire.ConnectAsync != 0 {
		late = time.After(hold)
	}
	var o outcome
	pending := false
	select {
	case o = <-dialled:
		if o.err == nil {
			break
		}
		if q.Flags&wire.ConnectAhead != 0 { // and has come, or comes
			select {
			case c := <-d.arrival(q.Addr2):
				c.Close()
			case <-d.stopped:
			}
		}
		return wire.Reply{}, o.err
	case <-late:
		pending = true
	}
	if pending {
		return d.postpone(q.Addr2, func() (net.Conn, error) {
			o := <-dialled
			return o.up, o.err
		})
	}
	endpoint, err := d.endpoint(q.Addr2)
	if err != nil {
		return wire.Reply{}, err
	}
	arrived := d.arrival(q.Addr2)
	d.wg.Go(func() {
		defer o.up.Close()
		select {
		case c := <-arrived:
			d.relay(c, o.up)
		case <-d.stopped:
		}
	})
	return wire.Reply{Addr: endpoint, Addr2: netip.AddrPortFrom(localLike(q.Addr.Addr()), q.Addr2.Port())}, nil
}

// postpone makes an endpoint for one source that answers when the target has.
func (d *Daemon) postpone(source netip.AddrPort, dialled func() (net.Conn, error)) (wire.Reply, error) {
	l, err := listen(loopback(source), true)
	if err != nil {
		return wire.Reply{}, err
	}
	d.track(l)
	d.wg.Go(func() {
		defer l.Close() // where the target refuses, the next SYN finds nobody
		up, err := dialled()
		if err != nil || filter(l, false) != nil {
			return
		}
		defer up.Close()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if c.RemoteAddr().String() == source.String() {
				d.track(c)
				d.relay(c, up)
				return
			}
			c.Close()
		}
	})
	return wire.Reply{Addr: l.Addr().(*net.TCPAddr).AddrPort(), Flags: wire.ReplyPending}, nil
}

func (d *Daemon) relay(c, up net.Conn) {
	d.wg.Go(func() {
		_, _ = io.Copy(up, c)
		_ = up.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(c, up)
	c.Close()
}

// listen opens an endpoint; one that is deaf lets every SYN go unanswered.
func listen(addr string, deaf bool) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // which has no filters
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deaf {
		if err := filter(l.(*net.TCPListener), true); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l.(*net.TCPListener), nil
}

func filter(l *net.TCPListener, deaf bool) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) {
		if deaf {
			drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		}
	})
	return errors.Join(outer, err)
}

// datagram makes an endpoint that stands for a UDP address.
func (d *Daemon) datagram(q *wire.Request) (wire.Reply, error) {
	if d.Datagram == nil {
		return wire.Reply{}, unix.ENETUNREACH
	}
	to := d.Datagram(q.Addr)
	c, err := net.ListenPacket("udp", loopback(q.Addr2))
	if err != nil {
		return wire.Reply{}, err
	}
	d.track(c)
	d.wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if from.String() != q.Addr2.String() { // nobody else may use it
				continue
			}
			up, err := net.Dial("udp", to.String())
			if err != nil {
				return
			}
			d.track(up)
			if _, err := up.Write(b[:n]); err != nil {
				return
			}
			d.wg.Go(func() {
				b := make([]byte, 1<<16)
				n, err := up.Read(b)
				if err == nil {
					_, _ = c.WriteTo(b[:n], from)
				}
			})
		}
	})
	return wire.Reply{Addr: c.LocalAddr().(*net.UDPAddr).AddrPort()}, nil
}

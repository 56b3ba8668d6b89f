package layertest

import (
	"io"
	"net"
	"net/netip"
	"syscall"

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

// connect makes an endpoint for one connection, from one source.
func (d *Daemon) connect(q *wire.Request) (wire.Reply, error) {
	if d.Dial == nil {
		return wire.Reply{}, unix.ECONNREFUSED
	}
	up, err := d.Dial(q.Addr)
	if err != nil {
		return wire.Reply{}, err
	}
	d.track(up)
	l, err := net.Listen("tcp", loopback(q.Addr2))
	if err != nil {
		return wire.Reply{}, err
	}
	d.track(l)
	d.wg.Go(func() {
		defer l.Close()
		defer up.Close()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if c.RemoteAddr().String() != q.Addr2.String() {
				c.Close()
				continue
			}
			d.track(c)
			d.wg.Go(func() {
				_, _ = io.Copy(up, c)
				_ = up.(*net.TCPConn).CloseWrite()
			})
			_, _ = io.Copy(c, up)
			c.Close()
			return
		}
	})
	return wire.Reply{
		Addr:  l.Addr().(*net.TCPAddr).AddrPort(),
		Addr2: netip.AddrPortFrom(Local, q.Addr2.Port()),
	}, nil
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

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

// connect makes an endpoint for one connection, from one source.
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
		if o.err != nil {
			return wire.Reply{}, o.err
		}
	case <-late:
		pending = true
	}
	l, err := listen(loopback(q.Addr2), pending)
	if err != nil {
		return wire.Reply{}, err
	}
	d.track(l)
	d.wg.Go(func() {
		defer l.Close() // where the target refuses, the next SYN finds nobody
		if pending {
			if o = <-dialled; o.err != nil {
				return
			}
			if err := filter(l, false); err != nil {
				return
			}
		}
		d.relay(l, o.up, q.Addr2)
	})
	r := wire.Reply{Addr: l.Addr().(*net.TCPAddr).AddrPort()}
	if pending {
		r.Flags = wire.ReplyPending
	} else {
		r.Addr2 = netip.AddrPortFrom(localLike(q.Addr.Addr()), q.Addr2.Port())
	}
	return r, nil
}

// relay joins the connection that l gets from source with up.
func (d *Daemon) relay(l net.Listener, up net.Conn, source netip.AddrPort) {
	defer up.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if c.RemoteAddr().String() != source.String() {
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

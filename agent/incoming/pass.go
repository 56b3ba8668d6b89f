package incoming

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pass hands a stolen connection to the pod's own container, as if it had
// never been stolen but for its source, which is the pod's own address.
func (in *Incoming) pass(ctx context.Context, conn *net.TCPConn, local netip.AddrPort, first opening) error {
	own, undo, err := in.dialPod(ctx, local)
	if err != nil {
		reset(conn) // as the pod's kernel would have answered
		return fmt.Errorf("passing connection to the pod's own container at %v: %w", local, err)
	}
	defer undo()
	defer context.AfterFunc(ctx, func() {
		conn.Close()
		own.Close()
	})()
	if err := first.replay(conn, func(b []byte) error { _, err := own.Write(b); return err }); err != nil {
		reset(own)
		reset(conn)
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(own, conn) })
	copyHalf(conn, own)
	wg.Wait()
	own.Close()
	conn.Close()
	return nil
}

// copyHalf copies one direction to its end, and that end as well.
func copyHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		reset(to)
		reset(from)
		return
	}
	_ = to.CloseWrite()
}

// reset closes a connection so that its peer knows that it did not end well.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// dialPod connects to an address of the pod around the redirect. The source is
// bound before connecting, so that the program can be told of it.
func (in *Incoming) dialPod(ctx context.Context, local netip.AddrPort) (*net.TCPConn, func(), error) {
	undo := func() {}
	d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
		var err error
		if ctl := raw.Control(func(fd uintptr) {
			var from netip.AddrPort
			if from, err = bindSource(int(fd), local.Addr()); err == nil {
				undo() // the dialer may try a second time
				undo, err = in.exempt(from)
			}
		}); ctl != nil {
			return ctl
		}
		return err
	}}
	c, err := d.DialContext(ctx, "tcp", local.String())
	if err != nil {
		undo()
		return nil, nil, err
	}
	return c.(*net.TCPConn), undo, nil
}

// exempt keeps a source's connections from the redirect and from mirrors.
func (in *Incoming) exempt(from netip.AddrPort) (undo func(), err error) {
	redirected, err := in.redirect.Exempt(from)
	if err != nil {
		return redirected, err
	}
	mirrored := in.mirrors.Exclude(from)
	return func() {
		redirected()
		mirrored()
	}, nil
}

// bindSource binds a socket to a free port of addr, which it returns.
func bindSource(fd int, addr netip.Addr) (netip.AddrPort, error) {
	var sa unix.Sockaddr
	if addr.Is4() {
		sa = &unix.SockaddrInet4{Addr: addr.As4()}
	} else {
		v6 := &unix.SockaddrInet6{Addr: addr.As16()}
		if zone := addr.Zone(); zone != "" {
			ifc, err := net.InterfaceByName(zone)
			if err != nil {
				return netip.AddrPort{}, fmt.Errorf("finding interface %s: %w", zone, err)
			}
			v6.ZoneId = uint32(ifc.Index)
		}
		sa = v6
	}
	if err := unix.Bind(fd, sa); err != nil {
		return netip.AddrPort{}, fmt.Errorf("binding to %v: %w", addr, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(b.Addr), uint16(b.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("socket bound to %T: %w", bound, unix.EAFNOSUPPORT)
}

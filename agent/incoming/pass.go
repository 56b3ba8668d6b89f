package incoming

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/socket"
)

// pass hands a stolen connection to the pod's own container, as if it had
// never been stolen but for its client's port.
func (in *Incoming) pass(ctx context.Context, r *record, conn *net.TCPConn, client, local netip.AddrPort, first opening) error {
	own, undo, err := in.dialPod(ctx, client, local)
	if err != nil {
		reset(conn) // as the pod's kernel would have answered
		return fmt.Errorf("passing connection to the pod's own container at %v: %w", local, err)
	}
	defer undo()
	defer context.AfterFunc(ctx, func() {
		conn.Close()
		own.Close()
	})()
	if err := first.replay(conn, func(b []byte) error {
		r.Sends(b)
		_, err := own.Write(b)
		return err
	}); err != nil {
		reset(own)
		reset(conn)
		return err
	}
	var wg sync.WaitGroup
	var errIn error
	wg.Go(func() { errIn = copyHalf(own, conn, &r.from) })
	errOut := copyHalf(conn, own, &r.to)
	wg.Wait()
	own.Close()
	conn.Close()
	return cmp.Or(errIn, errOut)
}

// copyHalf copies one direction to its end, and that end as well, and counts. It is
// splice(2) that moves the bytes. A program of a sockmap, which moves them without
// waking us, was measured instead (Linux 6.18, medians of 9 rounds): 1.13 times the
// requests per second of 8 connections, 0.74 of those of one, and 0.81 of a large
// body's throughput, as a kernel thread does the sending. It is not worth its lines.
func copyHalf(to, from stream, count *atomic.Int64) error {
	n, err := socket.Copy(to, from, -1)
	count.Add(n)
	if err != nil {
		reset(to)
		reset(from)
		return err
	}
	_ = to.CloseWrite()
	return nil
}

// A stream is a connection of TCP.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// reset closes a connection so that its peer knows that it did not end well.
func reset(c stream) {
	_ = c.SetLinger(0)
	c.Close()
}

// sourceTries is how many sockets are tried for a source that is no other's. A second is
// needed where connections end by the hundred at a time, if seldom.
const sourceTries = 16

// dialPod connects to an address of the pod around the redirect, from its
// client's address if that can be. undo is for when the connection is closed.
func (in *Incoming) dialPod(ctx context.Context, client, local netip.AddrPort) (c stream, undo func(), err error) {
	source := client.Addr()
	if !in.local.Has(source) {
		if c, undo, err = in.dialAs(ctx, source, local); err == nil || errors.Is(err, unix.ECONNREFUSED) {
			return c, undo, err
		}
		in.log.Debug("passing connection without its client's address", "client", client, "err", err)
		source = local.Addr()
	}
	dial := func(fresh bool) (c stream, undo func(), err error) {
		for range sourceTries {
			c, undo, err = in.dialFrom(ctx, local, 0, func(fd int) (netip.AddrPort, error) {
				return in.sources.Bind(fd, source, fresh)
			}, in.sources.Release)
			if !errors.Is(err, errTwice) {
				break
			}
		}
		return c, undo, err
	}
	c, undo, err = dial(false)
	if errors.Is(err, unix.EADDRNOTAVAIL) { // a source in TIME_WAIT, and the pod's kernel has no timestamps
		c, undo, err = dial(true)
	}
	return c, undo, err
}

// guisePatience is how long a connection that has its client's address may take.
// Where something in the namespace keeps it from the pod, the pod's own may do.
const guisePatience = time.Second

// dialAs connects to an address of the pod from a client's.
func (in *Incoming) dialAs(ctx context.Context, client netip.Addr, local netip.AddrPort) (stream, func(), error) {
	if client.Zone() != "" {
		return nil, nil, fmt.Errorf("having address %v: %w", client, unix.EAFNOSUPPORT)
	}
	r, err := in.repliesTo(client)
	if err != nil {
		return nil, nil, err
	}
	dial := func() (stream, func(), error) {
		return in.dialFrom(ctx, local, guisePatience,
			func(fd int) (netip.AddrPort, error) { return r.Bind(fd, client, local) },
			func(from netip.AddrPort) { r.Release(from, local) })
	}
	c, undo, err := dial()
	if errors.Is(err, unix.EADDRNOTAVAIL) { // as for the pod's own
		c, undo, err = dial()
	}
	return c, undo, err
}

// dialFrom connects from what bind binds to, before connecting: so that the
// redirect can be told of it. patience 0: as long as the kernel has.
func (in *Incoming) dialFrom(ctx context.Context, local netip.AddrPort, patience time.Duration, bind func(fd int) (netip.AddrPort, error), release func(netip.AddrPort)) (_ stream, undo func(), err error) {
	fd, err := socket.Open(local)
	if err != nil {
		return nil, nil, err
	}
	from, err := bind(fd)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	if undo, err = in.exempt(fd, from, release); err != nil {
		unix.Close(fd)
		undo()
		return nil, nil, err
	}
	c, err := socket.Connect(ctx, fd, from, local, patience)
	if err != nil {
		undo()
		return nil, nil, fmt.Errorf("connecting from %v: %w", from, err)
	}
	return c, undo, nil
}

// exempt keeps a socket that is bound to a source from the redirect and from mirrors;
// undo also releases the source.
func (in *Incoming) exempt(fd int, from netip.AddrPort, release func(netip.AddrPort)) (undo func(), err error) {
	redirected, err := in.redirect.Exempt(fd, from)
	if err != nil {
		return func() { release(from) }, err
	}
	mirrored := in.mirrors.Exclude(from)
	return func() {
		redirected()
		mirrored()
		release(from)
	}, nil
}

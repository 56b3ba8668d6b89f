package layer

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// A datagramKey is a UDP destination and the socket that sends there: the
// daemon lets no other use the endpoint.
type datagramKey struct {
	to, source netip.AddrPort
	inode      uint64
}

// maxEndpoints bounds what is remembered; what is not is asked for again.
const maxEndpoints = 1 << 12

// maxDatagram is the largest payload of UDP over IPv4 and IPv6.
const maxDatagram = 1<<16 - 1

// datagramEndpoint returns the daemon's endpoint that stands for to.
func (l *Layer) datagramEndpoint(d *duplicate, to netip.AddrPort) (netip.AddrPort, unix.Errno) {
	if len(l.Addrs) > 0 && !l.ownAddr(to.Addr()).IsValid() && !to.Addr().IsLoopback() {
		return netip.AddrPort{}, unix.ENETUNREACH // the target has no such family
	}
	source := d.own()
	if source.Port() == 0 { // to any address: it may send to Local ones as well
		anywhere := netip.IPv4Unspecified()
		if d.domain == unix.AF_INET6 {
			anywhere = netip.IPv6Unspecified()
		}
		if err := unix.Bind(d.fd, kernelAddr(netip.AddrPortFrom(anywhere, 0), d.domain)); err != nil {
			return netip.AddrPort{}, asErrno(err)
		}
		source = d.own()
	}
	if source.Addr().IsUnspecified() {
		source = netip.AddrPortFrom(d.loopback(), source.Port())
	}
	key := datagramKey{to, source, d.inode}
	l.sockets.mu.Lock()
	endpoint, known := l.sockets.endpoint[key]
	daemons := l.sockets.daemons
	if len(l.sockets.endpoint) >= maxEndpoints {
		clear(l.sockets.endpoint)
	}
	l.sockets.mu.Unlock()
	if known {
		return endpoint, 0
	}
	r := l.Daemon.call(&wire.Request{Op: wire.OpDatagram, Addr: to, Addr2: source, Node: d.inode})
	closeFD(r.fd)
	if r.Errno != 0 {
		return netip.AddrPort{}, unix.Errno(r.Errno)
	}
	l.sockets.mu.Lock()
	defer l.sockets.mu.Unlock()
	if l.sockets.daemons == daemons {
		l.sockets.endpoint[key], l.sockets.remote[r.Addr] = r.Addr, to
	}
	return r.Addr, 0
}

func quickSendto(c *call) bool {
	s := &c.addr
	if !c.readSockaddr(c.Args[4], c.Args[5]) || !s.addr.IsValid() {
		return true
	}
	local := c.l.Policy.Connect(policy.UDP, s.addr).Kind == policy.Local && !c.opensRemote()
	if !local {
		c.inode()
	}
	return local
}

// opensRemote: of TCP only a connection that opens with its first data has an address.
func (c *call) opensRemote() bool {
	return c.Args[3]&unix.MSG_FASTOPEN != 0 && c.l.Policy.Connect(policy.TCP, c.addr.addr).Kind != policy.Local
}

// slowSendto sends the datagram for the debuggee. It does not wait for room in
// the socket: where it would, also a socket that blocks is told EAGAIN. One that
// is interrupted between sending and telling is sent again by who restarts it,
// and arrives twice, as datagrams may.
func slowSendto(c *call) answer {
	s := &c.addr
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	switch {
	case d.tcp():
		if c.opensRemote() {
			return fail(unix.EOPNOTSUPP) // as a kernel that has it switched off: the caller connects
		}
		return carryOn // a connected socket ignores the address
	case c.l.Policy.Connect(policy.UDP, s.addr).Kind == policy.Local:
		return carryOn
	case s.family == unix.AF_UNSPEC && d.domain == unix.AF_INET6:
		return carryOn // ignored as well
	case !d.udp():
		return fail(unix.ENETUNREACH)
	case c.Args[2] > maxDatagram:
		return fail(unix.EMSGSIZE)
	}
	endpoint, errno := c.l.datagramEndpoint(d, s.addr)
	if errno != 0 {
		return fail(errno)
	}
	b := make([]byte, c.Args[2])
	if err := seccomp.Read(c.TID, c.Args[1], b); err != nil {
		return failWith(err)
	}
	if !c.l.listener.Valid(c.ID) { // the caller may have filled its buffer anew
		return answer{abandoned: true}
	}
	if c.l.sockets.get(d.inode) == nil {
		c.l.sockets.put(d.inode, &sock{udp: true})
	}
	flags := int(c.Args[3])&unix.MSG_DONTROUTE | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if err := unix.Sendto(d.fd, b, flags, kernelAddr(endpoint, d.domain)); err != nil {
		return failWith(err)
	}
	return answer{val: int64(len(b)), again: true}
}

func quickRecvfrom(c *call) bool {
	if c.l.sockets.some.Load() == 0 {
		return true
	}
	k := c.l.sockets.get(c.inode())
	return k == nil || !k.udp
}

// slowRecvfrom receives for the debuggee, to tell it who really sent. The
// datagram is looked at first and consumed when the debuggee has it: a signal
// in between loses nothing. The socket is kept from others until then, which
// is when finish has the answer: it is not kept for a caller that comes back.
func slowRecvfrom(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	k := c.l.sockets.get(d.inode)
	if k == nil || !d.udp() {
		d.close()
		return carryOn
	}
	flags := int(c.Args[3])
	if !d.async && flags&unix.MSG_DONTWAIT == 0 {
		if ended := c.wait(d, unix.POLLIN); ended == callerGone {
			d.close()
			return answer{abandoned: true}
		} // over its time it finds nothing, and fails with EAGAIN
	}
	b := make([]byte, min(c.Args[2], maxDatagram))
	k.receiving.Lock()
	n, from, err := unix.Recvfrom(d.fd, b, flags&unix.MSG_TRUNC|unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil {
		k.receiving.Unlock()
		d.close()
		return failWith(err)
	}
	source := addrPort(from)
	c.l.sockets.mu.Lock()
	if to, ok := c.l.sockets.remote[source]; ok {
		source = to
	}
	c.l.sockets.mu.Unlock()
	writes := []memory{{c.Args[1], b[:min(n, len(b))]}}
	name, errno := c.writeSockaddr(source, d.domain, c.Args[4], c.Args[5])
	if errno != 0 {
		k.receiving.Unlock()
		d.close()
		return fail(errno)
	}
	return answer{val: int64(n), writes: append(writes, name...), again: true, settle: func(taken bool) {
		if taken && flags&unix.MSG_PEEK == 0 {
			var none [1]byte
			_, _, _ = unix.Recvfrom(d.fd, none[:], unix.MSG_DONTWAIT)
		}
		k.receiving.Unlock()
		d.close()
	}}
}

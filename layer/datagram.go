package layer

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
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
func (c *call) datagramEndpoint(d *duplicate, to netip.AddrPort) (netip.AddrPort, unix.Errno) {
	l := c.l
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
	r := l.Daemon.call(&wire.Request{Op: wire.OpDatagram, Addr: to, Addr2: source, Node: d.inode, Mode: c.TID})
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

func quickSendto(c *call) bool { return !c.sendsRemote(c.Args[4], c.Args[5], c.Args[3]) }

// sendsRemote reads the address that is sent to into c.addr, and tells whether
// it is more than this machine's business.
func (c *call) sendsRemote(ptr, size, flags uint64) bool {
	s := &c.addr
	if !c.readSockaddr(ptr, size) || !s.addr.IsValid() {
		return false
	}
	remote := c.l.Policy.Connect(policy.UDP, s.addr).Kind != policy.Local || c.opensRemote(flags)
	if remote {
		c.inode()
	}
	return remote
}

// opensRemote: of TCP only a connection that opens with its first data has an address.
func (c *call) opensRemote(flags uint64) bool {
	return flags&unix.MSG_FASTOPEN != 0 && c.l.Policy.Connect(policy.TCP, c.addr.addr).Kind != policy.Local
}

func slowSendto(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	return c.send(d, []buffer{{c.Args[1], c.Args[2]}}, nil, c.Args[3])
}

// send sends the datagram for the debuggee to c.addr. It does not wait for room in
// the socket: where it would, also a socket that blocks is told EAGAIN. One that
// is interrupted between sending and telling is sent again by who restarts it,
// and arrives twice, as datagrams may.
func (c *call) send(d *duplicate, data []buffer, control []byte, flags uint64) answer {
	s := &c.addr
	switch {
	case d.tcp():
		if c.opensRemote(flags) {
			return fail(unix.EOPNOTSUPP) // as a kernel that has it switched off: the caller connects
		}
		return carryOn // a connected socket ignores the address
	case c.l.Policy.Connect(policy.UDP, s.addr).Kind == policy.Local:
		return carryOn
	case s.family == unix.AF_UNSPEC && d.domain == unix.AF_INET6:
		return carryOn // ignored as well
	case !d.udp():
		return fail(unix.ENETUNREACH)
	}
	b, errno := c.gather(data)
	if errno != 0 {
		return fail(errno)
	}
	endpoint, errno := c.datagramEndpoint(d, s.addr)
	if errno != 0 {
		return fail(errno)
	}
	if !c.l.listener.Valid(c.ID) { // the caller may have filled its buffer anew
		return answer{abandoned: true}
	}
	if c.l.sockets.get(d.inode) == nil {
		c.l.sockets.put(d.inode, &sock{udp: true})
	}
	return d.send(b, control, kernelAddr(endpoint, d.domain), flags)
}

func (d *duplicate) send(b, control []byte, to unix.Sockaddr, flags uint64) answer {
	flags = flags&unix.MSG_DONTROUTE | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if _, err := unix.SendmsgN(d.fd, b, control, to, int(flags)); err != nil {
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

func slowRecvfrom(c *call) answer {
	data := []buffer{{c.Args[1], c.Args[2]}}
	return c.receive(data, 0, c.Args[3], func(r *received) ([]memory, unix.Errno) {
		return c.writeSockaddr(r.from, r.domain, c.Args[4], c.Args[5])
	})
}

// received is a datagram on its way to the debuggee.
type received struct {
	size    int // as the call returns it
	control []byte
	flags   int
	from    netip.AddrPort // who really sent
	domain  int
}

// receive receives for the debuggee, to tell it who really sent, which tell does. The
// datagram is looked at first and consumed when the debuggee has it: a signal
// in between loses nothing. The socket is kept from others until then, which
// is when finish has the answer: it is not kept for a caller that comes back.
func (c *call) receive(data []buffer, control int, flags uint64, tell func(*received) ([]memory, unix.Errno)) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	k := c.l.sockets.get(d.inode)
	if k == nil || !d.udp() {
		d.close()
		return carryOn
	}
	b, oob := make([]byte, min(total(data), maxDatagram)), make([]byte, control)
	failed := func(ans answer) answer {
		k.receiving.Unlock()
		d.close()
		return ans
	}
	var n, oobn, recvflags int
	var from unix.Sockaddr
	for waits := !d.async && flags&unix.MSG_DONTWAIT == 0; ; {
		if waits {
			switch c.wait(d, unix.POLLIN) {
			case callerGone:
				d.close()
				return answer{abandoned: true}
			case timeOver: // it finds nothing, and fails with EAGAIN
				waits = false
			}
		}
		k.receiving.Lock()
		var err error
		n, oobn, recvflags, from, err = unix.Recvmsg(d.fd, b, oob, int(flags)&unix.MSG_TRUNC|unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == unix.EAGAIN && waits { // another thread was quicker
			k.receiving.Unlock()
			continue
		}
		if err != nil {
			return failed(failWith(err))
		}
		break
	}
	r := received{size: n, control: oob[:oobn], flags: recvflags, from: addrPort(from), domain: d.domain}
	c.l.sockets.mu.Lock()
	if to, ok := c.l.sockets.remote[r.from]; ok {
		r.from = to
	}
	c.l.sockets.mu.Unlock()
	writes := scatter(data, b[:min(n, len(b))])
	names, errno := tell(&r)
	if errno != 0 {
		return failed(fail(errno))
	}
	return answer{val: int64(n), writes: append(writes, names...), again: true, settle: func(taken bool) {
		if taken && flags&unix.MSG_PEEK == 0 {
			var none [1]byte
			_, _, _ = unix.Recvfrom(d.fd, none[:], unix.MSG_DONTWAIT)
		}
		k.receiving.Unlock()
		d.close()
	}}
}

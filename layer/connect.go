package layer

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	wire "mirrord/protocol/layer"
	"mirrord/protocol/socket"
)

func quickConnect(c *call) bool {
	if !c.readSockaddr(c.Args[1], c.Args[2]) {
		return true
	}
	s := &c.addr
	switch s.family {
	case unix.AF_UNIX:
		if s.path == "" || s.path[0] == '@' {
			return true
		}
		c.verdict = c.l.Policy.Unix(s.path)
		return c.verdict.Kind == policy.Local
	case unix.AF_INET, unix.AF_INET6:
		remote := c.l.Policy.Connect(policy.TCP, s.addr).Kind != policy.Local || c.l.Policy.Connect(policy.UDP, s.addr).Kind != policy.Local
		if remote || c.l.sockets.movedTo(s.addr) != 0 {
			c.socketInode()
			return false
		}
		fallthrough
	case unix.AF_UNSPEC: // the socket is to be used anew
		if c.l.sockets.some.Load() > 0 {
			if k := c.l.sockets.get(c.socketInode()); k != nil && !k.bound.IsValid() {
				c.l.sockets.forget(c.socket)
			}
		}
	}
	return true
}

func slowConnect(c *call) answer {
	if c.verdict.Kind == policy.Refused {
		return fail(unix.ECONNREFUSED)
	}
	s := &c.addr
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	proto := policy.TCP
	if !d.tcp() {
		proto = policy.UDP
	}
	if c.l.Policy.Connect(proto, s.addr).Kind == policy.Local {
		if port := c.l.sockets.movedTo(s.addr); port != 0 && d.tcp() {
			return d.connect(netip.AddrPortFrom(s.addr.Addr(), port))
		}
		return carryOn
	}
	switch {
	case !d.reaches(s):
		return carryOn // the kernel refuses the family
	case d.tcp():
		return c.connectTCP(d, s.addr)
	case d.udp():
		return c.connectUDP(d, s.addr)
	case d.inet() && d.typ == unix.SOCK_DGRAM: // ping sockets
		return fail(unix.ENETUNREACH)
	}
	return fail(unix.EPROTONOSUPPORT)
}

// reaches tells whether d's family is s's, or takes it in.
func (d *duplicate) reaches(s *sockaddr) bool {
	return (s.family != unix.AF_INET6 || d.domain != unix.AF_INET) && (!s.addr.Addr().Is4() || !d.only6)
}

// connectTCP makes sure that the socket has a loopback source, by which the
// daemon knows it, and connects it to the endpoint that the daemon names. One
// that does not block is answered in time: its endpoint may be one that
// completes, or refuses, when the target has.
func (c *call) connectTCP(d *duplicate, to netip.AddrPort) answer {
	if k := c.l.sockets.get(d.inode); k != nil && k.connecting.Load() {
		return c.connectAgain(d, k)
	}
	q, errno := c.connectRequest(d, to)
	if errno != 0 {
		return fail(errno)
	}
	return c.connected(d, q, c.l.Daemon.call(q))
}

// connectRequest gives d a source, and is what the daemon is to be asked.
func (c *call) connectRequest(d *duplicate, to netip.AddrPort) (*wire.Request, unix.Errno) {
	if _, err := unix.Getpeername(d.fd); err == nil {
		return nil, unix.EISCONN
	}
	source, errno := d.source()
	if errno != 0 {
		return nil, errno
	}
	q := &wire.Request{Op: wire.OpConnect, Addr: to, Addr2: source, Mode: c.TID}
	if d.async {
		q.Flags = wire.ConnectAsync
	}
	if d.proto == unix.IPPROTO_MPTCP {
		q.Flags |= wire.ConnectMultipath
	}
	return q, 0
}

// connected connects d as the daemon's reply says. It does not wait.
func (c *call) connected(d *duplicate, q *wire.Request, r reply) answer {
	closeFD(r.fd)
	if r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	if c.givenUp() { // else this would connect the socket of another connect
		return answer{abandoned: true}
	}
	local := r.Addr2
	if !local.IsValid() {
		local = netip.AddrPortFrom(c.l.ownAddr(q.Addr.Addr()), q.Addr2.Port())
	}
	k := &sock{local: local, peer: q.Addr, endpoint: r.Addr}
	k.connecting.Store(d.async)
	c.l.sockets.put(d.inode, k)
	ans := d.connect(r.Addr)
	if ans.errno != 0 && ans.errno != unix.EINPROGRESS {
		c.l.sockets.drop(d.inode)
	}
	return ans
}

// connectBegun has the daemon asked for a TCP connection, by the receiver, and the rest
// done when it replies: two goroutines less, and often as many threads to be woken.
func (c *call) connectBegun(f *flight) (begun bool) {
	if c.verdict.Kind == policy.Refused || c.socket == 0 {
		return false
	}
	s := &c.addr
	if s.family != unix.AF_INET && s.family != unix.AF_INET6 || c.l.Policy.Connect(policy.TCP, s.addr).Kind == policy.Local {
		return false
	}
	d, _, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return false
	}
	defer func() {
		if !begun {
			d.close()
		}
	}()
	k := c.l.sockets.get(d.inode)
	if !d.tcp() || !d.reaches(s) || k != nil && k.connecting.Load() {
		return false
	}
	q, errno := c.connectRequest(d, s.addr)
	if errno != 0 {
		return false
	}
	c.flight = f
	return c.l.ask(q, func(r reply) {
		ans := c.connected(d, q, r)
		d.close()
		c.l.finished(f, ans)
	})
}

// connectAgain is how some learn the outcome of a connect that did not wait.
// The kernel knows it, and which address it is told does not matter.
func (c *call) connectAgain(d *duplicate, k *sock) answer {
	if !d.async { // now it is to wait
		switch c.wait(d, unix.POLLOUT) {
		case callerGone:
			return answer{abandoned: true}
		case timeOver:
			return fail(unix.EINPROGRESS)
		}
	}
	err := unix.Connect(d.fd, kernelAddr(k.endpoint, d.domain))
	switch err {
	case nil:
		k.connecting.Store(false)
		return value(0)
	case unix.EALREADY, unix.EINPROGRESS, unix.EISCONN:
	default:
		c.l.sockets.forget(d.inode)
	}
	return failWith(err)
}

// source gives d a loopback source, and returns it.
func (d *duplicate) source() (netip.AddrPort, unix.Errno) {
	own := d.own()
	if own.Port() != 0 && d.has(own) {
		if own.Addr().IsUnspecified() { // the kernel will choose this one
			own = netip.AddrPortFrom(d.loopback(), own.Port())
		}
		return own, 0
	}
	from := netip.AddrPortFrom(socket.Source(d.loopback()), 0)
	if err := unix.Bind(d.fd, kernelAddr(from, d.domain)); err != nil {
		return netip.AddrPort{}, asErrno(err)
	}
	return d.own(), 0
}

// has tells whether d is bound to the address that the kernel tells, and binds it where
// it can: after a connect that failed the kernel still tells a port that it has given up.
func (d *duplicate) has(own netip.AddrPort) bool {
	err := unix.Bind(d.fd, kernelAddr(own, d.domain))
	return err == nil || err == unix.EINVAL // it is bound
}

// connect connects to a loopback address, at once. A socket that does not block
// is told EINPROGRESS, as it is by every TCP.
func (d *duplicate) connect(to netip.AddrPort) answer {
	switch err := unix.Connect(d.fd, kernelAddr(to, d.domain)); err {
	case nil, unix.EISCONN: // an interrupted connect, asked again
		return value(0)
	default:
		return fail(asErrno(err))
	}
}

func (c *call) connectUDP(d *duplicate, to netip.AddrPort) answer {
	endpoint, errno := c.datagramEndpoint(d, to)
	if errno != 0 {
		return fail(errno)
	}
	if err := unix.Connect(d.fd, kernelAddr(endpoint, d.domain)); err != nil {
		return failWith(err)
	}
	c.l.sockets.put(d.inode, &sock{
		local: netip.AddrPortFrom(c.l.ownAddr(to.Addr()), d.own().Port()), peer: to, udp: true,
	})
	return value(0)
}

// ownAddr is the target's address of ip's family. Not valid: it has none.
func (l *Layer) ownAddr(ip netip.Addr) netip.Addr {
	for _, a := range l.Addrs {
		if a.Is4() == ip.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func asErrno(err error) unix.Errno { return failWith(err).errno }

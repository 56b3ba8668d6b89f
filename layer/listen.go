package layer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	wire "mirrord/protocol/layer"
)

func quickBind(c *call) bool {
	s := &c.addr
	switch {
	case !c.readSockaddr(c.Args[1], c.Args[2]):
		return true
	case s.family == unix.AF_UNIX:
		return quickBindUnix(c)
	case s.family != unix.AF_INET && s.family != unix.AF_INET6 || !c.l.Policy.Incoming():
		return true
	}
	local := c.l.Policy.Listen(s.addr).Kind == policy.Local
	if s.addr.Port() == 0 { // the target's own address is not this machine's
		local = !slices.Contains(c.l.Addrs, s.addr.Addr())
	}
	if !local {
		c.inode()
	}
	return local
}

// slowBind binds to loopback: to the wanted port, or the one that is set for it, if
// that is free and permitted, else to any. The debuggee is told what it asked for. Its debugger's listener
// gets what it asks for, and is this machine's alone.
func slowBind(c *call) answer {
	s := &c.addr
	if s.family == unix.AF_UNIX {
		return slowBindUnix(c)
	}
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	if !d.tcp() || s.family == unix.AF_INET6 && d.domain == unix.AF_INET || c.forDebugger() {
		return carryOn
	}
	asked := s.addr.Port()
	want := c.l.Policy.BindPort(asked)
	reuse, err := bindAlone(d.fd, kernelAddr(netip.AddrPortFrom(d.loopback(), want), d.domain))
	if (err == unix.EADDRINUSE || err == unix.EACCES) && want != 0 {
		if err == unix.EADDRINUSE {
			if _, held := c.l.sockets.holder(asked, d.loopback()); held {
				return fail(unix.EADDRINUSE) // by the debuggee itself
			}
		}
		reason := err
		err = unix.Bind(d.fd, kernelAddr(netip.AddrPortFrom(d.loopback(), 0), d.domain))
		if err == nil {
			c.l.tell(fmt.Sprintf("port %d cannot be had on this machine (%v): the debuggee listens on %v instead, the target's port is the same", want, reason, d.own()))
		}
	}
	if err != nil {
		return failWith(err)
	}
	local := s.addr
	bound := d.own()
	if asked == 0 {
		local = netip.AddrPortFrom(s.addr.Addr(), bound.Port())
		bound = netip.AddrPort{}
	}
	c.l.sockets.put(d.inode, &sock{local: local, bound: bound, reuse: reuse})
	return value(0)
}

// bindAlone binds a socket so that nobody else can bind to its address before the
// debuggee listens: of two with SO_REUSEADDR both can, and the second to listen fails,
// when it is too late for another port. What is left of connections (TIME_WAIT) is in
// the way without the option only. reuse: it is to be set again.
func bindAlone(fd int, to unix.Sockaddr) (reuse bool, err error) {
	set, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil || set == 0 {
		return false, unix.Bind(fd, to)
	}
	share := func(on int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, on) }
	if err = share(0); err != nil {
		return false, err
	}
	if err = unix.Bind(fd, to); err == nil {
		return true, nil
	}
	if err := share(set); err != nil {
		return false, err
	}
	if err == unix.EADDRINUSE {
		err = unix.Bind(fd, to)
	}
	if err != nil {
		return false, err
	}
	return true, share(0)
}

func quickListen(c *call) bool {
	if c.l.sockets.some.Load() == 0 {
		return true
	}
	k := c.l.sockets.get(c.inode())
	return k == nil || !k.bound.IsValid() || k.stolen.Load()
}

// slowListen listens first and steals then, so that no stolen connection finds
// nobody. The debuggee goes on when the port is stolen.
func slowListen(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	k := c.l.sockets.get(d.inode)
	if k == nil {
		return carryOn
	}
	port := k.local.Port()
	holder, held := c.l.sockets.holder(port, k.bound.Addr())
	if k.reuse { // for its connections, too, which will be left of it
		if err := unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return failWith(err)
		}
	}
	if err := unix.Listen(d.fd, int(int32(c.Args[1]))); err != nil {
		return failWith(err)
	}
	if !held || holder == k.bound { // else another listener of the debuggee has the port, at another address of this family
		k.stolen.Store(true) // a connection may come before the answer
		c.l.sockets.opened(k.bound)
		if errno, why := c.l.take(d.inode, k); errno != 0 {
			k.stolen.Store(false)
			if !c.l.Policy.Mirror() {
				_ = unix.Shutdown(d.fd, unix.SHUT_RDWR) // it listens no more, and may try again
				c.l.tell(fmt.Sprintf("port %d of the target could not be stolen: %s", c.l.Policy.TargetPort(port), why))
				return fail(errno)
			}
			// It was not asked for by name, and is no reason to fail.
			c.l.tell(fmt.Sprintf("port %d of the target is not mirrored: %s", c.l.Policy.TargetPort(port), why))
		}
	}
	c.l.sockets.mu.Lock()
	c.l.sockets.moved[netip.AddrPortFrom(k.bound.Addr(), port)] = k.bound.Port()
	c.l.sockets.mu.Unlock()
	return value(0)
}

// take asks for the port of a listener; why it was refused is in words for the
// user: who holds it, say.
func (l *Layer) take(inode uint64, k *sock) (errno unix.Errno, why string) {
	port := l.Policy.TargetPort(k.local.Port())
	q := &wire.Request{Op: wire.OpListen, Addr: netip.AddrPortFrom(k.local.Addr(), port), Addr2: k.bound, Node: inode}
	if l.Policy.Mirror() {
		q.Flags = wire.ListenMirror
	}
	r := l.Daemon.call(q)
	closeFD(r.fd)
	errno = unix.Errno(r.Errno)
	if errno == 0 {
		return 0, ""
	}
	why = string(r.Data)
	if tried := fmt.Sprintf("stealing port %d: ", port); strings.Contains(why, tried) { // which the user is told anyway
		why = why[strings.LastIndex(why, tried)+len(tried):]
	}
	return errno, cmp.Or(why, errno.Error())
}

// listeners are the debuggee's that have a port of the target.
func (s *sockets) listeners() map[uint64]*sock {
	list := make(map[uint64]*sock)
	alive, err := socketInodes()
	if err != nil {
		return list
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for inode, k := range s.byInode {
		if k.stolen.Load() && alive[inode] {
			list[inode] = k
		}
	}
	return list
}

// holder tells where the debuggee's listener that has the target's port now is, of
// those that are at a loopback address: each family may have one (IPV6_V6ONLY).
func (s *sockets) holder(port uint16, loopback netip.Addr) (at netip.AddrPort, held bool) {
	var holders []uint64
	s.mu.Lock()
	for inode, k := range s.byInode {
		if k.stolen.Load() && k.local.Port() == port && k.bound.Addr() == loopback {
			holders = append(holders, inode)
		}
	}
	s.mu.Unlock()
	if len(holders) == 0 {
		return at, false
	}
	alive, err := socketInodes()
	if err != nil {
		return at, false
	}
	for _, inode := range holders {
		k := s.get(inode)
		if k != nil && alive[inode] {
			return k.bound, true
		}
		s.drop(inode)
	}
	return at, false
}

// movedTo is the loopback port where the debuggee's listener for to's port
// really is, if it is another one and to is this machine; else 0. Of two listeners
// it is that of to's family.
func (s *sockets) movedTo(to netip.AddrPort) uint16 {
	if s.some.Load() == 0 || !to.Addr().IsLoopback() && !to.Addr().IsUnspecified() {
		return 0
	}
	own, other := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if to.Addr().Is6() {
		own, other = other, own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	port, ok := s.moved[netip.AddrPortFrom(own, to.Port())]
	if !ok {
		port = s.moved[netip.AddrPortFrom(other, to.Port())]
	}
	if port == to.Port() {
		return 0
	}
	return port
}

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
	if !c.readSockaddr(c.Args[1], c.Args[2]) || s.family != unix.AF_INET && s.family != unix.AF_INET6 {
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
	err := unix.Bind(d.fd, kernelAddr(netip.AddrPortFrom(d.loopback(), want), d.domain))
	if (err == unix.EADDRINUSE || err == unix.EACCES) && want != 0 {
		if err == unix.EADDRINUSE {
			if _, held := c.l.sockets.holder(asked); held {
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
	c.l.sockets.put(d.inode, &sock{local: local, bound: bound})
	return value(0)
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
	holder, held := c.l.sockets.holder(port)
	if err := unix.Listen(d.fd, int(int32(c.Args[1]))); err != nil {
		return failWith(err)
	}
	if !held || holder == k.bound { // else another listener of the debuggee has the port, at another address
		k.stolen.Store(true) // a connection may come before the answer
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
	delete(c.l.sockets.moved, port)
	if k.bound.Port() != port {
		c.l.sockets.moved[port] = k.bound.Port()
	}
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

// holder tells where the debuggee's listener that has the target's port now is.
func (s *sockets) holder(port uint16) (at netip.AddrPort, held bool) {
	var holders []uint64
	s.mu.Lock()
	for inode, k := range s.byInode {
		if k.stolen.Load() && k.local.Port() == port {
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
// really is, if it is another one and to is this machine; else 0.
func (s *sockets) movedTo(to netip.AddrPort) uint16 {
	if s.some.Load() == 0 || !to.Addr().IsLoopback() && !to.Addr().IsUnspecified() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved[to.Port()]
}

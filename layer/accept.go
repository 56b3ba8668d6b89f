package layer

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// An accepted connection, taken from the kernel's queue.
type accepted struct {
	fd   int
	sock *sock
}

func quickAccept(c *call) bool {
	if c.l.sockets.some.Load() == 0 {
		return true
	}
	k := c.l.sockets.get(c.inode())
	return k == nil || !k.stolen.Load()
}

// slowAccept accepts for the debuggee, to tell it the real client. A connection
// that does not reach the debuggee waits for the next accept.
func slowAccept(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	k := c.l.sockets.get(d.inode)
	if k == nil {
		return carryOn
	}
	var a accepted
	for {
		var errno unix.Errno
		if a, errno = c.l.accept(k, d); errno == 0 {
			break
		} else if errno != unix.EAGAIN || d.async {
			return fail(errno)
		}
		switch c.wait(d, unix.POLLIN) {
		case callerGone:
			return answer{abandoned: true}
		case timeOver:
			return fail(unix.EAGAIN)
		}
	}
	keep := func(taken bool) {
		if taken {
			unix.Close(a.fd)
			return
		}
		k.mu.Lock()
		k.pending = append(k.pending, a)
		k.mu.Unlock()
	}
	ans = answer{hasFD: true, inject: a.fd, again: true, settle: keep}
	flags := 0
	if c.hook.Call == seccomp.Accept4 {
		flags = int(c.Args[3])
	}
	ans.cloexec = flags&unix.SOCK_CLOEXEC != 0
	if err := unix.SetNonblock(a.fd, flags&unix.SOCK_NONBLOCK != 0); err != nil {
		keep(false)
		return failWith(err)
	}
	if c.Args[1] != 0 {
		_, peer := c.l.names(a.sock)
		if !peer.IsValid() { // a connection of this machine
			peer = a.sock.source
		}
		c.l.tellFamily(k.local.Port(), peer, d.domain)
		writes, errno := c.writeSockaddr(peer, d.domain, c.Args[1], c.Args[2])
		if errno != 0 {
			keep(false)
			return fail(errno)
		}
		ans.writes = writes
	}
	return ans
}

// accept takes a connection if there is one, and never blocks: all accepts of
// a stolen port come through here, one at a time.
func (l *Layer) accept(k *sock, d *duplicate) (accepted, unix.Errno) {
	a, kept, errno := k.take(d)
	var st unix.Stat_t
	if errno == 0 && !kept && a.sock.source.Addr().IsLoopback() && unix.Fstat(a.fd, &st) == nil {
		l.sockets.put(st.Ino, a.sock)
	}
	return a, errno
}

// take takes one from those that are kept, else from the kernel.
func (k *sock) take(d *duplicate) (a accepted, kept bool, errno unix.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.pending) > 0 {
		a := k.pending[0]
		k.pending = k.pending[1:]
		return a, true, 0
	}
	if !d.async {
		poll := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
			return a, false, unix.EAGAIN
		}
	}
	fd, sa, err := unix.Accept4(d.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return a, false, asErrno(err)
	}
	return accepted{fd, &sock{source: addrPort(sa)}}, false, 0
}

// names are what the debuggee must see of k. Of a connection that it accepted
// they are asked for when it wants to know: many never do.
func (l *Layer) names(k *sock) (local, peer netip.AddrPort) {
	if k.source.IsValid() {
		k.ask.Do(func() { k.peer, k.local = l.peer(k.source) })
	}
	return k.local, k.peer
}

// tellFamily: who listens on IPv4 alone is connected to by clients of IPv6, too, as
// in the target nobody else would be, but there is no way to tell it of them.
func (l *Layer) tellFamily(port uint16, peer netip.AddrPort, domain int) {
	if domain == unix.AF_INET && peer.Addr().Is6() {
		l.tell(fmt.Sprintf("port %d: clients come over IPv6, and the debuggee listens on IPv4 alone: it sees them all as 0.0.0.0; "+
			"where it listens on [::] it sees who they are", port))
	}
}

// peer asks the daemon who is behind the connection from a loopback source.
// Not valid: it is a connection of this machine.
func (l *Layer) peer(from netip.AddrPort) (peer, local netip.AddrPort) {
	if !from.Addr().IsLoopback() {
		return
	}
	r := l.Daemon.call(&wire.Request{Op: wire.OpPeer, Addr: from})
	closeFD(r.fd)
	if r.Errno != 0 {
		return
	}
	return r.Addr, netip.AddrPortFrom(r.Addr2.Addr(), l.Policy.ListenerPort(r.Addr2.Port()))
}

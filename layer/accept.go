package layer

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
	"mirrord/protocol/socket"
)

// An accepted connection, taken from the kernel's queue.
type accepted struct {
	fd   int
	sock *sock
	kept bool // it was to be given before
}

// quickAccept: who does not ask for the client is given a connection by the kernel
// itself (see unasked), unless the debuggee has asked before: what an accept has taken
// and could not give is the next one's, whether that asks or not.
func quickAccept(c *call) bool {
	s := &c.l.sockets
	asks := c.Args[1] != 0
	if s.some.Load() == 0 || !asks && !s.asked.Load() {
		return true
	}
	k := s.get(c.socketInode())
	if k == nil || !k.stolen.Load() {
		return true
	}
	if asks {
		s.asked.Store(true)
	}
	return false
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
	for {
		switch a, errno := c.l.accept(k, d); {
		case errno == 0:
			if c.Args[1] != 0 {
				c.l.names(a.sock)
			}
			return c.hand(k, d.domain, a)
		case errno != unix.EAGAIN || d.async:
			return none(errno)
		}
		switch c.wait(d, unix.POLLIN) {
		case callerGone:
			return answer{abandoned: true}
		case timeOver:
			return fail(unix.EAGAIN)
		}
	}
}

// acceptNow is slowAccept in the receiver, for a call that need not wait: with nothing
// yet where a listener that blocks has no connection, and begun where the daemon is asked
// who the client is. From a listener that blocks another process, which is not served,
// may take the connection that is there: then the accept waits, and no receiver must.
func (c *call) acceptNow(f *flight) (ans answer, how progress) {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans, answered
	}
	defer d.close()
	k := c.l.sockets.get(d.inode)
	if k == nil {
		return carryOn, answered
	}
	if !d.async && c.l.serving.strangers.Load() {
		return ans, nothing
	}
	a, errno := c.l.accept(k, d)
	switch {
	case errno == unix.EAGAIN && !d.async:
		return ans, nothing
	case errno != 0:
		return none(errno), answered
	case c.Args[1] == 0 || !a.sock.delivered():
		return c.hand(k, d.domain, a), answered
	}
	domain := d.domain
	if !c.l.ask(a.sock.peerRequest(), func(r reply) {
		a.sock.ask.Do(func() { a.sock.peer, a.sock.local = c.l.peerOf(r) })
		// To give a descriptor takes until the debuggee's thread runs.
		c.l.team.Go(func() { c.l.finished(f, c.hand(k, domain, a)) })
	}) {
		k.keep(a)
		return ans, nothing
	}
	return ans, begun
}

// none says why there is no connection now: there may be one the next time.
func none(errno unix.Errno) answer { return answer{errno: errno, again: true} }

// hand gives the debuggee a connection of k's.
func (c *call) hand(k *sock, domain int, a accepted) answer {
	ans := answer{hasFD: true, inject: a.fd, again: true, settle: func(taken bool) {
		if taken {
			seccomp.Close(a.fd)
		} else {
			k.keep(a)
		}
	}}
	flags := 0
	if c.hook.Call == seccomp.Accept4 {
		flags = int(c.Args[3])
	}
	ans.cloexec = flags&unix.SOCK_CLOEXEC != 0
	if async := flags&unix.SOCK_NONBLOCK != 0; async || a.kept {
		if err := unix.SetNonblock(a.fd, async); err != nil {
			k.keep(a)
			return failWith(err)
		}
	}
	if c.Args[1] != 0 {
		peer := a.sock.peer
		if !peer.IsValid() { // a connection of this machine
			peer = a.sock.source
		}
		c.l.tellFamily(k.local.Port(), peer, domain)
		writes, errno := c.writeSockaddr(peer, domain, c.Args[1], c.Args[2])
		if errno != 0 {
			k.keep(a)
			return fail(errno)
		}
		ans.writes = writes
	}
	return ans
}

// accept takes a connection if there is one, and never blocks: all accepts of
// a stolen port come through here, one at a time, from the first that asks for the
// client. (Should one from before still wait in the kernel, at a listener that blocks,
// it could take the connection that is there. No program is known to do that.)
func (l *Layer) accept(k *sock, d *duplicate) (accepted, unix.Errno) {
	a, errno := k.take(d)
	var st unix.Stat_t
	if errno == 0 && !a.kept && a.sock.delivered() && rawFstat(a.fd, &st) == 0 {
		l.sockets.put(st.Ino, a.sock)
	}
	return a, errno
}

// take takes one from those that are kept, else from the kernel.
func (k *sock) take(d *duplicate) (a accepted, errno unix.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.pending) > 0 {
		a := k.pending[0]
		k.pending = k.pending[1:]
		return a, 0
	}
	if seccomp.Poll(d.fd, 0) == 0 { // if it does not block either: it may since we looked
		return a, unix.EAGAIN
	}
	fd, from, errno := socket.Accept4(d.fd, unix.SOCK_CLOEXEC)
	if errno != 0 {
		return a, errno
	}
	return accepted{fd: fd, sock: &sock{source: from}}, 0
}

// keep has a connection wait for the next accept.
func (k *sock) keep(a accepted) {
	a.kept = true
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = append(k.pending, a)
}

// delivered tells whether the daemon may have made a connection, and knows who is behind
// it: others are of this machine.
func (k *sock) delivered() bool { return k.source.Addr().IsLoopback() }

// unasked is a connection that the kernel gave the debuggee, as far as d is one.
func (l *Layer) unasked(d *duplicate) *sock {
	if !d.tcp() || !l.sockets.came(d.own()) {
		return nil
	}
	source, err := socket.PeerAddr(d.fd)
	if err != nil {
		return nil
	}
	k := &sock{source: source}
	if !k.delivered() {
		return nil
	}
	l.sockets.put(d.inode, k)
	return k
}

// names are what the debuggee must see of k. Of a connection that it accepted
// they are asked for when it wants to know: many never do.
func (l *Layer) names(k *sock) (local, peer netip.AddrPort) {
	if k.delivered() {
		k.ask.Do(func() { k.peer, k.local = l.peerOf(l.Daemon.call(k.peerRequest())) })
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

// peerRequest asks who is behind a connection.
func (k *sock) peerRequest() *wire.Request { return &wire.Request{Op: wire.OpPeer, Addr: k.source} }

// peerOf is what the reply tells. Not valid: it is a connection of this machine.
func (l *Layer) peerOf(r reply) (peer, local netip.AddrPort) {
	closeFD(r.fd)
	if r.Errno != 0 {
		return
	}
	return r.Addr, netip.AddrPortFrom(r.Addr2.Addr(), l.Policy.ListenerPort(r.Addr2.Port()))
}

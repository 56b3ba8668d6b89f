package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// quickName: a socket that nothing is known of is what it seems, unless it may be a
// connection that the kernel gave the debuggee. That is not for the receiver to see: to
// ask a connection for its address can take as long as a write(2) to it.
func quickName(c *call) bool {
	s := &c.l.sockets
	return !s.stole.Load() && (s.some.Load() == 0 || s.get(c.inode()) == nil)
}

// slowName tells what the debuggee must see, in its socket's own family.
func slowName(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	k := c.l.sockets.get(d.inode)
	if k == nil {
		k = c.l.unasked(d)
	}
	if k == nil {
		return carryOn
	}
	if k.connecting.Load() && d.closed() { // it came to nothing
		return carryOn
	}
	if c.hook.Call == seccomp.Getpeername { // the kernel says whether it is connected at all
		if _, err := unix.Getpeername(d.fd); err != nil {
			return failWith(err)
		}
	}
	a, peer := c.l.names(k)
	if c.hook.Call == seccomp.Getpeername {
		c.l.tellFamily(a.Port(), peer, d.domain)
		a = peer
	}
	if !a.IsValid() {
		return carryOn
	}
	writes, errno := c.writeSockaddr(a, d.domain, c.Args[1], c.Args[2])
	if errno != 0 {
		return fail(errno)
	}
	return answer{writes: writes, again: true}
}

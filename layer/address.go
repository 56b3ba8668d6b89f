package layer

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// sockaddr is an address argument of the debuggee.
type sockaddr struct {
	family uint16
	addr   netip.AddrPort // of the IP families and AF_UNSPEC, never IPv4 in IPv6 form
	path   string         // of AF_UNIX; abstract names begin with @
}

// minSockaddrInet6 is what the kernel takes: an address without scope (RFC 2133).
const minSockaddrInet6 = 24

// readSockaddr reads an address of size bytes into c.addr. False: the kernel
// will say what is wrong with it, unless c.doubt is set.
func (c *call) readSockaddr(ptr, size uint64) bool {
	var buf [unix.SizeofSockaddrAny]byte
	n := int32(size)
	if n < 2 || int(n) > len(buf)+16 || ptr == 0 {
		return false
	}
	b := buf[:min(int(n), len(buf))]
	if err := seccomp.Read(c.TID, ptr, b); err != nil {
		c.blame(err, memoryErrors)
		return false
	}
	s := &c.addr
	s.family = binary.LittleEndian.Uint16(b)
	switch s.family {
	case unix.AF_INET:
		if n < unix.SizeofSockaddrInet4 {
			return false
		}
		s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	case unix.AF_UNSPEC: // sent to, over IPv4, as if it were AF_INET
		if n >= unix.SizeofSockaddrInet4 {
			s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
		}
	case unix.AF_INET6:
		if n < minSockaddrInet6 {
			return false
		}
		s.addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[2:]))
	case unix.AF_UNIX:
		path := b[2:]
		if len(path) > 0 && path[0] == 0 {
			s.path = "@" + string(path[1:])
			break
		}
		for i, ch := range path {
			if ch == 0 {
				path = path[:i]
				break
			}
		}
		s.path = string(path)
	}
	return true
}

// writeSockaddr makes the writes that tell a as getsockname(2) tells it: as much
// as there is room for, and the size it would need.
func (c *call) writeSockaddr(a netip.AddrPort, domain int, ptr, sizePtr uint64) ([]memory, unix.Errno) {
	var have [4]byte
	if err := seccomp.Read(c.TID, sizePtr, have[:]); err != nil {
		return nil, unix.EFAULT
	}
	room := int32(binary.LittleEndian.Uint32(have[:]))
	if room < 0 {
		return nil, unix.EINVAL
	}
	b := encodeSockaddr(a, domain)
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	return []memory{{ptr, b[:min(len(b), int(room))]}, {sizePtr, size}}, 0
}

func encodeSockaddr(a netip.AddrPort, domain int) []byte {
	if domain == unix.AF_INET6 {
		b := make([]byte, unix.SizeofSockaddrInet6)
		binary.LittleEndian.PutUint16(b, unix.AF_INET6)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		ip := a.Addr().As16()
		copy(b[8:], ip[:])
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet4)
	binary.LittleEndian.PutUint16(b, unix.AF_INET)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if a.Addr().Unmap().Is4() {
		ip := a.Addr().Unmap().As4()
		copy(b[4:], ip[:])
	}
	return b
}

// kernelAddr is a in the form that a socket of domain takes.
func kernelAddr(a netip.AddrPort, domain int) unix.Sockaddr {
	if domain == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

package socket

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open makes a socket of TCP that does not block, for connections of an address's family.
func Open(of netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET6
	if of.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// Source is what to connect from to an address of loopback: of IPv4 a random one of the
// 16 million, since the ports of one, each kept for a minute (TIME_WAIT), are but some
// hundred connections a second. IPv6 has one.
func Source(to netip.Addr) netip.Addr {
	if !to.Is4() {
		return netip.IPv6Loopback()
	}
	n := rand.Uint32N(1<<24-2) + 1
	return netip.AddrFrom4([4]byte{127, byte(n >> 16), byte(n >> 8), byte(n)})
}

// Bind gives a socket an address of its own. Its error is bind(2)'s, as it is.
func Bind(fd int, addr netip.AddrPort) error {
	sa, err := sockaddrOf(addr)
	if err != nil {
		return err
	}
	if errno := sa.call(unix.SYS_BIND, fd); errno != 0 {
		return errno
	}
	return nil
}

// Connect connects a socket that does not block, which is from's if that is valid, and
// owns it: if it fails the socket is closed. patience 0: as long as the kernel has it.
//
// Within one kernel a connection is made, or refused, when connect(2) returns, though
// it says EINPROGRESS: the second call tells.
func Connect(ctx context.Context, fd int, from, to netip.AddrPort, patience time.Duration) (*TCP, error) {
	sa, err := sockaddrOf(to)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = setOption(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
	errno := sa.call(unix.SYS_CONNECT, fd)
	if errno == unix.EINPROGRESS {
		errno = sa.call(unix.SYS_CONNECT, fd)
	}
	waits := errno == unix.EALREADY
	if errno != 0 && !waits {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", errno)
	}
	c, err := Adopt(fd, from, to)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if waits {
		err = c.connected(ctx, sa, patience)
	}
	if err == nil && !from.IsValid() {
		err = c.control(func(fd int) (err error) { c.local, err = LocalAddr(fd); return err })
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connected waits until connect(2), which was begun, is over.
func (c *TCP) connected(ctx context.Context, to *sockaddr, patience time.Duration) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if patience > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		defer c.SetWriteDeadline(time.Time{})
	}
	var errno unix.Errno
	if err := c.raw.Write(func(fd uintptr) bool {
		errno = to.call(unix.SYS_CONNECT, int(fd))
		return errno != unix.EALREADY && errno != unix.EINPROGRESS && errno != unix.EINTR
	}); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	if errno != 0 && errno != unix.EISCONN {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}

// A Listener accepts connections of TCP from this machine.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
	addr netip.AddrPort
}

// Listen listens on an address. Its connections are doomed (SO_LINGER, socket(7)):
// they are reset, unless SetLinger says otherwise, even if this process is killed.
// They are closed late.
func Listen(addr netip.AddrPort) (*Listener, error) {
	fd, err := Open(addr)
	if err != nil {
		return nil, err
	}
	// They have these from their listener.
	err = errors.Join(setOption(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1), setLinger(fd, 0))
	if err == nil {
		err = os.NewSyscallError("bind", Bind(fd, addr))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	var at netip.AddrPort
	if err == nil {
		at, err = LocalAddr(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening on %v: %w", addr, err)
	}
	l := &Listener{file: os.NewFile(uintptr(fd), "listener"), addr: at}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// Addr is where it listens.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Close makes Accept return net.ErrClosed.
func (l *Listener) Close() error { return l.file.Close() }

// Accept waits for a connection.
func (l *Listener) Accept() (*TCP, error) {
	var n int
	var from netip.AddrPort
	var errno unix.Errno
	if l.raw.Read(func(fd uintptr) bool {
		for {
			n, from, errno = Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if errno != unix.EINTR && errno != unix.ECONNABORTED {
				return errno != unix.EAGAIN
			}
		}
	}) != nil {
		return nil, net.ErrClosed
	}
	if errno != 0 {
		return nil, os.NewSyscallError("accept4", errno)
	}
	c, err := Adopt(n, l.addr, from)
	if err != nil {
		unix.Close(n)
		return nil, err
	}
	c.resets.Store(true)
	return c.CloseLate(), nil
}

// Accept4 is accept4(2) where that need not wait, and tells who connected.
func Accept4(listener, flags int) (fd int, from netip.AddrPort, errno unix.Errno) {
	var sa unix.RawSockaddrAny
	size := unix.SizeofSockaddrAny
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
		uintptr(flags), 0, 0)
	if errno != 0 {
		return -1, from, errno
	}
	return int(n), addrPort(&sa), 0
}

// A sockaddr is an address as the kernel has it.
type sockaddr struct {
	of   unix.RawSockaddrInet6 // or, of the same or smaller size, a RawSockaddrInet4
	size uintptr
}

func sockaddrOf(a netip.AddrPort) (*sockaddr, error) {
	s := &sockaddr{size: unix.SizeofSockaddrInet6}
	port := (*[2]byte)(unsafe.Pointer(&s.of.Port)) // where both have it
	binary.BigEndian.PutUint16(port[:], a.Port())
	if a.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.of))
		v4.Family, v4.Addr, s.size = unix.AF_INET, a.Addr().As4(), unix.SizeofSockaddrInet4
		return s, nil
	}
	s.of.Family, s.of.Addr = unix.AF_INET6, a.Addr().As16()
	if zone := a.Addr().Zone(); zone != "" {
		ifc, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("finding interface %s: %w", zone, err)
		}
		s.of.Scope_id = uint32(ifc.Index)
	}
	return s, nil
}

// disconnect makes a socket one that was never connected (connect(2)): a connection is reset.
func disconnect(fd int) {
	var unspecified sockaddr // AF_UNSPEC
	unspecified.size = unix.SizeofSockaddrInet4
	_ = unspecified.call(unix.SYS_CONNECT, fd)
}

// call is bind(2) or connect(2) of a socket that does not block.
func (s *sockaddr) call(trap uintptr, fd int) unix.Errno {
	_, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&s.of)), s.size)
	return errno
}

func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	v6 := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&v6.Port))[:])
	switch sa.Addr.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16(v6.Addr).Unmap()
		if ifc, err := net.InterfaceByIndex(int(v6.Scope_id)); v6.Scope_id != 0 && err == nil {
			addr = addr.WithZone(ifc.Name)
		}
		return netip.AddrPortFrom(addr, port)
	}
	return netip.AddrPort{}
}

// LocalAddr is a socket's own address.
func LocalAddr(fd int) (netip.AddrPort, error) {
	var sa unix.RawSockaddrAny
	size := unix.SizeofSockaddrAny
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", errno)
	}
	return addrPort(&sa), nil
}

// PeerAddr is the address that a socket is connected to, or was before its connection
// was reset: of that getpeername(2) knows none (SO_PEERNAME: sk_getsockopt in
// net/core/sock.c, which wants no more room than there is address).
func PeerAddr(fd int) (netip.AddrPort, error) {
	var sa unix.RawSockaddrAny
	errno := unix.EINVAL
	for _, size := range []int{unix.SizeofSockaddrInet6, unix.SizeofSockaddrInet4} {
		_, _, errno = unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERNAME,
			uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != unix.EINVAL {
			break
		}
	}
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockopt", errno)
	}
	return addrPort(&sa), nil
}

func setOption(fd, level, name, value int) error {
	v := int32(value)
	return setsockopt(fd, level, name, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

// setLinger is as net.TCPConn.SetLinger.
func setLinger(fd, sec int) error {
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	return setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&l), unsafe.Sizeof(l))
}

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0); errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

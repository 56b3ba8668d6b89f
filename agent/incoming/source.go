package incoming

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/socket"
)

// The kernel keeps a port for waitTime after its connection (TIME_WAIT). The
// next one from there is told apart by its timestamps, which have surely grown
// after restTime.
const (
	waitTime = time.Minute
	restTime = time.Second
)

// sources are what our connections to the pod come from. One that is over is
// used again, before the kernel would: in TIME_WAIT it is taken from the pod,
// too, which at a few hundred connections a second would have none left.
type sources struct {
	mu   sync.Mutex
	used map[netip.AddrPort]bool // guarded by mu
	over map[netip.Addr][]spent  // guarded by mu; oldest first
}

// A spent source's connection is over.
type spent struct {
	port  uint16
	since time.Time
}

// errTwice is why another socket should be tried: the kernel gave this one a port
// that is another's.
var errTwice = fmt.Errorf("port was given twice: %w", unix.EADDRINUSE)

// Bind binds a socket to a port of addr that no other connection of ours has,
// until it is released; a fresh one has had none for a while.
func (s *sources) Bind(fd int, addr netip.Addr, fresh bool) (netip.AddrPort, error) {
	// Both sockets of a port must say that they share it with TIME_WAIT.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return netip.AddrPort{}, fmt.Errorf("sharing port with TIME_WAIT: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh && s.again(fd, addr, restTime) {
		return s.use(fd)
	}
	err := socket.Bind(fd, netip.AddrPortFrom(addr, 0))
	if err == unix.EADDRINUSE && !fresh && s.again(fd, addr, 0) {
		return s.use(fd)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("binding to %v: %w", addr, err)
	}
	return s.use(fd)
}

// again binds to a port of addr whose connection is over for so long.
func (s *sources) again(fd int, addr netip.Addr, rest time.Duration) bool {
	for list := s.over[addr]; len(list) > 0 && time.Since(list[0].since) >= rest; list = s.over[addr] {
		s.over[addr] = list[1:]
		from := netip.AddrPortFrom(addr, list[0].port)
		if !s.used[from] && socket.Bind(fd, from) == nil {
			return true
		}
	}
	return false
}

// use notes what a socket was bound to.
func (s *sources) use(fd int) (netip.AddrPort, error) {
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var from netip.AddrPort
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port))
	case *unix.SockaddrInet6:
		from = netip.AddrPortFrom(netip.AddrFrom16(b.Addr), uint16(b.Port))
	default:
		return netip.AddrPort{}, fmt.Errorf("socket bound to %T: %w", bound, unix.EAFNOSUPPORT)
	}
	if s.used[from] { // closed, not released yet; or ip_autobind_reuse
		return netip.AddrPort{}, fmt.Errorf("binding to %v: %w", from, errTwice)
	}
	s.used[from] = true
	return from, nil
}

// Release says that the connection from a source is closed.
func (s *sources) Release(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, from)
	now := time.Now()
	for addr, list := range s.over {
		for len(list) > 0 && now.Sub(list[0].since) > waitTime {
			list = list[1:]
		}
		if s.over[addr] = list; len(list) == 0 {
			delete(s.over, addr)
		}
	}
	s.over[from.Addr()] = append(s.over[from.Addr()], spent{from.Port(), now})
}

// has tells whether a connection of ours comes from there.
func (s *sources) has(from netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used[from]
}

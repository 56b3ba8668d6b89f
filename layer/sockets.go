package layer

import (
	"bufio"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// A sock is what the debuggee must see of a socket that is not what it seems.
type sock struct {
	local netip.AddrPort // as getsockname tells it; not valid: the socket's own
	peer  netip.AddrPort // as getpeername tells it
	udp   bool           // sends to endpoints of the daemon
	born  time.Time

	bound  netip.AddrPort // a listener: where it really is
	stolen atomic.Bool    // its port is, by OpListen

	mu      sync.Mutex // serializes accept and recvfrom
	pending []accepted // taken from the kernel, not by the debuggee; guarded by mu
}

// sockets knows the debuggee's sockets by inode, which survives dup, fork and
// passing, so that neither close nor dup need be hooked.
type sockets struct {
	some atomic.Int64 // len(byInode), for the receiver

	mu       sync.Mutex
	byInode  map[uint64]*sock                  // guarded by mu
	sweepAt  int                               // guarded by mu
	moved    map[uint16]uint16                 // wanted port: port of loopback where it is another; guarded by mu
	endpoint map[datagramKey]netip.AddrPort    // of UDP destinations; guarded by mu
	remote   map[netip.AddrPort]netip.AddrPort // the way back; guarded by mu
}

const firstSweep = 4096

func (s *sockets) init() {
	s.byInode, s.moved, s.sweepAt = make(map[uint64]*sock), make(map[uint16]uint16), firstSweep
	s.endpoint, s.remote = make(map[datagramKey]netip.AddrPort), make(map[netip.AddrPort]netip.AddrPort)
}

func (s *sockets) get(inode uint64) *sock {
	if inode == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byInode[inode]
}

func (s *sockets) put(inode uint64, k *sock) {
	k.born = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byInode[inode] = k
	if len(s.byInode) >= s.sweepAt {
		s.sweep()
		s.sweepAt = max(firstSweep, 2*len(s.byInode))
	}
	s.some.Store(int64(len(s.byInode)))
}

func (s *sockets) drop(inode uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.byInode[inode]; k != nil {
		delete(s.byInode, inode)
		k.close()
	}
	s.some.Store(int64(len(s.byInode)))
}

// sweepAge spares a socket that is not yet, or just now, in the kernel's list.
const sweepAge = time.Minute

// sweep forgets sockets that are closed; mu is held.
func (s *sockets) sweep() {
	alive, err := socketInodes()
	if err != nil {
		return
	}
	for inode, k := range s.byInode {
		if !alive[inode] && time.Since(k.born) > sweepAge {
			delete(s.byInode, inode)
			k.close()
		}
	}
}

// close ends the connections nobody came for.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.byInode {
		k.close()
	}
	clear(s.byInode)
}

func (k *sock) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.pending {
		unix.Close(a.fd)
	}
	k.pending = nil
}

// socketInodes lists the machine's IP sockets that are connected or listen.
func socketInodes() (map[uint64]bool, error) {
	alive := make(map[uint64]bool)
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/net/" + name)
		if err != nil {
			if os.IsNotExist(err) && strings.HasSuffix(name, "6") {
				continue
			}
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			const inodeField = 9
			if fields := strings.Fields(lines.Text()); len(fields) > inodeField {
				if inode, err := strconv.ParseUint(fields[inodeField], 10, 64); err == nil {
					alive[inode] = true
				}
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return alive, nil
}

// inode returns the inode of the socket the caller has as fd, 0 if it is none.
func (c *call) inode(fd int32) uint64 {
	text, err := os.Readlink(c.proc("fd/" + strconv.Itoa(int(fd))))
	if err != nil {
		return 0
	}
	number, ok := strings.CutPrefix(text, "socket:[")
	if !ok {
		return 0
	}
	inode, _ := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return inode
}

// A duplicate is our descriptor of a socket of the debuggee.
type duplicate struct {
	fd     int
	inode  uint64
	domain int // AF_INET, AF_INET6, …
	typ    int // SOCK_STREAM, SOCK_DGRAM, …
	proto  int
	only6  bool // IPV6_V6ONLY
	async  bool // O_NONBLOCK
}

// duplicate opens the socket that the caller has as fd. The answer is for the
// case that it cannot: an error of ours becomes EIO, never Continue.
func (c *call) duplicate(fd int32) (d *duplicate, ans answer, ok bool) {
	n, err := seccomp.Duplicate(c.TID, fd)
	switch err {
	case nil:
	case unix.EBADF: // the caller's mistake: the kernel tells it the same
		return nil, carryOn, false
	default:
		c.l.log.Error("duplicating a socket of the debuggee", "err", err)
		if err == unix.EPERM || err == unix.ENOSYS {
			c.l.tell("the debuggee's sockets cannot be reached (pidfd_getfd: " + err.Error() + "): CAP_SYS_PTRACE is missing, or the kernel is older than 5.6")
		}
		return nil, fail(unix.EIO), false
	}
	d = &duplicate{fd: n}
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		d.close()
		return nil, carryOn, false
	}
	d.inode = st.Ino
	d.domain, _ = unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_DOMAIN)
	d.typ, _ = unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_TYPE)
	d.proto, _ = unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if d.domain == unix.AF_INET6 {
		v, _ := unix.GetsockoptInt(n, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		d.only6 = v != 0
	}
	flags, _ := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	d.async = flags&unix.O_NONBLOCK != 0
	return d, answer{}, true
}

func (d *duplicate) close() { unix.Close(d.fd) }

func (d *duplicate) inet() bool { return d.domain == unix.AF_INET || d.domain == unix.AF_INET6 }

// tcp: Go's listeners are MPTCP, which is TCP to everybody else.
func (d *duplicate) tcp() bool {
	return d.inet() && d.typ == unix.SOCK_STREAM && (d.proto == unix.IPPROTO_TCP || d.proto == unix.IPPROTO_MPTCP)
}

func (d *duplicate) udp() bool {
	return d.inet() && d.typ == unix.SOCK_DGRAM && d.proto == unix.IPPROTO_UDP
}

// loopback returns the loopback address that d can use, as the kernel takes it:
// an IPv6 socket that also does IPv4 uses IPv4's in its IPv6 form.
func (d *duplicate) loopback() netip.Addr {
	if d.only6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// own returns the address of d, without IPv6's form of an IPv4 address.
func (d *duplicate) own() netip.AddrPort {
	sa, err := unix.Getsockname(d.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

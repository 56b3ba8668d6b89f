package layer

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	"mirrord/protocol/socket"
)

// A sock is what the debuggee must see of a socket that is not what it seems.
type sock struct {
	local netip.AddrPort // as getsockname tells it; not valid: the socket's own
	peer  netip.AddrPort // as getpeername tells it
	udp   bool           // sends to endpoints of the daemon
	born  time.Time

	source netip.AddrPort // of an accepted connection: the daemon knows local and peer by it
	ask    sync.Once      // for them

	endpoint   netip.AddrPort // what it connects to in the daemon's stead of peer
	connecting atomic.Bool    // it does not block, and the debuggee may not know the outcome yet

	bound  netip.AddrPort // a listener: where it really is
	reuse  bool           // it is to have SO_REUSEADDR when it listens
	stolen atomic.Bool    // its port is, or is mirrored, by OpListen

	// receiving is held by a recvfrom until the debuggee has its datagram, which
	// is at once or never: such an answer is not kept. Lock order: receiving,
	// then flight.mu.
	receiving sync.Mutex

	mu      sync.Mutex // serializes accept; lock order: flight.mu, then mu, then sockets.mu
	pending []accepted // taken from the kernel, not by the debuggee; guarded by mu
}

// sockets knows the debuggee's sockets by inode, which survives dup, fork and
// passing, so that neither close nor dup need be hooked.
type sockets struct {
	some   atomic.Int64 // len(byInode), for the receiver
	stole  atomic.Bool  // doors has any
	asked  atomic.Bool  // an accept of a stolen port has asked for the client
	sweeps sync.WaitGroup

	mu       sync.Mutex                        // the receiver takes it: nothing waits under it, no lock is taken under it
	byInode  map[uint64]*sock                  // guarded by mu
	sweepAt  int                               // guarded by mu
	doors    map[netip.AddrPort]struct{}       // where listeners are, or were, that have a port of the target; guarded by mu
	moved    map[netip.AddrPort]uint16         // by loopback address and wanted port: the port there that a listener has; guarded by mu
	endpoint map[datagramKey]netip.AddrPort    // of UDP destinations; guarded by mu
	remote   map[netip.AddrPort]netip.AddrPort // the way back; guarded by mu
	daemons  int                               // how many there were whose endpoints are forgotten; guarded by mu
}

const firstSweep = 4096

func (s *sockets) init() {
	s.byInode, s.moved, s.sweepAt = make(map[uint64]*sock), make(map[netip.AddrPort]uint16), firstSweep
	s.doors = make(map[netip.AddrPort]struct{})
	s.endpoint, s.remote = make(map[datagramKey]netip.AddrPort), make(map[netip.AddrPort]netip.AddrPort)
}

// forgetEndpoints: those of a daemon that is gone.
func (s *sockets) forgetEndpoints() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.endpoint)
	clear(s.remote)
	s.daemons++
}

func (s *sockets) get(inode uint64) *sock {
	if inode == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byInode[inode]
}

// opened notes where a listener is to whom the daemon connects.
func (s *sockets) opened(door netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors[door] = struct{}{}
	s.stole.Store(true)
}

// came tells whether a connection that has the local address at came to such a listener.
func (s *sockets) came(at netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.doors[at]
	return ok
}

func (s *sockets) put(inode uint64, k *sock) {
	k.born = time.Now()
	s.mu.Lock()
	s.byInode[inode] = k
	s.some.Store(int64(len(s.byInode)))
	sweep := len(s.byInode) >= s.sweepAt
	if sweep {
		s.sweepAt = 2 * len(s.byInode)
	}
	s.mu.Unlock()
	if sweep { // which takes long where there are many
		s.sweeps.Go(s.sweep)
	}
}

// forget is drop for a socket that never listened, and so has nothing to close.
func (s *sockets) forget(inode uint64) *sock {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.byInode[inode]
	delete(s.byInode, inode)
	s.some.Store(int64(len(s.byInode)))
	return k
}

func (s *sockets) drop(inode uint64) {
	if k := s.forget(inode); k != nil {
		k.close()
	}
}

// sweepAge spares a socket that is not yet, or just now, in the kernel's list.
const sweepAge = time.Minute

// sweep forgets sockets that are closed.
func (s *sockets) sweep() {
	alive, err := socketInodes()
	if err != nil {
		return
	}
	var closed []*sock
	s.mu.Lock()
	for inode, k := range s.byInode {
		if !alive[inode] && time.Since(k.born) > sweepAge {
			delete(s.byInode, inode)
			closed = append(closed, k)
		}
	}
	s.some.Store(int64(len(s.byInode)))
	s.sweepAt = max(firstSweep, 2*len(s.byInode))
	s.mu.Unlock()
	for _, k := range closed {
		k.close()
	}
}

// close ends the connections nobody came for.
func (s *sockets) close() {
	s.sweeps.Wait()
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.byInode))
	clear(s.byInode)
	s.mu.Unlock()
	for _, k := range all {
		k.close()
	}
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

// inode returns the inode of the socket that is the call's first argument, 0 if
// it is none or c.doubt is set.
func (c *call) inode() uint64 {
	if c.socket != 0 {
		return c.socket
	}
	var buf [64]byte // more than a socket's
	text, errno := rawReadlink(c.proc("fd/"+strconv.Itoa(int(int32(c.Args[0])))), buf[:])
	if errno != 0 {
		c.blame(errno, descriptorErrors)
		return 0
	}
	number, ok := strings.CutPrefix(text, "socket:[")
	if !ok {
		return 0
	}
	var err error
	c.socket, err = strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	if err != nil {
		c.doubt = err
	}
	return c.socket
}

// socketInode is inode of what is a socket, or the call fails: it is read from a
// duplicate, which takes a third as long as to read /proc.
func (c *call) socketInode() uint64 {
	if c.socket != 0 {
		return c.socket
	}
	n, err := c.l.listener.Duplicate(c.TID, int32(c.Args[0]))
	if err != nil {
		return c.inode()
	}
	if _, errno := rawOption(n, unix.SOL_SOCKET, unix.SO_DOMAIN); errno != 0 {
		c.l.team.Go(func() { unix.Close(n) }) // which waits for some files
		return 0
	}
	var st unix.Stat_t
	if rawFstat(n, &st) == 0 {
		c.socket = st.Ino
	}
	seccomp.Close(n)
	return c.inode()
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
	n, err := c.l.listener.Duplicate(c.TID, fd)
	switch err {
	case nil:
	case unix.EBADF, unix.ESRCH: // the caller's mistake, which the kernel tells it; it is gone
		return nil, carryOn, false
	default:
		c.l.log.Error("duplicating a socket of the debuggee", "err", err)
		if err == unix.EPERM || err == unix.ENOSYS {
			c.l.tell("the debuggee's sockets cannot be reached (pidfd_getfd: " + err.Error() + "): CAP_SYS_PTRACE is missing, or the kernel is older than 5.6")
		}
		return nil, fail(unix.EIO), false
	}
	d = &duplicate{fd: n}
	err = d.look()
	if err == nil {
		return d, answer{}, true
	}
	unix.Close(n) // which waits for some files
	if errors.Is(err, unix.ENOTSOCK) {
		return nil, carryOn, false // and the kernel says so
	}
	c.l.log.Error("looking at a socket of the debuggee", "err", err)
	return nil, fail(unix.EIO), false
}

// look finds out what d is. ENOTSOCK: not a socket.
func (d *duplicate) look() error {
	var only6 int
	for _, o := range []struct {
		level, name int
		value       *int
	}{
		{unix.SOL_SOCKET, unix.SO_DOMAIN, &d.domain},
		{unix.SOL_SOCKET, unix.SO_TYPE, &d.typ},
		{unix.SOL_SOCKET, unix.SO_PROTOCOL, &d.proto},
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, &only6},
	} {
		if o.level == unix.IPPROTO_IPV6 && d.domain != unix.AF_INET6 {
			continue
		}
		var errno unix.Errno
		if *o.value, errno = rawOption(d.fd, o.level, o.name); errno != 0 {
			return fmt.Errorf("reading socket option %d: %w", o.name, errno)
		}
	}
	d.only6 = only6 != 0
	flags, errno := rawFlags(d.fd)
	if errno != 0 {
		return fmt.Errorf("reading socket flags: %w", errno)
	}
	d.async = flags&unix.O_NONBLOCK != 0
	var st unix.Stat_t
	if errno := rawFstat(d.fd, &st); errno != 0 {
		return fmt.Errorf("reading inode: %w", errno)
	}
	d.inode = st.Ino
	return nil
}

func (d *duplicate) close() { seccomp.Close(d.fd) }

func (d *duplicate) inet() bool { return d.domain == unix.AF_INET || d.domain == unix.AF_INET6 }

// tcp: Go's listeners are MPTCP, which is TCP to everybody else.
func (d *duplicate) tcp() bool {
	return d.inet() && d.typ == unix.SOCK_STREAM && (d.proto == unix.IPPROTO_TCP || d.proto == unix.IPPROTO_MPTCP)
}

func (d *duplicate) udp() bool {
	return d.inet() && d.typ == unix.SOCK_DGRAM && d.proto == unix.IPPROTO_UDP
}

// closed tells whether d is a TCP socket without a connection, as after one that failed.
func (d *duplicate) closed() bool {
	const tcpClose = 7 // TCP_CLOSE
	info, err := unix.GetsockoptTCPInfo(d.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpClose
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
	addr, err := socket.LocalAddr(d.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addr
}

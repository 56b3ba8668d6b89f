package incoming

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Of a port's connections that were there before, those are idle on which nothing
// is on its way, the pod has spoken last, and nobody for quiet. What becomes idle
// later is looked for as often. The kernel's clock ticks in 1 to 10 ms: who asks
// again that soon after an answer, and then waits for longer, as some that poll do,
// is idle to us.
const quiet = time.Second

// flush cuts those of the port's connections that were there before ctx's hold: so
// that their clients connect anew, and to whom the port now belongs. It goes on until
// none is left, or ctx is done. first is called when all have been looked at once.
func (s *Steal) flush(ctx context.Context, which string, first func()) {
	defer first()
	if which == protocol.FlushOff {
		return
	}
	log := s.in.log.With("port", s.port)
	before, err := s.in.strangers(s.port)
	cut := 0
	for err == nil && len(before) > 0 {
		for cookie, c := range before {
			if !c.accepted() || which != protocol.FlushAll && !c.idle() {
				continue
			}
			delete(before, cookie)
			if err = c.destroy(); errors.Is(err, unix.ENOENT) { // it has ended
				err = nil
				continue
			}
			if err != nil {
				break
			}
			cut++
		}
		if err != nil || len(before) == 0 {
			break
		}
		first()
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			log.Info("connections of before cut", "count", cut, "left", len(before))
			return
		}
		var now map[uint64]*established
		now, err = s.in.strangers(s.port)
		for cookie := range before {
			if c := now[cookie]; c != nil {
				before[cookie] = c
			} else {
				delete(before, cookie)
			}
		}
	}
	if err != nil {
		log.Warn("cutting connections of before", "err", fmt.Errorf("%w (it needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY)", err))
	} else if cut > 0 {
		log.Info("connections of before cut", "count", cut)
	}
}

// strangers are a port's connections that are not ours, by their cookies. Of those
// that nobody has accepted some may still become ours.
func (in *Incoming) strangers(port uint16) (map[uint64]*established, error) {
	all := map[uint64]*established{}
	if err := dump(port, liveStates, func(c *established) { all[c.cookie()] = c }); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, nil
	}
	// Looked up later than the connections: what was ours and is closed is gone.
	ours, err := ownSockets()
	if err != nil {
		return nil, err
	}
	for cookie, c := range all {
		if c.accepted() && ours[c.inode()] || in.ours(c.remote()) {
			delete(all, cookie)
		}
	}
	return all, nil
}

// ownSockets are the inodes of this process's sockets.
func ownSockets() (map[uint32]bool, error) {
	const dir = "/proc/self/fd"
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing own sockets: %w", err)
	}
	all := map[uint32]bool{}
	for _, e := range list {
		link, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			continue // it was closed
		}
		if number, ok := strings.CutPrefix(link, "socket:["); ok {
			inode, _ := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
			all[uint32(inode)] = true
		}
	}
	return all, nil
}

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDestroy  = 21
	diagID       = 48 // inet_diag_sockid: ports 2 2, addresses 16 16, interface 4, cookie 8
	diagHead     = 4  // family, state, timer, retransmissions
	diagMessage  = diagHead + diagID + 20
	diagInode    = diagMessage - 4
	diagQueues   = diagHead + diagID + 4 // read 4, write 4
	attrTCPInfo  = 2
	liveStates   = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_CLOSE_WAIT
	otherStates  = 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSING | 1<<unix.BPF_TCP_LAST_ACK
	requestStart = 8 // family, protocol, attributes, pad, states
)

// established is a connection as the kernel tells of it: an inet_diag_msg.
type established struct {
	message []byte
	info    unix.TCPInfo
}

// dump tells of a port's connections that are in some states.
func dump(port uint16, states uint32, each func(*established)) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := dumpFamily(family, port, states, each); err != nil {
			return err
		}
	}
	return nil
}

func dumpFamily(family byte, port uint16, states uint32, each func(*established)) error {
	request := make([]byte, requestStart+diagID)
	request[0], request[1], request[2] = family, unix.IPPROTO_TCP, 1<<(attrTCPInfo-1)
	binary.NativeEndian.PutUint32(request[4:], states)
	binary.BigEndian.PutUint16(request[requestStart:], port)
	q := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	q.AddRawData(request)
	answers, err := q.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return fmt.Errorf("listing connections to port %d: %w", port, err)
	}
	for _, b := range answers {
		if len(b) < diagMessage || binary.BigEndian.Uint16(b[diagHead:]) != port {
			continue
		}
		attrs, err := nl.ParseRouteAttr(b[diagMessage:])
		if err != nil {
			return fmt.Errorf("listing connections to port %d: %w", port, err)
		}
		c := &established{message: b}
		for _, a := range attrs {
			if a.Attr.Type == attrTCPInfo { // a newer kernel says more, an older one less
				copy((*[unsafe.Sizeof(c.info)]byte)(unsafe.Pointer(&c.info))[:], a.Value)
			}
		}
		each(c)
	}
	return nil
}

// A finder asks the kernel for single connections. Its socket is kept, as a new one
// takes more time than to ask.
type finder struct {
	fd       int
	sequence uint32
	answer   [4 << 10]byte
}

func newFinder() (*finder, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("opening sock_diag: %w", err)
	}
	return &finder{fd: fd}, nil
}

func (f *finder) Close() error { return unix.Close(f.fd) }

// Has tells whether the pod has a connection with a client, whoever's it is.
func (f *finder) Has(pod, client netip.AddrPort) (bool, error) {
	found, err := f.find(pod, client)
	if err != nil {
		return false, fmt.Errorf("looking for a connection from %v to %v: %w", client, pod, err)
	}
	return found, nil
}

func (f *finder) find(pod, client netip.AddrPort) (bool, error) {
	f.sequence++
	const size = unix.NLMSG_HDRLEN + requestStart + diagID
	request := make([]byte, size)
	binary.NativeEndian.PutUint32(request, size)
	binary.NativeEndian.PutUint16(request[4:], nl.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(request[8:], f.sequence)
	body := request[unix.NLMSG_HDRLEN:]
	body[0], body[1] = familyOf(pod), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], ^uint32(0)) // in any state
	id := body[requestStart:]
	binary.BigEndian.PutUint16(id, pod.Port())
	binary.BigEndian.PutUint16(id[2:], client.Port())
	copy(id[4:], pod.Addr().AsSlice())
	copy(id[20:], client.Addr().AsSlice())
	copy(id[40:], bytes.Repeat([]byte{0xff}, 8)) // of any interface, whatever its cookie
	if err := unix.Sendto(f.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, err
	}
	for { // the kernel has answered already
		n, _, err := unix.Recvfrom(f.fd, f.answer[:], unix.MSG_DONTWAIT)
		if err != nil {
			return false, err
		}
		b := f.answer[:n]
		switch {
		case n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint32(b[8:]) != f.sequence: // of one before, which failed
			continue
		case binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR:
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])))
			if errno == unix.ENOENT {
				return false, nil
			}
			return false, errno
		}
		b = b[unix.NLMSG_HDRLEN:] // a listener's where there is no connection
		return len(b) >= diagMessage && binary.BigEndian.Uint16(b[diagHead+2:]) == client.Port(), nil
	}
}

func (c *established) id() []byte     { return c.message[diagHead : diagHead+diagID] }
func (c *established) cookie() uint64 { return binary.NativeEndian.Uint64(c.id()[diagID-8:]) }
func (c *established) inode() uint32  { return binary.NativeEndian.Uint32(c.message[diagInode:]) }

// accepted connections are a socket's: they have its inode.
func (c *established) accepted() bool { return c.inode() != 0 }

func (c *established) local() netip.AddrPort  { return c.end(c.id(), c.id()[4:20]) }
func (c *established) remote() netip.AddrPort { return c.end(c.id()[2:], c.id()[20:36]) }

func (c *established) end(port, ip []byte) netip.AddrPort {
	if c.message[0] == unix.AF_INET {
		ip = ip[:4]
	}
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(port))
}

func (c *established) idle() bool {
	queues := c.message[diagQueues:][:8]
	i := &c.info
	if i.Bytes_received > 0 && i.Bytes_acked == 0 { // the first answer is still to come
		return false
	}
	return binary.NativeEndian.Uint64(queues) == 0 && i.Unacked == 0 && i.Notsent_bytes == 0 &&
		i.Last_data_sent <= i.Last_data_recv && time.Duration(i.Last_data_sent)*time.Millisecond >= quiet
}

// destroy resets the connection, for both ends.
func (c *established) destroy() error {
	request := make([]byte, requestStart, requestStart+diagID)
	request[0], request[1] = c.message[0], unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], liveStates)
	q := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	q.AddRawData(append(request, c.id()...))
	if _, err := q.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
		return fmt.Errorf("cutting the connection from %v: %w", c.remote(), err)
	}
	return nil
}

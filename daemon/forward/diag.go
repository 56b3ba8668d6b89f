package forward

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20
	requestSize      = unix.NLMSG_HDRLEN + 56 // inet_diag_req_v2
	answerSize       = unix.NLMSG_HDRLEN + 72 // inet_diag_msg
	anyCookie        = ^uint64(0)
)

// asker is the socket that lookup asks by; there is one for all, as to open it
// costs as much as to ask.
var asker struct {
	mu   sync.Mutex
	open bool // guarded by mu
	fd   int  // guarded by mu
}

// lookup asks the kernel for the TCP socket that would get a packet from remote
// to local: a connection, else a listener. It costs microseconds however many
// sockets there are, where /proc/net/tcp costs milliseconds.
func lookup(local, remote netip.AddrPort) (row, error) {
	a := &asker
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.open {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return row{}, fmt.Errorf("opening sock_diag: %w", err)
		}
		a.open, a.fd = true, fd
	}
	var b [512]byte
	n, err := ask(a.fd, lookupRequest(local, remote), b[:])
	if err != nil { // an answer may still come, and is not the next question's
		a.open = false
		unix.Close(a.fd)
		return row{}, fmt.Errorf("asking sock_diag: %w", err)
	}
	return parseLookup(b[:n])
}

// ask sends a question to the kernel, which answers before that returns: neither
// call can wait, and Go's scheduler need not be told (see package socket).
func ask(fd int, question, answer []byte) (int, error) {
	to := unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&question[0])), uintptr(len(question)), 0,
		uintptr(unsafe.Pointer(&to)), unix.SizeofSockaddrNetlink)
	if errno != 0 {
		return 0, errno
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func lookupRequest(local, remote netip.AddrPort) []byte {
	ne, be := binary.NativeEndian, binary.BigEndian
	family := byte(unix.AF_INET)
	if local.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := ne.AppendUint32(make([]byte, 0, requestSize), requestSize)
	b = ne.AppendUint16(b, sockDiagByFamily)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, port
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = ne.AppendUint32(b, ^uint32(0)) // states
	b = be.AppendUint16(b, local.Port())
	b = be.AppendUint16(b, remote.Port())
	for _, a := range []netip.Addr{local.Addr(), remote.Addr()} {
		var ip [16]byte
		copy(ip[:], a.AsSlice())
		b = append(b, ip[:]...)
	}
	b = ne.AppendUint32(b, 0) // any interface
	return ne.AppendUint64(b, anyCookie)
}

func parseLookup(b []byte) (row, error) {
	ne := binary.NativeEndian
	if len(b) >= unix.NLMSG_HDRLEN+4 && ne.Uint16(b[4:]) == unix.NLMSG_ERROR {
		if no := -int32(ne.Uint32(b[unix.NLMSG_HDRLEN:])); no != 0 {
			return row{}, fmt.Errorf("looking up socket: %w", unix.Errno(no))
		}
	}
	if len(b) < answerSize || ne.Uint16(b[4:]) != sockDiagByFamily {
		return row{}, fmt.Errorf("looking up socket: malformed answer of %d bytes", len(b))
	}
	m := b[unix.NLMSG_HDRLEN:]
	return row{state: m[1], inode: uint64(ne.Uint32(m[68:]))}, nil
}

package endpoint

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// sameUser tells whether the other end of a connection is this user's: a port
// of 127.0.0.1 is everybody's, and who has a debugger runs what he likes. Into the
// directory of a socket nobody else comes.
func sameUser(c net.Conn) bool {
	theirs, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true
	}
	ours := c.LocalAddr().(*net.TCPAddr)
	// A socket of the family for both has its addresses mapped (Java's have).
	for path, mapped := range map[string]bool{"/proc/net/tcp": false, "/proc/net/tcp6": true} {
		if uid, ok := owner(path, address(theirs.AddrPort(), mapped), address(ours.AddrPort(), mapped)); ok {
			return uid == os.Getuid()
		}
	}
	return false // gone
}

// owner finds the user of the socket from local to remote.
func owner(path, local, remote string) (uid int, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid …
		fields := strings.Fields(scan.Text())
		if len(fields) > 7 && fields[1] == local && fields[2] == remote {
			uid, err := strconv.Atoi(fields[7])
			return uid, err == nil
		}
	}
	return 0, false
}

// address is a as proc_pid_net(5) writes it: words of the machine's byte order.
func address(a netip.AddrPort, mapped bool) string {
	b := a.Addr().Unmap().AsSlice()
	if mapped {
		long := netip.AddrFrom4([4]byte(b)).As16()
		long[10], long[11] = 0xff, 0xff
		b = long[:]
	}
	var s strings.Builder
	for ; len(b) >= 4; b = b[4:] {
		fmt.Fprintf(&s, "%08X", binary.NativeEndian.Uint32(b))
	}
	fmt.Fprintf(&s, ":%04X", a.Port())
	return s.String()
}

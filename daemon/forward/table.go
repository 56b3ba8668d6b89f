package forward

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// States of TCP sockets in the kernel's tables.
const (
	stateSynSent = 0x02
	stateListen  = 0x0a
)

// A row is one socket of the kernel's tables /proc/net/{tcp,udp}{,6}.
type row struct {
	local, remote netip.AddrPort // an IPv4-mapped address is the IPv4 one
	state         uint8
	inode         uint64
}

// scan calls see for the rows of the table and its IPv6 twin until it returns
// false, which ends the one table.
func scan(table string, see func(row) (more bool)) error {
	for _, path := range []string{"/proc/net/" + table, "/proc/net/" + table + "6"} {
		if err := scanFile(path, see); err != nil && !os.IsNotExist(err) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

func scanFile(path string, see func(row) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// The first line, the headings, is none.
		if r, ok := parseRow(lines.Bytes()); ok && !see(r) {
			return nil
		}
	}
	return lines.Err()
}

// parseRow reads "sl local remote st tx:rx tr:when retrnsmt uid timeout inode …".
func parseRow(line []byte) (r row, ok bool) {
	var column [10][]byte
	n := 0
	for field := range bytes.FieldsSeq(line) {
		if column[n] = field; n == len(column)-1 {
			break
		}
		n++
	}
	var okRemote bool
	r.local, ok = parseAddr(column[1])
	r.remote, okRemote = parseAddr(column[2])
	state, err := strconv.ParseUint(string(column[3]), 16, 8)
	inode, err2 := strconv.ParseUint(string(column[9]), 10, 64)
	r.state, r.inode = uint8(state), inode
	return r, ok && okRemote && err == nil && err2 == nil
}

// parseAddr reads an address as 32-bit words of this machine's byte order.
func parseAddr(text []byte) (netip.AddrPort, bool) {
	host, port, _ := bytes.Cut(text, []byte(":"))
	var ip [16]byte
	if len(host) > 2*len(ip) {
		return netip.AddrPort{}, false
	}
	n, err := hex.Decode(ip[:], host)
	number, err2 := strconv.ParseUint(string(port), 16, 16)
	if err != nil || err2 != nil || n%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := ip[:n]; len(word) > 0; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(ip[:n])
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), ok
}

// listens tells whether one of the sockets of the given inodes still listens
// at addr.
func listens(addr netip.AddrPort, inodes []uint64) bool {
	r, err := lookup(addr, netip.AddrPortFrom(unspecified(addr), 0))
	if err == nil && r.state == stateListen && slices.Contains(inodes, r.inode) {
		return true
	}
	if errors.Is(err, unix.ENOENT) {
		return false
	}
	// Of several that share the port (SO_REUSEPORT) the kernel names but one.
	found := false
	err = scan("tcp", func(r row) bool {
		found = found || r.state == stateListen && r.local == addr && slices.Contains(inodes, r.inode)
		return !found && r.state == stateListen // those that listen come first
	})
	return found && err == nil
}

// anyListens tells whether somebody listens at addr.
func anyListens(addr netip.AddrPort) bool {
	r, err := lookup(addr, netip.AddrPortFrom(unspecified(addr), 0))
	return err == nil && r.state == stateListen
}

// connecting tells whether a socket with the given source is in SYN_SENT towards to.
func connecting(source, to netip.AddrPort) bool {
	r, err := lookup(source, to)
	return err == nil && r.state == stateSynSent
}

func unspecified(a netip.AddrPort) netip.Addr {
	if a.Addr().Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

package capture

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCP's flags.
const (
	flagFIN uint8 = 1 << iota
	flagSYN
	flagRST
	_
	flagACK
)

// A Segment is one of TCP's.
type Segment struct {
	From, To netip.AddrPort
	Seq      uint32
	Payload  []byte
	Outgoing bool // it left this namespace

	flags   uint8
	options []byte
}

// Begins: the segment asks for a connection.
func (s Segment) Begins() bool { return s.flags&(flagSYN|flagACK) == flagSYN }

// Ends: nothing comes after the segment's payload.
func (s Segment) Ends() bool { return s.flags&flagFIN != 0 }

// Resets: the connection is no more.
func (s Segment) Resets() bool { return s.flags&flagRST != 0 }

// Options of TCP (RFC 9293, RFC 8684).
const (
	optionEnd   = 0
	optionNoOp  = 1
	optionMPTCP = 30

	mptcpJoin = 1
)

// Multipath reports whether a segment that begins a connection makes one of
// MPTCP (whose client may spread its bytes over several), or joins such a one.
func (s Segment) Multipath() (makes, joins bool) {
	for o := s.options; len(o) > 0 && o[0] != optionEnd; {
		if o[0] == optionNoOp {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			break
		}
		if o[0] == optionMPTCP && o[1] > 2 {
			joins = o[2]>>4 == mptcpJoin
			return !joins, joins
		}
		o = o[o[1]:]
	}
	return false, false
}

// parse takes a segment out of an IP packet. Lengths of 0 are those of packets
// longer than 64 KiB, which only exist within a host.
func parse(b []byte) (s Segment, ok bool) {
	if len(b) == 0 {
		return s, false
	}
	switch b[0] >> 4 {
	case 4:
		return parseV4(b)
	case 6:
		return parseV6(b)
	}
	return s, false
}

func parseV4(b []byte) (s Segment, ok bool) {
	if len(b) < 20 || b[v4Protocol] != unix.IPPROTO_TCP {
		return s, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = len(b)
	}
	fragments := binary.BigEndian.Uint16(b[v4Fragment:])&0x3fff != 0 // more to come, or not the first
	if header < 20 || total < header || total > len(b) || fragments {
		return s, false
	}
	return parseTCP(b[header:total], netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])))
}

func parseV6(b []byte) (s Segment, ok bool) {
	if len(b) < v6Header || b[v6Next] != unix.IPPROTO_TCP {
		return s, false
	}
	end := v6Header + int(binary.BigEndian.Uint16(b[4:]))
	if end == v6Header {
		end = len(b)
	}
	if end > len(b) {
		return s, false
	}
	return parseTCP(b[v6Header:end], netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])))
}

func parseTCP(b []byte, from, to netip.Addr) (s Segment, ok bool) {
	if len(b) < 20 {
		return s, false
	}
	header := int(b[12]>>4) * 4
	if header < 20 || header > len(b) {
		return s, false
	}
	return Segment{
		From:    netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[tcpSource:])),
		To:      netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[tcpDest:])),
		Seq:     binary.BigEndian.Uint32(b[4:]),
		Payload: b[header:],
		flags:   b[tcpFlags],
		options: b[20:header],
	}, true
}

package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	conntrackGet = 1

	attrTupleOrig  = 1
	attrStatus     = 3
	attrMark       = 8
	attrTupleIP    = 1
	attrTupleProto = 2
	attrV4Source   = 1 // destination one more
	attrV6Source   = 3
	attrProtoNum   = 1
	attrPortSource = 2
	attrPortDest   = 3

	statusTranslated = 1 << 5 // of the destination
)

// translated tells whether the pod's namespace has a connection go elsewhere
// than it was sent to, as a mesh does that leads it to its sidecar. The kernel
// keeps that in mind for a while after the connection's end.
func translated(client, pod netip.AddrPort) (bool, error) {
	family, source := byte(unix.AF_INET), uint16(attrV4Source)
	if client.Addr().Is6() {
		family, source = unix.AF_INET6, attrV6Source
	}
	q := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|conntrackGet, unix.NLM_F_ACK) // which ends the answer
	q.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|attrTupleOrig, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|attrTupleIP, nil)
	ip.AddRtAttr(int(source), client.Addr().AsSlice())
	ip.AddRtAttr(int(source)+1, pod.Addr().AsSlice())
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|attrTupleProto, nil)
	proto.AddRtAttr(attrProtoNum, []byte{unix.IPPROTO_TCP})
	proto.AddRtAttr(attrPortSource, binary.BigEndian.AppendUint16(nil, client.Port()))
	proto.AddRtAttr(attrPortDest, binary.BigEndian.AppendUint16(nil, pod.Port()))
	q.AddData(tuple)
	answers, err := q.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil // nobody tracks connections, or it is over for long
	}
	if err != nil {
		return false, fmt.Errorf("asking where the connection from %v to %v goes: %w", client, pod, err)
	}
	for _, b := range answers {
		if len(b) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(b[nl.SizeofNfgenmsg:])
		if err != nil {
			return false, fmt.Errorf("reading where the connection from %v to %v goes: %w", client, pod, err)
		}
		var status, mark uint32
		for _, a := range attrs {
			switch {
			case len(a.Value) != 4:
			case a.Attr.Type == attrStatus:
				status = binary.BigEndian.Uint32(a.Value)
			case a.Attr.Type == attrMark:
				mark = binary.BigEndian.Uint32(a.Value)
			}
		}
		return status&statusTranslated != 0 && mark != ownMark, nil // ownMark: to us (translation.go)
	}
	return false, nil
}

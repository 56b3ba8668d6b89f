package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/table"
)

// translation redirects by REDIRECT, for kernels that have neither sk_lookup nor
// TPROXY: a connection's destination is translated when it begins, and the kernel
// keeps that in mind for its packets. It is the last choice: rules of the namespace
// and its mirrors see what was translated; and where the agent is killed, a client
// whose connection it had may hear nothing of that, as nobody translates its end.
type translation struct {
	doors
	portSet
	// kept keeps the kernel translating what has begun, when the rules are gone.
	kept *table.Table
}

func newTranslation() (redirect, error) {
	ports, err := newPortSet()
	if err != nil {
		return nil, err
	}
	r := &translation{portSet: ports}
	if r.kept, err = table.Open(fmt.Sprintf("mirrord-kept-%d", unix.Getpid())); err != nil {
		return nil, errors.Join(err, r.table.Close())
	}
	// The tables' sockets before those of the listeners: as for newLookup. These are
	// where what comes from outside is translated to: on the interface that it came by.
	if err := errors.Join(r.Listen(everywhere, nil), r.redirect()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// redirect makes the rules: for what comes from outside, and from the namespace itself.
func (r *translation) redirect() error {
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookPrerouting, "own": nftables.ChainHookOutput} {
		chain := func(t *table.Table) *nftables.Chain {
			return t.AddChain(&nftables.Chain{
				// Later than a mesh's (-100): which of the two comes first, has the connection.
				Name: name, Table: t.Table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityRef(-90),
			})
		}
		redirect := chain(r.table)
		for _, l := range r.listeners {
			to := addrOf(l.Addr())
			const flags, syn, synAckFinRst = 13, 0x02, 0x17 // of the TCP header (RFC 9293, 3.1)
			r.table.AddRule(&nftables.Rule{Table: r.table.Table, Chain: redirect, Exprs: append(r.wanted(familyOf(to)),
				// Else what began before the kernel tracked connections seems new.
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synAckFinRst}, Xor: []byte{0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
				&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(ownMark)},
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
				&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
				&expr.Redir{RegisterProtoMin: 1},
			)})
		}
		// An empty chain is not enough for the kernel, one that translates nothing is.
		r.kept.AddRule(&nftables.Rule{Table: r.kept.Table, Chain: chain(r.kept), Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(ownMark)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Redir{},
		}})
	}
	if err := errors.Join(r.table.Flush(), r.kept.Flush()); err != nil {
		return fmt.Errorf("making REDIRECT rules: %w (they need CONFIG_NFT_REDIR, CONFIG_NFT_NAT and CONFIG_NF_CONNTRACK_MARK)", err)
	}
	return nil
}

func (*translation) Name() string { return REDIRECT }

// Asked is what the kernel translated: SO_ORIGINAL_DST of linux/netfilter_ipv4.h and
// IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
func (*translation) Asked(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	four := addrOf(c.LocalAddr()).Addr().Is4()
	ctl := raw.Control(func(fd uintptr) {
		if four {
			var a *unix.IPv6Mreq // as long as the sockaddr_in that it is
			if a, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.Multiaddr[4:8])), binary.BigEndian.Uint16(a.Multiaddr[2:]))
			}
			return
		}
		var a *unix.IPv6MTUInfo // begins with a sockaddr_in6
		if a, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
			port := binary.NativeEndian.AppendUint16(nil, a.Addr.Port)
			to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr.Addr), binary.BigEndian.Uint16(port))
		}
	})
	return to, errors.Join(ctl, err)
}

// Owns also where one of them is reached by an address of the pod.
func (r *translation) Owns(addr netip.AddrPort) bool {
	for _, l := range r.listeners {
		if addrOf(l.Addr()).Port() == addr.Port() {
			return true
		}
	}
	return false
}

func (r *translation) Detach() error {
	err := r.table.Close()
	r.doors.Close()
	return err
}

func (r *translation) Close() error { return errors.Join(r.Detach(), r.kept.Close()) }

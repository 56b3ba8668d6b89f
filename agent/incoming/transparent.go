package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/table"
)

// ownMark is on packets of our own connections to the pod's container.
const ownMark = 0x6d697264

// transparent redirects by TPROXY, for kernels without sk_lookup and agents
// without the capability for it: a rule says which socket a packet is for. The
// packets of established connections go their own way.
type transparent struct {
	doors
	table *table.Table
	ports *nftables.Set
	held  map[uint16]bool // whether it is in ports; one that is suspended is not
}

func newTransparent() (redirect, error) {
	t, err := table.Open(fmt.Sprintf("mirrord-%d", unix.Getpid()))
	if err != nil {
		return nil, err
	}
	r := &transparent{table: t, held: map[uint16]bool{}}
	// The table's socket before those of the listeners: as for newLookup.
	if err := errors.Join(r.Listen(asTransparent), r.redirect()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// asTransparent lets a socket have the addresses of others.
func asTransparent(network, _ string, raw syscall.RawConn) error {
	var err error
	ctl := raw.Control(func(fd uintptr) {
		if network == "tcp6" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		}
	})
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("making listener transparent: %w (it needs CAP_NET_ADMIN)", err)
	}
	return nil
}

// redirect makes the rules: one for each listener.
func (r *transparent) redirect() error {
	r.ports = &nftables.Set{Table: r.table.Table, Name: "ports", KeyType: nftables.TypeInetService}
	if err := r.table.AddSet(r.ports, nil); err != nil {
		return err
	}
	chain := r.table.AddChain(&nftables.Chain{
		Name: "redirect", Table: r.table.Table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting,
		// Later than address translation (-100), for ports as the pod has them.
		Priority: nftables.ChainPriorityRef(-90),
	})
	for _, l := range r.listeners {
		to := addrOf(l.Addr())
		family := byte(unix.NFPROTO_IPV4)
		if to.Addr().Is6() {
			family = unix.NFPROTO_IPV6
		}
		r.table.AddRule(&nftables.Rule{Table: r.table.Table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(ownMark)},
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			// Not what the namespace passes on to others.
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: r.ports.Name, SetID: r.ports.ID},
			&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
			&expr.TProxy{Family: family, RegAddr: 1, RegPort: 2},
		}})
	}
	if err := r.table.Flush(); err != nil {
		return fmt.Errorf("making TPROXY rules: %w (they need CONFIG_NFT_TPROXY and CONFIG_NFT_FIB_INET)", err)
	}
	return nil
}

func (*transparent) Name() string { return TPROXY }

func (r *transparent) Add(port uint16) error {
	in, known := r.held[port]
	if in {
		return nil
	}
	if !known && len(r.held) == maxPorts {
		return fmt.Errorf("redirecting port %d: more than %d ports: %w", port, maxPorts, unix.E2BIG)
	}
	if err := r.change(r.table.SetAddElements, port); err != nil {
		return fmt.Errorf("redirecting port %d: %w", port, err)
	}
	r.held[port] = true
	return nil
}

func (r *transparent) Suspend(port uint16) error {
	if !r.held[port] {
		return nil
	}
	if err := r.change(r.table.SetDeleteElements, port); err != nil {
		return fmt.Errorf("suspending redirect of port %d: %w", port, err)
	}
	r.held[port] = false
	return nil
}

func (r *transparent) Remove(port uint16) error {
	err := r.Suspend(port)
	delete(r.held, port)
	return err
}

// change adds the port to the set, or deletes it.
func (r *transparent) change(how func(*nftables.Set, []nftables.SetElement) error, port uint16) error {
	if err := how(r.ports, []nftables.SetElement{{Key: binary.BigEndian.AppendUint16(nil, port)}}); err != nil {
		return err
	}
	return r.table.Flush()
}

func (r *transparent) Exempt(fd int, from netip.AddrPort) (undo func(), err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, ownMark); err != nil {
		return func() {}, fmt.Errorf("exempting %v from the redirect: %w", from, err)
	}
	return func() {}, nil
}

func (r *transparent) Detach() error {
	err := r.table.Close()
	r.doors.Close()
	return err
}

func (r *transparent) Close() error { return r.Detach() }

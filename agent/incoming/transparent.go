package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// transparent redirects by TPROXY, for kernels without sk_lookup and agents
// without the capability for it: a rule says which socket a packet is for. The
// packets of established connections go their own way.
type transparent struct {
	doors
	portSet
}

func newTransparent() (redirect, error) {
	ports, err := newPortSet()
	if err != nil {
		return nil, err
	}
	r := &transparent{portSet: ports}
	// The table's socket before those of the listeners: as for newLookup.
	if err := errors.Join(r.Listen(onLoopback, asTransparent), r.redirect()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// asTransparent lets a socket have the addresses of others.
func asTransparent(network, _ string, raw syscall.RawConn) error {
	var err error
	ctl := raw.Control(func(fd uintptr) { err = setTransparent(int(fd), network == "tcp6") })
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("making listener transparent: %w (it needs CAP_NET_ADMIN)", err)
	}
	return nil
}

func setTransparent(fd int, six bool) error {
	if six {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}

// redirect makes the rules: one for each listener.
func (r *transparent) redirect() error {
	chain := r.table.AddChain(&nftables.Chain{
		Name: "redirect", Table: r.table.Table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting,
		// Later than address translation (-100), for ports as the pod has them.
		Priority: nftables.ChainPriorityRef(-90),
	})
	for _, l := range r.listeners {
		to := addrOf(l.Addr())
		family := familyOf(to)
		r.table.AddRule(&nftables.Rule{Table: r.table.Table, Chain: chain, Exprs: append(r.wanted(family),
			&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
			&expr.TProxy{Family: family, RegAddr: 1, RegPort: 2},
		)})
	}
	if err := r.table.Flush(); err != nil {
		return fmt.Errorf("making TPROXY rules: %w (they need CONFIG_NFT_TPROXY and CONFIG_NFT_FIB_INET)", err)
	}
	return nil
}

func (*transparent) Name() string { return TPROXY }

func (r *transparent) Detach() error {
	err := r.table.Close()
	r.doors.Close()
	return err
}

func (r *transparent) Close() error { return r.Detach() }

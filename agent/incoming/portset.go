package incoming

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/table"
)

// ownMark is on packets of our own sockets: of connections to the pod's container, and
// of those with its clients.
const ownMark = 0x6d697264

// A portSet is the ports of a redirect by rules.
type portSet struct {
	table *table.Table
	ports *nftables.Set
	held  map[uint16]bool // whether it is in ports; one that is suspended is not
}

func newPortSet() (portSet, error) {
	t, err := table.Open(fmt.Sprintf("mirrord-%d", unix.Getpid()))
	if err != nil {
		return portSet{}, err
	}
	s := portSet{table: t, held: map[uint16]bool{}}
	s.ports = &nftables.Set{Table: t.Table, Name: "ports", KeyType: nftables.TypeInetService}
	return s, t.AddSet(s.ports, nil)
}

func familyOf(a netip.AddrPort) byte {
	if a.Addr().Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// notOwn is how a rule begins that is not about packets of our own sockets.
func notOwn() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(ownMark)},
	}
}

// wanted is how a rule begins that is about packets of a family to the ports, but
// not our own.
func (s *portSet) wanted(family byte) []expr.Any {
	return append(notOwn(),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		// Not what the namespace passes on to others.
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: s.ports.Name, SetID: s.ports.ID},
	)
}

func (s *portSet) Add(port uint16) error {
	in, known := s.held[port]
	if in {
		return nil
	}
	if !known && len(s.held) == maxPorts {
		return fmt.Errorf("redirecting port %d: more than %d ports: %w", port, maxPorts, unix.E2BIG)
	}
	if err := s.change(s.table.SetAddElements, port); err != nil {
		return fmt.Errorf("redirecting port %d: %w", port, err)
	}
	s.held[port] = true
	return nil
}

func (s *portSet) Suspend(port uint16) error {
	if !s.held[port] {
		return nil
	}
	if err := s.change(s.table.SetDeleteElements, port); err != nil {
		return fmt.Errorf("suspending redirect of port %d: %w", port, err)
	}
	s.held[port] = false
	return nil
}

func (s *portSet) Remove(port uint16) error {
	err := s.Suspend(port)
	delete(s.held, port)
	return err
}

// change adds the port to the set, or deletes it.
func (s *portSet) change(how func(*nftables.Set, []nftables.SetElement) error, port uint16) error {
	if err := how(s.ports, []nftables.SetElement{{Key: binary.BigEndian.AppendUint16(nil, port)}}); err != nil {
		return err
	}
	return s.table.Flush()
}

func (*portSet) Exempt(fd int, from netip.AddrPort) (undo func(), err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, ownMark); err != nil {
		return func() {}, fmt.Errorf("exempting %v from the redirect: %w", from, err)
	}
	return func() {}, nil
}

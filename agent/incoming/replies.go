package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/table"
)

// Ports that we connect from as a client: such as hardly any client has itself,
// for what the pod replies there comes to us.
const (
	firstGuise = 10_000
	lastGuise  = 29_999
	guiseTries = 100
	guiseStock = 32 // that a client's next connections have, for a change of the set is dear
	// guiseRest is how long a port's replies come here after the connection:
	// its last packets are no business of the client's.
	guiseRest = 5 * time.Second
)

const (
	rulePriority = 10_000
	maxAgents    = 16 // of one namespace that have replies
	loopback     = 1  // the interface, of every namespace
)

// replies lets our connections to the pod's container have their client's
// address, in one family. What the container replies would leave for the client:
// a set of clients' addresses and ports, and of the pod's ports, has it marked, and
// a rule routes to this machine what is marked.
//
// The rule and its route outlive a killed agent, and do nothing then. The next
// agent takes them away (forgetKilled).
type replies struct {
	family int          // netlink's
	lock   net.Listener // of the mark; its holder is the only one that has it
	mark   uint32
	table  *table.Table
	set    *nftables.Set

	mu     sync.Mutex
	used   map[netip.AddrPort]bool // guarded by mu
	guests map[guest]*guestPorts   // guarded by mu
	next   uint16                  // guarded by mu
	sweep  *time.Timer             // guarded by mu; nil: there are no guests
	ended  bool                    // guarded by mu
}

// A guest is a client of one of the pod's ports.
type guest struct {
	client netip.Addr
	port   uint16
}

// guestPorts are those of a client's ports that are in the set for it.
type guestPorts struct {
	all   map[uint16]bool
	ready []uint16 // not used yet
	over  []spent  // oldest first
	used  int
}

// newReplies prepares them for the family of an address.
func newReplies(of netip.Addr) (*replies, error) {
	if err := notOfNode(); err != nil {
		return nil, err
	}
	r := &replies{family: netlink.FAMILY_V4, used: map[netip.AddrPort]bool{}, guests: map[guest]*guestPorts{}, next: firstGuise}
	number := 4
	if of.Is6() {
		r.family, number = netlink.FAMILY_V6, 6
	}
	for slot := range uint32(maxAgents) {
		var err error
		if r.lock, err = lockMark(r.family, ownMark+1+slot); err == nil {
			r.mark = ownMark + 1 + slot
			break
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("claiming a mark for replies: %w", err)
		}
	}
	if r.lock == nil {
		return nil, fmt.Errorf("claiming a mark for replies: %d other agents have all: %w", maxAgents, unix.EADDRINUSE)
	}
	if err := errors.Join(r.markThem(number), r.route()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// lockMark makes a mark ours, or is EADDRINUSE where it is another agent's.
func lockMark(family int, mark uint32) (net.Listener, error) {
	return net.Listen("unix", fmt.Sprintf("@mirrord-mark%d/%d", family, mark))
}

// forgetKilled takes away the rules and routes of agents that were killed.
func forgetKilled() error {
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("looking for rules of killed agents: %w", err)
	}
	for _, rule := range rules {
		if rule.Priority != rulePriority || rule.Mark <= ownMark || rule.Mark > ownMark+maxAgents {
			continue
		}
		lock, err := lockMark(rule.Family, rule.Mark)
		if err != nil {
			continue // its agent lives
		}
		r := &replies{family: rule.Family, lock: lock, mark: rule.Mark}
		if err := r.Close(); err != nil {
			return fmt.Errorf("taking away what a killed agent left: %w", err)
		}
	}
	return nil
}

// markThem makes the set and the rule that marks.
func (r *replies) markThem(number int) error {
	var err error
	if r.table, err = table.Open(fmt.Sprintf("mirrord-replies%d-%d", number, unix.Getpid())); err != nil {
		return err
	}
	kind, proto, at, size := nftables.TypeIPAddr, byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if number == 6 {
		kind, proto, at, size = nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 24, 16
	}
	key, err := nftables.ConcatSetType(kind, nftables.TypeInetService, nftables.TypeInetService)
	if err != nil {
		return err
	}
	r.set = &nftables.Set{Table: r.table.Table, Name: "clients", KeyType: key, Concatenation: true}
	if err := r.table.AddSet(r.set, nil); err != nil {
		return err
	}
	chain := r.table.AddChain(&nftables.Chain{
		Name: "replies", Table: r.table.Table, Type: nftables.ChainTypeRoute, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	})
	const address = uint32(8) // registers of four bytes: the address's, then those of the client's port and the pod's
	r.table.AddRule(&nftables.Rule{Table: r.table.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size},
		&expr.Payload{DestRegister: address + size/4, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Payload{DestRegister: address + size/4 + 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Lookup{SourceRegister: address, SetName: r.set.Name, SetID: r.set.ID},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(r.mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}})
	if err := r.table.Flush(); err != nil {
		return fmt.Errorf("making rules for replies: %w", err)
	}
	return nil
}

// route has what is marked stay here.
func (r *replies) route() error {
	if err := netlink.RouteReplace(r.way()); err != nil {
		return fmt.Errorf("routing replies here: %w", err)
	}
	if err := netlink.RuleAdd(r.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding rule for replies: %w", err)
	}
	return nil
}

func (r *replies) way() *netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if r.family == netlink.FAMILY_V6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{LinkIndex: loopback, Table: int(r.mark), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Dst: all}
}

func (r *replies) rule() *netlink.Rule {
	rule := netlink.NewRule()
	mask := ^uint32(0)
	rule.Family, rule.Mark, rule.Mask, rule.Table, rule.Priority = r.family, r.mark, &mask, int(r.mark), rulePriority
	return rule
}

// Bind binds a socket to a port of a client's address. Until it is released,
// and for a while, what the pod sends there comes to the socket.
func (r *replies) Bind(fd int, client netip.Addr, pod netip.AddrPort) (from netip.AddrPort, err error) {
	if err := errors.Join(setTransparent(fd, client.Is6()), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)); err != nil {
		return from, fmt.Errorf("taking a client's address: %w", err)
	}
	g := guest{client, pod.Port()}
	r.mu.Lock()
	defer r.mu.Unlock()
	ports := r.guests[g]
	if ports == nil {
		ports = &guestPorts{all: map[uint16]bool{}}
		r.guests[g] = ports
	}
	if r.sweep == nil && !r.ended {
		r.sweep = time.AfterFunc(guiseRest, r.clean)
	}
	for range guiseTries {
		again := len(ports.over) > 0 && time.Since(ports.over[0].since) >= restTime
		switch {
		case again:
			from, ports.over = netip.AddrPortFrom(client, ports.over[0].port), ports.over[1:]
		case len(ports.ready) == 0:
			if err := r.stock(g, ports); err != nil {
				return from, fmt.Errorf("taking ports of address %v: %w", client, err)
			}
			fallthrough
		default:
			from, ports.ready = netip.AddrPortFrom(client, ports.ready[0]), ports.ready[1:]
		}
		taken := r.used[from]
		if !again && !taken {
			// Our request would end a connection that the client has from there.
			if taken, err = connected(pod, from); err != nil {
				return from, err
			}
		}
		if !taken {
			if err = bindSource(fd, from); err == nil {
				r.used[from] = true
				ports.used++
				return from, nil
			}
		}
		r.forget(g, ports, from.Port())
		if err != nil && err != unix.EADDRINUSE {
			return from, fmt.Errorf("taking address %v: %w", from, err)
		}
	}
	return from, fmt.Errorf("taking a port of address %v: %w", client, unix.EADDRINUSE)
}

// stock has the replies to some more of a guest's ports come here. The caller has mu.
func (r *replies) stock(g guest, ports *guestPorts) error {
	var more []uint16
	var elements []nftables.SetElement
	for range lastGuise - firstGuise {
		if !ports.all[r.next] {
			more = append(more, r.next)
			elements = append(elements, g.element(r.next))
		}
		if r.next++; r.next > lastGuise {
			r.next = firstGuise
		}
		if len(more) == guiseStock {
			break
		}
	}
	if len(more) == 0 {
		return unix.EADDRINUSE
	}
	if err := errors.Join(r.table.SetAddElements(r.set, elements), r.table.Flush()); err != nil {
		return err
	}
	for _, port := range more {
		ports.all[port] = true
	}
	ports.ready = more
	return nil
}

// element is what the set has of one of a guest's ports: each in whole registers.
func (g guest) element(port uint16) nftables.SetElement {
	key := append(binary.BigEndian.AppendUint16(g.client.AsSlice(), port), 0, 0)
	return nftables.SetElement{Key: append(binary.BigEndian.AppendUint16(key, g.port), 0, 0)}
}

// forget leaves some of a client's ports to the client. The caller has mu.
func (r *replies) forget(g guest, ports *guestPorts, which ...uint16) {
	var elements []nftables.SetElement
	for _, port := range which {
		delete(ports.all, port)
		elements = append(elements, g.element(port))
	}
	if len(elements) > 0 {
		_ = errors.Join(r.table.SetDeleteElements(r.set, elements), r.table.Flush())
	}
}

// Release says that the connection from there to the pod is closed.
func (r *replies) Release(from, pod netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.used, from)
	ports := r.guests[guest{from.Addr(), pod.Port()}]
	ports.used--
	ports.over = append(ports.over, spent{from.Port(), time.Now()})
}

// clean forgets the ports that have rested, and guests who are gone.
func (r *replies) clean() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	for g, ports := range r.guests {
		var rested []uint16
		for len(ports.over) > 0 && time.Since(ports.over[0].since) >= guiseRest {
			rested = append(rested, ports.over[0].port)
			ports.over = ports.over[1:]
		}
		if ports.used == 0 && len(ports.over) == 0 {
			rested = append(rested, ports.ready...)
			delete(r.guests, g)
		}
		r.forget(g, ports, rested...)
	}
	if r.sweep = nil; len(r.guests) > 0 {
		r.sweep = time.AfterFunc(restTime, r.clean)
	}
}

// Has tells whether a connection of ours comes from there.
func (r *replies) Has(from netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used[from]
}

// Close leaves all replies to their clients, and nothing in the namespace.
func (r *replies) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.sweep != nil {
		r.sweep.Stop()
	}
	var err error
	if r.table != nil {
		err = r.table.Close()
	}
	_ = netlink.RuleDel(r.rule())
	_ = netlink.RouteDel(r.way())
	return errors.Join(err, r.lock.Close())
}

// notOfNode is an error where the namespace is the node's, whose routing is no
// business of ours.
func notOfNode() error {
	node, err := os.Readlink("/proc/1/ns/net")
	if err != nil {
		return nil // a node's agent could
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err == nil && own == node {
		err = errOfNode
	}
	return err
}

var errOfNode = errors.New("the pod's network is the node's")

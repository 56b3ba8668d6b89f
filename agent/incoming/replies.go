package incoming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/table"
	"mirrord/protocol/socket"
)

// Ports that we connect from as a client: such as hardly any client has itself,
// for what the pod replies there comes to us.
const (
	firstGuise = 10_000
	lastGuise  = 29_999
	guiseTries = 100
	// guiseStock are for a client's next connections, for a change of the set is dear;
	// for its first ones there are a few, as many clients come once.
	firstStock, guiseStock = 4, 32
	// guiseRest is how long a port's replies come here after the connection:
	// its last packets are no business of the client's.
	guiseRest = 5 * time.Second
)

// turnedMark is on a reply whose addresses have changed places.
const turnedMark = ownMark + 1

// replies lets our connections to the pod's container have their client's
// address, in one family. What the container replies would leave for the client.
// Where a set has the client's address and port, and the pod's port, the packet's
// addresses change places: so it is routed to the pod itself. They change back
// when it comes in there, before anybody else has seen it:
//
//	pod ▶ client ─ set ─▶ client ▶ pod ─ lo ─▶ pod ▶ client ─▶ our socket
//
// No checksum minds the order of addresses.
type replies struct {
	table  *table.Table
	set    *nftables.Set
	finder *finder // guarded by mu

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
	t, err := table.Open(fmt.Sprintf("mirrord-replies%d-%d", of.BitLen(), unix.Getpid()))
	if err != nil {
		return nil, err
	}
	f, err := newFinder()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	r := &replies{table: t, finder: f, used: map[netip.AddrPort]bool{}, guests: map[guest]*guestPorts{}, next: firstGuise}
	if err := r.rules(of.Is4()); err != nil {
		return nil, errors.Join(fmt.Errorf("making rules for replies: %w", err), r.Close())
	}
	return r, nil
}

// rules makes the set, and the chains that turn a packet there and back.
func (r *replies) rules(four bool) error {
	kind, proto, source, size := nftables.TypeIPAddr, byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if !four {
		kind, proto, source, size = nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 8, 16
	}
	destination := source + size
	key, err := nftables.ConcatSetType(kind, nftables.TypeInetService, nftables.TypeInetService)
	if err != nil {
		return err
	}
	r.set = &nftables.Set{Table: r.table.Table, Name: "clients", KeyType: key, Concatenation: true}
	if err := r.table.AddSet(r.set, nil); err != nil {
		return err
	}
	meta := func(key expr.MetaKey, want []byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}}
	}
	mark := binaryutil.NativeEndian.PutUint32
	const first = 8 // register of four bytes
	second := first + size/4
	load := func(register uint32, base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: size}
	}
	// turn has addresses change places, and the mark tell.
	turn := func(to uint32) []expr.Any {
		return []expr.Any{
			load(first, expr.PayloadBaseNetworkHeader, destination, size),
			load(second, expr.PayloadBaseNetworkHeader, source, size),
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: 2 * size},
			&expr.Immediate{Register: 1, Data: mark(to)},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}
	}
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rule ...[]expr.Any) {
		c := r.table.AddChain(&nftables.Chain{Name: name, Table: r.table.Table, Type: kind, Hooknum: hook, Priority: priority})
		r.table.AddRule(&nftables.Rule{Table: r.table.Table, Chain: c, Exprs: slices.Concat(rule...)})
	}
	chain("there", nftables.ChainTypeRoute, nftables.ChainHookOutput, nftables.ChainPriorityLast,
		notOwn(),
		meta(expr.MetaKeyNFPROTO, []byte{proto}),
		meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}),
		[]expr.Any{
			load(first, expr.PayloadBaseNetworkHeader, destination, size),
			load(second, expr.PayloadBaseTransportHeader, 2, 2),
			load(second+1, expr.PayloadBaseTransportHeader, 0, 2),
			&expr.Lookup{SourceRegister: first, SetName: r.set.Name, SetID: r.set.ID},
		},
		turn(turnedMark))
	// Another agent of the namespace turns nothing back that has ownMark.
	chain("back", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityFirst,
		meta(expr.MetaKeyMARK, mark(turnedMark)),
		meta(expr.MetaKeyNFPROTO, []byte{proto}),
		turn(ownMark))
	return r.table.Flush()
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
			if err := r.stock(g, ports, pod); err != nil {
				return from, fmt.Errorf("taking ports of address %v: %w", client, err)
			}
			fallthrough
		default:
			from, ports.ready = netip.AddrPortFrom(client, ports.ready[0]), ports.ready[1:]
		}
		taken := r.used[from]
		if !again && !taken {
			// Our request would end a connection that the client has from there.
			if taken, err = r.finder.Has(pod, from); err != nil {
				return from, err
			}
		}
		if !taken {
			if err = socket.Bind(fd, from); err == nil {
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

// stock has the replies to some more of a guest's ports come here: to none that the
// client has used before. From now on it comes to our listeners first, whose own
// replies are left to it. The caller has mu.
func (r *replies) stock(g guest, ports *guestPorts, pod netip.AddrPort) error {
	var more []uint16
	var elements []nftables.SetElement
	known, size := len(ports.all) > 0, min(firstStock+len(ports.all), guiseStock)
	for range lastGuise - firstGuise {
		taken := ports.all[r.next]
		if !taken && !known {
			var err error
			if taken, err = r.finder.Has(pod, netip.AddrPortFrom(g.client, r.next)); err != nil {
				return err
			}
		}
		if !taken {
			more = append(more, r.next)
			elements = append(elements, g.element(r.next))
		}
		if r.next++; r.next > lastGuise {
			r.next = firstGuise
		}
		if len(more) == size {
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
	return errors.Join(r.table.Close(), r.finder.Close())
}

// notOfNode is an error where the namespace is the node's, whose packets are no
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

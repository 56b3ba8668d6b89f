package incoming

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownAddrs are the namespace's own addresses. Where it is the node's, packets
// pass through it that are other pods'.
type ownAddrs struct {
	mu    sync.Mutex
	known map[netip.Addr]bool // guarded by mu
	read  time.Time           // guarded by mu
}

// Has tells whether an address is one, or was at most addrsAge ago.
func (o *ownAddrs) Has(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[a] {
		return true
	}
	now := time.Now()
	if now.Sub(o.read) < addrsAge {
		return false
	}
	o.read, o.known = now, map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, n := range addrs {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			o.known[p.Addr()] = true
		}
	}
	return o.known[a]
}

const addrsAge = time.Second

package forward

import (
	"net/netip"
	"time"
)

// sweepOften forgets sockets and endpoints that are of no more use.
func (d *Datagrams) sweepOften() {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			return
		}
		d.mu.Lock()
		d.sweep()
		d.closeIdle(endpointIdle)
		d.mu.Unlock()
	}
}

// sweepNow sweeps unless it has just been done. d.mu is held.
func (d *Datagrams) sweepNow() bool {
	if time.Since(d.swept) < sweepPause {
		return false
	}
	d.sweep()
	return true
}

// makeRoom closes every endpoint that nobody uses now. d.mu is held.
func (d *Datagrams) makeRoom() bool {
	d.sweepNow()
	d.closeIdle(0)
	return len(d.endpoints) < maxEndpoints
}

// sweep takes away the sources whose sockets are gone. d.mu is held, so that
// none is added that the kernel's table has been read too early for.
func (d *Datagrams) sweep() {
	d.swept = time.Now()
	if len(d.endpoints) == 0 {
		return
	}
	alive := map[udpSocket]bool{}
	// The kernel misses one where another is closed while the table is read.
	for range 2 {
		err := scan("udp", func(r row) bool {
			alive[udpSocket{r.local, r.inode}] = true
			alive[udpSocket{r.local, 0}] = true
			return true
		})
		if err != nil {
			d.log.Warn("looking for sockets that are gone", "err", err)
			return
		}
	}
	for _, e := range d.endpoints {
		e.keep(func(s udpSocket) bool {
			return alive[s] || alive[s.at(netip.IPv4Unspecified())] || alive[s.at(netip.IPv6Unspecified())]
		})
	}
}

// A udpSocket is one of this machine's; inode 0: whichever has the address.
type udpSocket struct {
	addr  netip.AddrPort
	inode uint64
}

// at is the socket if it is bound to a.
func (s udpSocket) at(a netip.Addr) udpSocket {
	return udpSocket{netip.AddrPortFrom(a, s.addr.Port()), s.inode}
}

func (e *endpoint) keep(alive func(udpSocket) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for from, s := range e.sources {
		if !alive(udpSocket{from, s.inode}) {
			s.stop()
			delete(e.sources, from)
		}
	}
	switch {
	case len(e.sources) > 0:
		e.empty = time.Time{}
	case e.empty.IsZero():
		e.empty = time.Now()
	}
}

// closeIdle closes the endpoints without a source for so long. d.mu is held.
func (d *Datagrams) closeIdle(idle time.Duration) {
	for key, e := range d.endpoints {
		e.mu.Lock()
		unused := len(e.sources) == 0 && !e.empty.IsZero() && time.Since(e.empty) >= idle
		e.mu.Unlock()
		if unused {
			e.pc.Close()
			delete(d.endpoints, key)
		}
	}
}

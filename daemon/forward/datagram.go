package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"mirrord/protocol"
)

// Limits of the UDP endpoints of a session.
const (
	maxEndpoints = 256         // destinations
	maxSources   = 1024        // debuggees' sockets of one destination
	sourceIdle   = time.Minute // after so long without a datagram a source's stream ends
)

// DialDatagram opens a datagram stream to addr whose first datagram is given.
type DialDatagram func(ctx context.Context, addr netip.AddrPort, first []byte) (net.Conn, error)

// Datagrams holds a session's UDP endpoints: one loopback socket for each
// remote address and family, one stream for each of the debuggee's sockets.
//
// Goroutines: one reads each endpoint, one for each stream; Close waits for all.
type Datagrams struct {
	log    *slog.Logger
	dial   DialDatagram
	ctx    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint // guarded by mu
}

type endpointKey struct {
	dst netip.AddrPort
	v6  bool
}

// NewDatagrams makes a set with no endpoint.
func NewDatagrams(log *slog.Logger, dial DialDatagram) *Datagrams {
	ctx, cancel := context.WithCancel(context.Background())
	return &Datagrams{log: log, dial: dial, ctx: ctx, cancel: cancel, endpoints: map[endpointKey]*endpoint{}}
}

// Endpoint returns the loopback address that stands for dst, in the family of
// the socket that will use it.
func (d *Datagrams) Endpoint(dst netip.AddrPort, v6 bool) (netip.AddrPort, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return netip.AddrPort{}, net.ErrClosed
	}
	key := endpointKey{unmap(dst), v6}
	e := d.endpoints[key]
	if e == nil {
		if len(d.endpoints) == maxEndpoints {
			return netip.AddrPort{}, fmt.Errorf("opening endpoint for %v: already %d of them", dst, maxEndpoints)
		}
		ip := net.IPv4(127, 0, 0, 1)
		if v6 {
			ip = net.IPv6loopback
		}
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("opening endpoint for %v: %w", dst, err)
		}
		e = &endpoint{set: d, pc: pc, dst: key.dst, sources: map[netip.AddrPort]chan []byte{}}
		d.endpoints[key] = e
		d.wg.Go(e.read)
	}
	return e.pc.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

// Close ends all endpoints and streams.
func (d *Datagrams) Close() {
	d.cancel()
	d.mu.Lock()
	for _, e := range d.endpoints {
		e.pc.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

type endpoint struct {
	set *Datagrams
	pc  *net.UDPConn
	dst netip.AddrPort

	mu      sync.Mutex
	sources map[netip.AddrPort]chan []byte // guarded by mu
}

// read hands each datagram to its source's stream; like a network, it drops
// what a slow stream cannot take.
func (e *endpoint) read() {
	buf := make([]byte, protocol.MaxChunk)
	for {
		n, from, err := e.pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			if e.set.ctx.Err() != nil {
				return
			}
			continue // an ICMP error of an answer nobody waits for
		}
		b := append([]byte(nil), buf[:n]...)
		e.mu.Lock()
		queue := e.sources[from]
		if queue == nil && len(e.sources) < maxSources {
			queue = make(chan []byte, 64)
			e.sources[from] = queue
			e.set.wg.Go(func() { e.serve(from, queue) })
		}
		e.mu.Unlock()
		select {
		case queue <- b: // never, where queue is nil: too many sources
		default:
		}
	}
}

// serve is one source's stream, from its first datagram to a minute of silence.
func (e *endpoint) serve(from netip.AddrPort, queue chan []byte) {
	defer func() {
		e.mu.Lock()
		delete(e.sources, from)
		e.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(e.set.ctx)
	defer cancel()
	var first []byte
	select {
	case first = <-queue:
	case <-ctx.Done():
		return
	}
	stream, err := e.set.dial(ctx, e.dst, first)
	if err != nil {
		e.set.log.Info("datagram not sent", "addr", e.dst, "err", err)
		return
	}
	defer context.AfterFunc(ctx, func() {
		stream.Close()
		stream.SetDeadline(time.Unix(1, 0))
	})()
	defer stream.Close()
	// Either direction keeps the stream; the end of ctx is not to be undone.
	extend := func() bool {
		stream.SetReadDeadline(time.Now().Add(sourceIdle))
		if ctx.Err() == nil {
			return true
		}
		stream.SetReadDeadline(time.Unix(1, 0))
		return false
	}
	e.set.wg.Go(func() {
		for {
			select {
			case b := <-queue:
				if protocol.WriteDatagram(stream, b) != nil || !extend() {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	buf := make([]byte, protocol.MaxChunk)
	for extend() {
		n, err := protocol.ReadDatagram(stream, buf)
		if err != nil {
			return
		}
		_, _ = e.pc.WriteToUDPAddrPort(buf[:n], from) // a datagram may be lost
	}
}

package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Limits of the UDP endpoints of a session.
const (
	maxEndpoints = 256         // destinations
	maxSources   = 4096        // debuggees' sockets of one destination
	maxQueued    = 64          // datagrams of a source that wait for its stream
	sourceIdle   = time.Minute // after so long without a datagram a source's stream ends
	endpointIdle = time.Minute // after so long without a source an endpoint is closed
	sweepEach    = 10 * time.Second
	sweepPause   = time.Second // between sweeps for want of room
)

// DialDatagram opens a datagram stream to addr whose first datagram is given.
type DialDatagram func(ctx context.Context, addr netip.AddrPort, first []byte) (net.Conn, error)

// Datagrams holds a session's UDP endpoints: one loopback socket for each
// remote address and family, one stream for each of the debuggee's sockets
// that sends there. Only sockets that asked for an endpoint may use it, and
// they may as long as they exist.
//
// Goroutines: one reads each endpoint, two relay each stream, one looks for
// sockets that are gone; Close waits for all.
type Datagrams struct {
	log    *slog.Logger
	dial   DialDatagram
	ctx    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex                // lock order: mu, then endpoint.mu
	endpoints map[endpointKey]*endpoint // guarded by mu
	swept     time.Time                 // guarded by mu
}

type endpointKey struct {
	dst netip.AddrPort
	v6  bool
}

// NewDatagrams makes a set with no endpoint.
func NewDatagrams(log *slog.Logger, dial DialDatagram) *Datagrams {
	d := &Datagrams{log: log, dial: dial, endpoints: map[endpointKey]*endpoint{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wg.Go(d.sweepOften)
	return d
}

// Endpoint returns the loopback address that stands for dst for the debuggee's
// socket of the given loopback source and inode (0: not known). watch, unless
// it is nil, makes the Watch of each stream that the socket then needs.
func (d *Datagrams) Endpoint(dst, source netip.AddrPort, inode uint64, watch func() Watch) (netip.AddrPort, error) {
	dst, source = unmap(dst), unmap(source)
	if source.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("opening endpoint for %v: its socket is not bound: %w", dst, unix.EINVAL)
	}
	v6 := source.Addr().Is6()
	if source.Addr().IsUnspecified() { // it will send from
		source = netip.AddrPortFrom(loopback(v6), source.Port())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return netip.AddrPort{}, net.ErrClosed
	}
	key := endpointKey{dst, v6}
	e := d.endpoints[key]
	if e == nil {
		if len(d.endpoints) >= maxEndpoints && !d.makeRoom() {
			return netip.AddrPort{}, fmt.Errorf("opening endpoint for %v: already %d of them: %w", dst, maxEndpoints, unix.ENOBUFS)
		}
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: loopback(v6).AsSlice()})
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("opening endpoint for %v: %w", dst, err)
		}
		e = &endpoint{set: d, pc: pc, dst: dst, sources: map[netip.AddrPort]*user{}}
		d.endpoints[key] = e
		d.wg.Go(e.read)
	}
	if !e.admit(source, inode, watch) && (!d.sweepNow() || !e.admit(source, inode, watch)) {
		return netip.AddrPort{}, fmt.Errorf("using the endpoint for %v: already %d sockets do: %w", dst, maxSources, unix.ENOBUFS)
	}
	return e.pc.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

func loopback(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Close ends all endpoints and streams.
func (d *Datagrams) Close() {
	d.mu.Lock()
	d.cancel()
	for _, e := range d.endpoints {
		e.pc.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// An endpoint stands for one destination.
type endpoint struct {
	set *Datagrams
	pc  *net.UDPConn
	dst netip.AddrPort

	mu      sync.Mutex
	sources map[netip.AddrPort]*user // guarded by mu
	empty   time.Time                // guarded by mu; since when it has no source
}

// A user is one of the debuggee's sockets.
type user struct {
	inode uint64
	watch func() Watch       // may be nil
	queue chan []byte        // guarded by endpoint.mu; nil: no stream
	end   context.CancelFunc // guarded by endpoint.mu; of the stream
}

// admit lets a socket use the endpoint; false: too many do.
func (e *endpoint) admit(from netip.AddrPort, inode uint64, watch func() Watch) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sources[from]; s != nil {
		if s.inode == inode {
			return true
		}
		s.stop() // another socket's, of before
	} else if len(e.sources) >= maxSources {
		return false
	}
	e.sources[from] = &user{inode: inode, watch: watch}
	return true
}

func (s *user) stop() {
	if s.end != nil {
		s.end()
	}
}

// read hands each datagram to its source's stream; like a network, it drops
// what a slow stream cannot take, and what strangers send.
func (e *endpoint) read() {
	buf := make([]byte, protocol.MaxDatagram)
	for {
		n, from, err := e.pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an answer nobody waits for
		}
		if queue := e.queueOf(unmap(from)); queue != nil {
			select {
			case queue <- append([]byte(nil), buf[:n]...):
			default:
			}
		}
	}
}

// queueOf returns the queue of a source's stream, which it starts if need be;
// nil: a stranger's.
func (e *endpoint) queueOf(from netip.AddrPort) chan<- []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sources[from]
	if s == nil || e.set.ctx.Err() != nil {
		return nil
	}
	if s.queue == nil {
		ctx, end := context.WithCancel(e.set.ctx)
		queue := make(chan []byte, maxQueued)
		s.queue, s.end = queue, end
		e.set.wg.Go(func() {
			defer func() {
				end()
				e.mu.Lock()
				defer e.mu.Unlock()
				s.queue, s.end = nil, nil
			}()
			e.serve(ctx, from, queue, s.watch)
		})
	}
	return s.queue
}

// serve is one source's stream, from its first datagram to a minute of silence.
func (e *endpoint) serve(ctx context.Context, from netip.AddrPort, queue <-chan []byte, watch func() Watch) {
	var first []byte
	select {
	case first = <-queue:
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var w Watch = unwatched{}
	if watch != nil {
		w = watch()
	}
	w.Sends(first)
	stream, err := e.set.dial(ctx, e.dst, first)
	w.Answered(err)
	if err != nil {
		e.set.log.Info("datagram not sent", "addr", e.dst, "err", err)
		return
	}
	defer w.Ended(nil)
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
				w.Sends(b)
				if protocol.WriteDatagram(stream, b) != nil || !extend() {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	buf := make([]byte, protocol.MaxDatagram)
	for extend() {
		n, err := protocol.ReadDatagram(stream, buf)
		if err != nil {
			return
		}
		w.Receives(buf[:n])
		_, _ = e.pc.WriteToUDPAddrPort(buf[:n], from) // a datagram may be lost
	}
}

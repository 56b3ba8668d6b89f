package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/socket"
)

const (
	// A call of connect(2) on a socket that does not block is held so long for
	// the target's answer; an event loop stands still meanwhile.
	hold = 250 * time.Millisecond

	maxPending = 512 // of a session; each costs a descriptor

	crossTime = time.Second // for two SYNs on loopback to meet
)

// A pending endpoint keeps one debuggee's socket in SYN_SENT until the target
// has answered: its listener's socket filter drops every SYN.
//
// Success: we connect *to* the debuggee's socket from the endpoint's address.
// The SYNs cross (RFC 9293, 3.5, simultaneous open) and both are connected at
// once, not only when the debuggee's kernel sends its SYN again. Where that
// cannot be, the filter is taken away and the next SYN is accepted.
//
// Refusal: nobody listens any more, and the next SYN, after a second as a rule,
// is answered by RST.
type pending struct {
	l         *net.TCPListener
	addr      netip.AddrPort
	source    netip.AddrPort // the debuggee's socket
	since     time.Time
	multipath bool // an MPTCP socket does not know simultaneous opens
}

// An outcome is what the target has answered.
type outcome struct {
	stream net.Conn
	reply  protocol.ConnectReply
	err    error
}

// ConnectAsync is Connect for a socket that does not block: it answers in
// time, if need be with a pending endpoint. ctx is the connection's until it
// is open. multipath: the socket is an MPTCP one.
func (o *Outgoing) ConnectAsync(ctx context.Context, dst, source netip.AddrPort, multipath bool, w Watch) (Endpoint, error) {
	source, w = unmap(source), watching(w)
	dialled := make(chan outcome, 1)
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return Endpoint{}, net.ErrClosed
	}
	o.team.Add(1)
	o.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(o.ctx, cancel)
	go func() {
		var r outcome
		r.stream, r.reply, r.err = o.dial(ctx, dst)
		w.Answered(r.err)
		dialled <- r
	}()
	release := func() {
		stop()
		cancel()
		o.team.Done()
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case r := <-dialled:
		defer release()
		if r.err != nil {
			return Endpoint{}, r.err
		}
		addr, err := o.expect(source, r.stream, w)
		return Endpoint{Addr: addr, Local: r.reply.Local}, err
	case <-timer.C:
	}
	p, err := o.postpone(source)
	if err != nil {
		cancel()
		if r := <-dialled; r.err == nil {
			r.stream.Close()
			w.Ended(err)
		}
		release()
		return Endpoint{}, fmt.Errorf("connecting to %v in the background: %w", dst, err)
	}
	p.multipath = multipath
	go func() {
		defer release()
		r, wanted := p.wait(dialled, cancel)
		switch {
		case r.err == nil:
			o.complete(ctx, p, r.stream, w)
		case wanted:
			o.log.Info("connection refused late", "addr", dst, "err", r.err)
			o.refuse(p)
		default:
			p.l.Close()
			o.settled()
		}
	}()
	return Endpoint{Addr: p.addr, Pending: true}, nil
}

// lookEach is how often it is looked whether the debuggee still waits.
const lookEach = time.Second

// wait waits for the target's answer, and cancels the dial when the debuggee's
// socket is gone: then it is not wanted.
func (p *pending) wait(dialled <-chan outcome, cancel context.CancelFunc) (r outcome, wanted bool) {
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	wanted = true
	for {
		select {
		case r = <-dialled:
			return r, wanted
		case <-tick.C:
			if wanted && !connecting(p.source, p.addr) {
				wanted = false
				cancel()
			}
		}
	}
}

// postpone opens an endpoint that does not answer.
func (o *Outgoing) postpone(source netip.AddrPort) (*pending, error) {
	o.mu.Lock()
	full := o.pending >= maxPending
	if !full {
		o.pending++
	}
	o.mu.Unlock()
	if full {
		return nil, fmt.Errorf("already %d connections wait for their targets' answers: %w", maxPending, unix.ENOBUFS)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return err
			}
			return dropAll(fd)
		})
	}}
	lc.SetMultipathTCP(false)
	addr := "127.0.0.1:0"
	if source.Addr().Is6() {
		addr = "[::1]:0"
	}
	l, err := lc.Listen(o.ctx, "tcp", addr)
	if err != nil {
		o.settled()
		return nil, fmt.Errorf("opening endpoint: %w", err)
	}
	return &pending{l: l.(*net.TCPListener), addr: l.Addr().(*net.TCPAddr).AddrPort(), source: source, since: time.Now()}, nil
}

func (o *Outgoing) settled() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending--
}

// complete opens the debuggee's connection and relays it.
func (o *Outgoing) complete(ctx context.Context, p *pending, stream net.Conn, w Watch) {
	c, err := p.open(ctx)
	p.l.Close()
	o.settled()
	if err != nil {
		o.log.Debug("connection given up by the debuggee", "err", err)
		stream.Close()
		w.Ended(nil)
		return
	}
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		reset(c)
		stream.Close()
		w.Ended(net.ErrClosed)
		return
	}
	o.live[c] = stream
	o.mu.Unlock()
	doom(c)
	o.relay(c, stream, w)
}

func (p *pending) open(ctx context.Context) (*net.TCPConn, error) {
	raw, err := p.l.SyscallConn()
	if err == nil {
		err = onSocket(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	}
	if err != nil {
		return nil, fmt.Errorf("opening endpoint: %w", err)
	}
	// Only a socket that is connecting to this endpoint is the right one: its
	// address may have become somebody's listener.
	if !p.multipath && connecting(p.source, p.addr) {
		if c, err := p.cross(ctx); err == nil {
			return c, nil
		}
	}
	defer context.AfterFunc(ctx, func() { p.l.Close() })()
	p.l.SetDeadline(time.Now().Add(pairing))
	for {
		c, err := p.l.AcceptTCP()
		if err != nil {
			return nil, fmt.Errorf("accepting at endpoint: %w", err)
		}
		if c.RemoteAddr().(*net.TCPAddr).AddrPort() == p.source {
			return c, nil
		}
		c.Close()
	}
}

// cross connects from the endpoint's address to the debuggee's socket.
func (p *pending) cross(ctx context.Context) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(p.addr), Timeout: crossTime, Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", p.source.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// refuse lets the debuggee's next SYN find nobody. The port stays bound until
// that has come, or another's listener there could be who answers it: SYNs are
// repeated after twice the time each.
func (o *Outgoing) refuse(p *pending) {
	defer o.settled()
	keeper, err := bound(p.addr)
	if err == nil {
		defer unix.Close(keeper)
	}
	p.l.Close()
	select {
	case <-time.After(2*time.Since(p.since) + 2*time.Second):
	case <-o.ctx.Done():
	}
}

// bound is a socket that has addr and does nothing.
func bound(addr netip.AddrPort) (int, error) {
	fd, err := socket.Open(addr)
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err == nil {
		err = socket.Bind(fd, addr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// dropAll makes a socket deaf: no packet reaches it.
func dropAll(fd int) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // 0 bytes are kept
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &program[0]})
}

// onSocket runs f with the descriptor below a Go socket.
func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if outer := c.Control(func(fd uintptr) { err = f(int(fd)) }); outer != nil {
		return outer
	}
	return err
}
